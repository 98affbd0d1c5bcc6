"""Facts about broken, infinite and stale inputs."""

from __future__ import annotations

from airflow_mlops.core.counts import counted
from airflow_mlops.drift.findings import SchemaChange
from airflow_mlops.policy.checks import days
from airflow_mlops.policy.details.observation import Observation, stated
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.wording import duration_text, fitting, listed, name, share

_MAX_LISTED = 10
# If validation has quarantined at least this share of the rows of a window, a person should look at it.
_MANY_QUARANTINED = 0.1


def broken_inputs(findings: Findings) -> dict[str, str]:
    """Return a clause about each broken feature, such as ``is absent``, by name of the feature.

    The name of the feature is the subject of the clause. A feature is broken in these cases:

    - It is absent, or its type is incompatible with the type at training.
    - It is broken according to :mod:`airflow_mlops.drift.breakage`, and its drift is significant.
    """
    broken = {
        drift.column: drift.fault or ("has no values" if drift.missing == 1 else "has one value in all rows")
        for drift in findings.features
        if drift.broken and drift.drifted
    }
    return broken | {change.column: _change(change) for change in _incompatible(findings)}


def broken_features(findings: Findings) -> list[Observation]:
    """Return an observation about broken features, including features that are absent or changed their type."""
    broken = broken_inputs(findings)
    if not broken:
        return []
    clauses = [f"{column} {what}" for column, what in broken.items()]
    schema = len(_incompatible(findings)) == len(broken)
    subject = "Schema changed since training" if schema else "Broken inputs"
    headlines = [f"{subject}: {listed(clauses, shown)}" for shown in (3, 2, 1)]
    names = f"{subject}: {listed([name(column) for column in broken])}"
    return [Observation(fitting(*headlines, names), [f"{subject}: {listed(clauses, _MAX_LISTED)}."])]


def broken_others(findings: Findings) -> list[Observation]:
    """Return observations about broken scores and broken watched columns."""
    others = [*([findings.prediction] if findings.prediction else []), *findings.watched]
    broken = [drift for drift in others if drift.broken and drift.drifted]
    found = []
    for drift in broken:
        subject = "The score" if drift is findings.prediction else f"Watched column {name(drift.column)!r}"
        found.append(stated(f"{subject} {drift.fault or 'has no values, or one value in all rows'}"))
    return found


def infinite_values(findings: Findings) -> list[Observation]:
    """Return an observation about features with infinite values that the reference does not have.

    Drifted features are left out, because the drift is reported.
    """
    found = [drift for drift in findings.features if drift.infinite and not drift.drifted]
    if not found:
        return []
    if len(found) == 1:
        (drift,) = found
        return [
            stated(
                f"Feature {name(drift.column)} has infinite values in {counted(drift.infinite, 'row')} (none {drift.when})"
            )
        ]
    times = {drift.when for drift in found}
    when = times.pop() if len(times) == 1 else "in the reference"
    columns = [f"{name(drift.column)} ({counted(drift.infinite, 'row')})" for drift in found]
    headline, detail = (f"Infinite values (none {when}) in {listed(columns, shown)}" for shown in (3, _MAX_LISTED))
    return [Observation(headline, [f"{detail}."])]


def quarantined_rows(findings: Findings) -> list[Observation]:
    """Return an observation if validation has quarantined a large share of the rows, so that they were not scored.

    All other numbers of the report are about the remaining rows, which possibly do not represent the whole window.
    """
    lost, rows = findings.quarantined, findings.rows + findings.quarantined
    if not lost or lost < _MANY_QUARANTINED * rows:
        return []
    about = "About " if findings.quarantined_estimated else ""
    text = f"{about}{lost:,} of {counted(rows, 'row')} ({share(lost / rows, 0)}) failed validation and were not scored"
    return [stated(text)]


def staleness(findings: Findings) -> list[Observation]:
    """Return an observation if the newest row is older than ``max_staleness`` at the end of the window."""
    allowed, freshness = findings.policy.max_staleness, findings.freshness
    if allowed is None or freshness is None or freshness.behind_days is None or freshness.behind_days <= days(allowed):
        return []
    window = name(findings.window.label)
    age = f"{duration_text(freshness.behind_days)} older than the end of {window}"
    return [stated(f"The newest prediction is {age} (limit: {duration_text(days(allowed))})")]


def _incompatible(findings: Findings) -> list[SchemaChange]:
    """Return the schema changes of columns that were in the training data and cannot be compared any more.

    Such a column is absent, or its type is incompatible with the type at training.
    """
    return [change for change in findings.schema_changes if change.before is not None and not change.compared]


def _change(change: SchemaChange) -> str:
    return "is absent" if change.now is None else f"changed from {change.before} to {change.now}"
