"""From what was found to what to do.

Retraining needs a reason that retraining can mend: no champion, realised performance that is certainly worse than at
training, or training data that is too old. Drift alone is worth a look and no more: features drift in every season
without saying much about the model. Estimated performance is worth a look too, and says why: it knows the inputs alone,
so that what the inputs do not explain is concept drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from airflow_mlops.specs.drift import Drift
from airflow_mlops.specs.metrics import METRICS
from airflow_mlops.specs.monitor import Findings, Performance, Verdict
from airflow_mlops.specs.policy import Policy
from airflow_mlops.specs.why import LOSSES

_NAMED = 3


def decide(found: Findings) -> Verdict:
    """The verdict on what was found."""
    champion, policy = found.champion, found.policy
    if champion is None:
        return Verdict(decision="retrain", reason=f"There is no champion: {found.model} has to be trained first.")
    judged = found.performance if found.unmeasured is None else None
    worse = judged is not None and is_worse(judged, policy)
    replaced = found.scored_by is not None and found.scored_by.version != champion.version
    if judged is not None and worse and not replaced:
        return Verdict(
            decision="retrain",
            reason=_sentence([_compared(judged, policy), *_broken(found), *_cause(found), *_where(found)]),
        )
    if too_old(found):
        return Verdict(
            decision="retrain",
            reason=f"The training data of {champion} ended {found.age_days:,.0f} days before the end of "
            f"{found.window.label}, and {_days(policy.max_age):g} are allowed.",
        )
    concerns = _concerns(found)
    if judged is not None and worse:
        concerns.insert(0, f"{_compared(judged, policy)}, but {champion} has replaced {found.scored_by} since")
    if not concerns and judged is not None:
        return Verdict(decision="healthy", reason=_sentence([_compared(judged, policy), "nothing has drifted"]))
    if judged is not None and not worse:
        concerns.append(_compared(judged, policy))
    return Verdict(decision="watch", reason=_sentence(concerns))


def limit(performance: Performance, policy: Policy) -> float | None:
    """The value of the metric that is only just good enough; ``None`` without a reference."""
    if performance.reference is None:
        return None
    if METRICS[performance.metric].higher_is_better:
        return performance.reference - policy.tolerance
    return performance.reference * (1 + policy.tolerance)


def is_worse(performance: Performance, policy: Policy) -> bool:
    """Whether the whole confidence interval lies on the wrong side of the limit."""
    bound = limit(performance, policy)
    if bound is None:
        return False
    return performance.high < bound if METRICS[performance.metric].higher_is_better else performance.low > bound


def too_old(found: Findings) -> bool:
    """Whether the champion's training data ended longer ago than ``max_age``."""
    age = found.policy.max_age
    return age is not None and found.age_days is not None and found.age_days > _days(age)


def immature(found: Findings) -> str | None:
    """Why labels are still to come, in one clause; ``None`` once the policy's grace is over."""
    grace, since = found.policy.grace, found.created - found.window.end
    if grace is None or since >= grace:
        return None
    ended = f"ended {_days(since):.3g} days ago" if since > timedelta(0) else "has not ended"
    return f"the window {ended}, and its labels get {_days(grace):g} days from its end"


def unforeseen(found: Findings) -> bool | None:
    """Whether realised performance lies outside the interval that was estimated; ``None`` unless it can be judged."""
    realised, estimated = found.performance, found.estimated
    if realised is None or estimated is None or found.unmeasured is not None:
        return None
    return not estimated.low <= realised.value <= estimated.high


def _concerns(found: Findings) -> list[str]:
    policy = found.policy
    if not found.rows:
        return [f"there are no predictions in {found.window.label}"]
    concerns = []
    if found.unmeasured is not None:
        concerns.append(f"realised performance is not judged: {found.unmeasured}")
        if found.estimated is not None and found.estimated.reference is not None:
            concerns.append(_compared(found.estimated, policy, "estimated"))
    if found.rows < policy.min_rows:
        concerns.append(f"drift is not measured: {there_are(found.rows, 'row')}, {policy.min_rows:,} are needed")
    concerns += _about_rows(found)
    for part, what in ((found.prediction, "predicted scores"), (found.label, "labels")):
        if part is not None and part.drifted:
            odd = f"; {part.remark}" if part.remark else ""
            concerns.append(f"the {what} have drifted (by {part.effect:.1%} of the rows{odd})")
    if features := [drift for drift in found.features if drift.drifted]:
        largest = f"{max(drift.effect or 0 for drift in features):.1%} of the rows"
        concerns.append(f"{_named(features)} (by {'up to ' if len(features) > 1 else ''}{largest})")
    if found.multivariate is not None and found.multivariate.drifted:
        moved = f"the error of their reconstruction has moved by {found.multivariate.effect:.1%} of the rows"
        # Which it does as well where single features leave the place that the others would have them at.
        what = (
            "the features together have drifted too" if features else "the features no longer hang together as they did"
        )
        concerns.append(f"{what} ({moved})")
    return concerns


def there_are(count: int, what: str) -> str:
    """So many of them, as a clause."""
    return f"there is 1 {what}" if count == 1 else f"there are {count:,} {what}s"


def _about_rows(found: Findings) -> list[str]:
    """What is wrong with the rows as such, whatever their distribution is."""
    concerns = []
    if changed := [item for item in found.schema_changes if item.before is not None and not item.compared]:
        concerns.append(f"the schema has changed since training: {_listed([str(item) for item in changed])}")
    if infinite := [drift for drift in found.features if drift.infinite and not drift.drifted]:
        counts = [f"{drift.column} ({drift.infinite:,} row{'s' if drift.infinite > 1 else ''})" for drift in infinite]
        concerns.append(f"there are infinite values, and training had none: {_listed(counts)}")
    most, fresh = found.policy.max_staleness, found.freshness
    if most is not None and fresh is not None and fresh.behind_days is not None and fresh.behind_days > _days(most):
        newest = f"the newest row is {fresh.behind_days:.3g} days older than the end of {found.window.label}"
        concerns.append(f"{newest}, and {_days(most):g} are allowed")
    return concerns


def _named(features: Sequence[Drift]) -> str:
    names = [f"{drift.column} ({drift.remark})" if drift.remark else drift.column for drift in features]
    return f"{len(features)} feature{'s have' if len(features) > 1 else ' has'} drifted: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_NAMED])
    if more := len(names) - len(shown):
        shown.append(f"{more} more")
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def _broken(found: Findings) -> list[str]:
    """What is wrong with the columns as such, which a model cannot be blamed for."""
    columns = [*found.features, *([found.prediction] if found.prediction else [])]
    odd = [f"{drift.column} ({drift.note})" for drift in columns if drift.note and drift.drifted]
    return [*([f"look at {_listed(odd)} first"] if odd else []), *_about_rows(found)]


def _cause(found: Findings) -> list[str]:
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
    return [f"concept drift: the inputs have not drifted, and {expected}"]


def _where(found: Findings) -> list[str]:
    """The segment that performance fell in most."""
    if not found.segments or found.loss is None:
        return []
    worst, rise = found.segments[0], found.loss.value - found.loss.reference
    part = f", {worst.contribution / rise:.0%} of its rise" if rise > 0 else ""
    where = f"it fell most where {worst.name}: {worst.share:.0%} of the rows, mean {LOSSES[found.loss.metric]} "
    return [f"{where}{worst.reference.value:.3f} at training and {worst.loss.value:.3f} now{part}"]


def _compared(performance: Performance, policy: Policy, how: str = "realised") -> str:
    bound, reference = limit(performance, policy), performance.reference
    more = METRICS[performance.metric].higher_is_better
    value = f"{how} {performance.metric} {performance.value:.3f} ({performance.low:.3f} to {performance.high:.3f})"
    if is_worse(performance, policy):
        way, end = ("below", "least") if more else ("above", "most")
        return f"{value} is {way} {bound:.3f}, the {end} that the {reference:.3f} at training allows"
    return f"{value} holds: the {reference:.3f} at training allows {'down' if more else 'up'} to {bound:.3f}"


def _days(age: timedelta | None) -> float:
    return age / timedelta(days=1) if age is not None else 0.0


def _sentence(clauses: Sequence[str]) -> str:
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."
