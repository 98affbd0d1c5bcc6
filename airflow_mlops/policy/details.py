"""The facts behind a verdict, as sentences with numbers and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from airflow_mlops.drift.findings import Drift, SchemaChange
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.checks import days, is_worse, judged_performance, limit, missed_estimate
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import capitalized, counted, in_days, listed, metric_name, name, number, share


@dataclass(frozen=True)
class Observation:
    """Something that a verdict reports.

    :param headline: one short clause, without a full stop
    :param details: the same with all numbers, one sentence each
    """

    headline: str
    details: list[str] = field(default_factory=list)


def observations(findings: Findings) -> list[Observation]:
    """What deserves attention whatever is decided, the most urgent first."""
    window = name(findings.window.label)
    if not findings.rows:
        return [_stated(f"No predictions in {window}")]
    return [
        *_schema(findings),
        *_worse_estimate(findings),
        *_infinite_values(findings),
        *_staleness(findings),
        *_drift(findings),
        *_unjudged_performance(findings),
        *_few_rows(findings),
    ]


def change_of(performance: Performance, policy: Policy, estimated: bool = False) -> str:
    """How worse performance compares with the limit, as in ``ROC AUC fell to 0.598 (at least 0.662 was expected)``."""
    metric = metric_name(performance.metric)
    subject = f"Estimated {metric}" if estimated else capitalized(metric)
    verb = "fell" if performance.higher_is_better else "rose"
    return f"{subject} {verb} to {number(performance.value)} ({_bound(performance, policy)} was expected)"


def level_of(performance: Performance, policy: Policy, kind: str = "Realised") -> str:
    """The metric with its interval, its value at training, and the limit; one sentence.

    :param kind: ``Realised`` or ``Estimated``
    """
    facts = [f"{share(policy.confidence, 0)} interval {number(performance.low)} to {number(performance.high)}"]
    if performance.reference is not None:
        facts += [f"{number(performance.reference)} at training", f"{_bound(performance, policy)} expected"]
    return f"{kind} {metric_name(performance.metric)}: {number(performance.value)} ({', '.join(facts)})."


def reasons_for_worse_performance(findings: Findings) -> list[str]:
    """Broken columns, the comparison with the estimate, and the segment that contributes most."""
    return [*_broken_columns(findings), *_estimate(findings), *_largest_segment(findings)]


def broken_inputs(findings: Findings) -> list[str]:
    """Features without values, with a single value, missing, or of another type; they rule out retraining."""
    broken = [f"{drift.column} ({drift.note})" for drift in findings.features if drift.broken and drift.drifted]
    return [*broken, *map(str, _incompatible(findings))]


def against(drifts: Sequence[Drift]) -> str:
    """The common reference of ``drifts``, as in `` against 2012-04``; empty if it is training, or if they have several."""
    references = {drift.reference for drift in drifts}
    return f" against {references.pop()}" if len(references) == 1 and TRAINING not in references else ""


def _stated(headline: str) -> Observation:
    return Observation(headline, [f"{headline}."])


def _schema(findings: Findings) -> list[Observation]:
    changes = _incompatible(findings)
    if not changes:
        return []
    return [_stated(f"Schema changed since training: {listed([str(change) for change in changes])}")]


def _worse_estimate(findings: Findings) -> list[Observation]:
    estimated, policy = findings.estimated, findings.policy
    if findings.unmeasured is None or estimated is None or not is_worse(estimated, policy):
        return []
    return [Observation(change_of(estimated, policy, estimated=True), [level_of(estimated, policy, "Estimated")])]


def _infinite_values(findings: Findings) -> list[Observation]:
    columns = [
        f"{drift.column} ({counted(drift.infinite, 'row')})"
        for drift in findings.features
        if drift.infinite and not drift.drifted
    ]
    return [_stated(f"Infinite values, and none at training: {listed(columns)}")] if columns else []


def _staleness(findings: Findings) -> list[Observation]:
    allowed, freshness = findings.policy.max_staleness, findings.freshness
    if allowed is None or freshness is None or freshness.behind_days is None or freshness.behind_days <= days(allowed):
        return []
    window = name(findings.window.label)
    return [
        _stated(
            f"Newest row is {in_days(freshness.behind_days)} before the end of {window} ({in_days(days(allowed))} allowed)"
        )
    ]


def _drift(findings: Findings) -> list[Observation]:
    found = []
    features = [drift for drift in findings.features if drift.drifted]
    if features:
        found.append(_drifted_columns(features, "feature"))
    for part, noun in ((findings.prediction, "Predicted scores"), (findings.label, "Labels")):
        if part is not None and part.drifted:
            headline = f"{noun} drifted{against([part])} ({share(part.effect or 0)} of rows)"
            found.append(Observation(headline, [f"{headline}: {part.remark}." if part.remark else f"{headline}."]))
    together = findings.multivariate
    if together is not None and together.drifted:
        # Single features that leave their place change the joint distribution, too.
        also = " too" if features else ""
        headline = f"Joint distribution of the features drifted{also} ({share(together.effect or 0)} of rows)"
        found.append(_stated(headline))
    if watched := [drift for drift in findings.watched if drift.drifted]:
        found.append(_drifted_columns(watched, "watched column"))
    return found


def _drifted_columns(drifts: Sequence[Drift], noun: str) -> Observation:
    several = "up to " if len(drifts) > 1 else ""
    largest = share(max(drift.effect or 0 for drift in drifts))
    subject = f"{counted(len(drifts), noun)} drifted{against(drifts)} ({several}{largest} of rows)"
    remarks = [f"{drift.column} ({drift.remark})" if drift.remark else drift.column for drift in drifts]
    return Observation(
        f"{subject}: {listed([name(drift.column) for drift in drifts])}", [f"{subject}: {listed(remarks)}."]
    )


def _unjudged_performance(findings: Findings) -> list[Observation]:
    if findings.unmeasured is None:
        return []
    details = [f"Performance not judged: {findings.unmeasured}."]
    estimated, policy = findings.estimated, findings.policy
    if estimated is not None and estimated.reference is not None and not is_worse(estimated, policy):
        details.append(level_of(estimated, policy, "Estimated"))
    return [Observation(f"Performance not judged: {findings.unmeasured}", details)]


def _few_rows(findings: Findings) -> list[Observation]:
    least = findings.policy.min_rows
    if findings.rows >= least:
        return []
    return [_stated(f"Drift not measured: {counted(findings.rows, 'row')} ({least:,} needed)")]


def _broken_columns(findings: Findings) -> list[str]:
    columns = [*findings.features, *([findings.prediction] if findings.prediction else [])]
    odd = [f"{drift.column} ({drift.note})" for drift in columns if drift.note and drift.drifted]
    return [f"Check these columns first: {listed(odd)}."] if odd else []


def _estimate(findings: Findings) -> list[str]:
    """How the estimate, which depends on the inputs alone, explains worse performance."""
    estimated, realised = findings.estimated, judged_performance(findings)
    if estimated is None or realised is None:
        return []
    interval = f"Estimate from the scores alone: {number(estimated.low)} to {number(estimated.high)}"
    change = "drop" if realised.higher_is_better else "rise"
    if is_worse(estimated, findings.policy):
        return [f"{interval}; changed inputs explain at least part of the {change}."]
    if not missed_estimate(findings) or all(drift.effect is None for drift in findings.features):
        return []
    parts = [*findings.features, findings.prediction, findings.multivariate]
    if any(drift is not None and drift.drifted for drift in parts):
        return [f"{interval}; the inputs drifted, but this does not explain the {change}."]
    if any(drift.reference != TRAINING for drift in findings.features):
        # Slow drift since training does not show in a comparison with recent windows.
        return [f"{interval}; the inputs have not drifted{against(findings.features)}."]
    return [f"{interval}; the inputs have not drifted, which points to concept drift."]


def _largest_segment(findings: Findings) -> list[str]:
    loss = findings.loss
    if not findings.segments or loss is None:
        return []
    worst, increase = findings.segments[0], loss.value - loss.reference
    change = "drop" if METRICS[loss.metric].higher_is_better else "rise"
    part = ""
    if increase > 0:
        # Other segments may have improved.
        ratio = worst.contribution / increase
        part = f", {share(ratio, 0) if ratio <= 1 else 'more than all'} of the {change}"
    return [f"Largest {change}: {worst.name} ({share(worst.share, 0)} of rows{part})."]


def _incompatible(findings: Findings) -> list[SchemaChange]:
    """The columns of the training data that are gone or cannot be compared."""
    return [change for change in findings.schema_changes if change.before is not None and not change.compared]


def _bound(performance: Performance, policy: Policy) -> str:
    bound = limit(performance, policy)
    return f"{'at least' if performance.higher_is_better else 'at most'} {number(bound if bound is not None else 0)}"
