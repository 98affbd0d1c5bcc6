"""What was found, in words: the clauses that a verdict's reason is made of."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.performance.findings import LOSSES, Performance
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.judgement import days, is_worse, limit, unforeseen
from airflow_mlops.policy.spec import Policy

_NAMED = 3


def concerns(found: Findings) -> list[str]:
    """What is worth a look, whatever is decided; one clause each."""
    policy = found.policy
    if not found.rows:
        return [f"there are no predictions in {found.window.label}"]
    concerns = []
    if found.unmeasured is not None:
        concerns.append(f"realised performance is not judged: {found.unmeasured}")
        if found.estimated is not None and found.estimated.reference is not None:
            concerns.append(compared(found.estimated, policy, "estimated"))
    if found.rows < policy.min_rows:
        concerns.append(f"drift is not measured: {there_are(found.rows, 'row')}, {policy.min_rows:,} are needed")
    concerns += _about_rows(found)
    for part, what in ((found.prediction, "predicted scores"), (found.label, "labels")):
        if part is not None and part.drifted:
            odd = f"; {part.remark}" if part.remark else ""
            concerns.append(f"the {what} have drifted{against([part])} (by {part.effect:.1%} of the rows{odd})")
    if features := [drift for drift in found.features if drift.drifted]:
        concerns.append(_moved(features, "feature"))
    if found.multivariate is not None and found.multivariate.drifted:
        moved = f"the error of their reconstruction has moved by {found.multivariate.effect:.1%} of the rows"
        # Which it does as well where single features leave the place that the others would have them at.
        what = (
            "the features together have drifted too" if features else "the features no longer hang together as they did"
        )
        concerns.append(f"{what} ({moved})")
    if watched := [drift for drift in found.watched if drift.drifted]:
        concerns.append(_moved(watched, "watched column"))
    return concerns


def unusable(found: Findings) -> list[str]:
    """The features that the window has no values of, or only one value."""
    broken = [f"{drift.column} ({drift.note})" for drift in found.features if drift.broken and drift.drifted]
    return [*broken, *(str(item) for item in found.schema_changes if item.before is not None and not item.compared)]


def broken(found: Findings) -> list[str]:
    """What is wrong with the columns as such, which a model cannot be blamed for."""
    columns = [*found.features, *([found.prediction] if found.prediction else [])]
    odd = [f"{drift.column} ({drift.note})" for drift in columns if drift.note and drift.drifted]
    return [*([f"look at {listed(odd)} first"] if odd else []), *_about_rows(found)]


def cause(found: Findings) -> list[str]:
    """What the estimate, which knows the inputs alone, says about realised performance that is certainly worse."""
    estimated = found.estimated
    if estimated is None:
        return []
    expected = f"from the scores alone {estimated.low:.3f} to {estimated.high:.3f} was estimated"
    if is_worse(estimated, found.policy):
        return [f"the inputs explain it, at least in part: {expected}"]
    if not unforeseen(found) or all(drift.effect is None for drift in found.features):
        return []
    if any(drift is not None and drift.drifted for drift in [*found.features, found.prediction, found.multivariate]):
        return [f"the inputs have drifted, but that does not explain it: {expected}"]
    if any(drift.reference != TRAINING for drift in found.features):
        # They may have moved little by little since training.
        return [f"the inputs have not drifted{against(found.features)}, and {expected}"]
    return [f"concept drift: the inputs have not drifted, and {expected}"]


def where(found: Findings) -> list[str]:
    """The segment that performance fell in most."""
    if not found.segments or found.loss is None:
        return []
    worst, rise = found.segments[0], found.loss.value - found.loss.reference
    part = f", {worst.contribution / rise:.0%} of its rise" if rise > 0 else ""
    where = f"it fell most where {worst.name}: {worst.share:.0%} of the rows, mean {LOSSES[found.loss.metric]} "
    return [f"{where}{worst.reference.value:.3f} at training and {worst.loss.value:.3f} now{part}"]


def compared(performance: Performance, policy: Policy, how: str = "realised") -> str:
    """How ``performance`` compares with what it was at training, in one clause."""
    bound, reference = limit(performance, policy), performance.reference
    more = performance.higher_is_better
    value = f"{how} {performance.metric} {performance.value:.3f} ({performance.low:.3f} to {performance.high:.3f})"
    if is_worse(performance, policy):
        way, end = ("below", "least") if more else ("above", "most")
        return f"{value} is {way} {bound:.3f}, the {end} that the {reference:.3f} at training allows"
    return f"{value} holds: the {reference:.3f} at training allows {'down' if more else 'up'} to {bound:.3f}"


def there_are(count: int, what: str) -> str:
    """So many of them, as a clause."""
    return f"there is 1 {what}" if count == 1 else f"there are {count:,} {what}s"


def against(drifts: Sequence[Drift]) -> str:
    """What all of ``drifts`` were measured against, where that is not training."""
    references = {drift.reference for drift in drifts}
    return f" against {references.pop()}" if len(references) == 1 and TRAINING not in references else ""


def listed(names: Sequence[str]) -> str:
    """``names`` in a clause, the first few by name."""
    shown = list(names[:_NAMED])
    if more := len(names) - len(shown):
        shown.append(f"{more} more")
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def sentence(clauses: Sequence[str]) -> str:
    """The clauses as one sentence."""
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."


def _about_rows(found: Findings) -> list[str]:
    """What is wrong with the rows as such, whatever their distribution is."""
    concerns = []
    if changed := [item for item in found.schema_changes if item.before is not None and not item.compared]:
        concerns.append(f"the schema has changed since training: {listed([str(item) for item in changed])}")
    if infinite := [drift for drift in found.features if drift.infinite and not drift.drifted]:
        counts = [f"{drift.column} ({drift.infinite:,} row{'s' if drift.infinite > 1 else ''})" for drift in infinite]
        concerns.append(f"there are infinite values, and training had none: {listed(counts)}")
    most, fresh = found.policy.max_staleness, found.freshness
    if most is not None and fresh is not None and fresh.behind_days is not None and fresh.behind_days > days(most):
        newest = f"the newest row is {fresh.behind_days:.3g} days older than the end of {found.window.label}"
        concerns.append(f"{newest}, and {days(most):g} are allowed")
    return concerns


def _moved(drifts: Sequence[Drift], what: str) -> str:
    names = [f"{drift.column} ({drift.remark})" if drift.remark else drift.column for drift in drifts]
    several, largest = len(drifts) > 1, max(drift.effect or 0 for drift in drifts)
    return (
        f"{len(drifts)} {what}{'s have' if several else ' has'} drifted{against(drifts)}: {listed(names)} "
        f"(by {'up to ' if several else ''}{largest:.1%} of the rows)"
    )
