"""What of the findings is certain: whether performance is worse, labels are there, training data are too old."""

from __future__ import annotations

from datetime import timedelta

from airflow_mlops.drift.findings import Drift
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy


def limit(performance: Performance, policy: Policy) -> float | None:
    """The value of the metric that is only just good enough; ``None`` without a reference."""
    if performance.reference is None:
        return None
    if performance.higher_is_better:
        return performance.reference - policy.tolerance
    return performance.reference + abs(performance.reference) * policy.tolerance


def is_worse(performance: Performance, policy: Policy) -> bool:
    """Whether the whole confidence interval lies on the wrong side of the limit."""
    bound = limit(performance, policy)
    if bound is None:
        return False
    return performance.high < bound if performance.higher_is_better else performance.low > bound


def too_old(found: Findings) -> bool:
    """Whether the champion's training data ended longer ago than ``max_age``."""
    age = found.policy.max_age
    return age is not None and found.age_days is not None and found.age_days > days(age)


def important_drift(found: Findings) -> list[Drift]:
    """The features that have drifted and whose importance is known, what matters most first.

    A column that is broken does not count: there is nothing in it to learn from.
    """
    moved = [drift for drift in found.features if drift.drifted and not drift.broken and drift.importance is not None]
    return sorted(moved, key=lambda drift: -(drift.importance or 0.0))


def immature(found: Findings) -> str | None:
    """Why labels are still to come, in one clause; ``None`` once the policy's grace is over."""
    grace, since = found.policy.grace, found.created - found.window.end
    if grace is None or since >= grace:
        return None
    ended = f"ended {days(since):.3g} days ago" if since > timedelta(0) else "has not ended"
    return f"the window {ended}, and its labels get {days(grace):g} days from its end"


def unforeseen(found: Findings) -> bool | None:
    """Whether realised performance lies outside the interval that was estimated; ``None`` unless it can be judged."""
    realised, estimated = found.performance, found.estimated
    if realised is None or estimated is None or found.unmeasured is not None:
        return None
    return not estimated.low <= realised.value <= estimated.high


def replaced(found: Findings) -> bool:
    """Whether another version than the champion made the predictions."""
    by, champion = found.scored_by, found.champion
    return by is not None and champion is not None and by.version != champion.version


def days(age: timedelta | None) -> float:
    """``age`` in days; 0 where there is none."""
    return age / timedelta(days=1) if age is not None else 0.0
