"""Check the findings of a window against the policy: performance, label delay, drift, and age of the training data."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow_mlops.core.windows import Window
from airflow_mlops.drift.findings import Drift
from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import in_days


def limit(performance: Performance, policy: Policy) -> float | None:
    """Return the worst acceptable value of the metric; ``None`` if the value at training is unknown."""
    if performance.reference is None:
        return None
    if performance.higher_is_better:
        return performance.reference - policy.tolerance
    return performance.reference + abs(performance.reference) * policy.tolerance


def exceeds_limit(performance: Performance, policy: Policy) -> bool:
    """Return whether the value is worse than the limit, regardless of the confidence interval."""
    bound = limit(performance, policy)
    if bound is None:
        return False
    return performance.value < bound if performance.higher_is_better else performance.value > bound


def is_worse(performance: Performance, policy: Policy) -> bool:
    """Return whether performance is significantly worse than the limit.

    The whole interval of the difference from the value at training must be beyond the tolerance, see
    :func:`airflow_mlops.performance.difference.difference`.
    """
    bound, change = limit(performance, policy), difference(performance, policy.confidence)
    if bound is None or change is None or performance.reference is None:
        return False
    tolerated = bound - performance.reference
    return change.high < tolerated if performance.higher_is_better else change.low > tolerated


def judged_performance(findings: Findings) -> Performance | None:
    """Return realised performance; ``None`` if performance cannot be judged (see :attr:`Findings.unmeasured`)."""
    return findings.performance if findings.unmeasured is None else None


def is_too_old(findings: Findings) -> bool:
    """Return whether the champion's training data are older than ``max_age`` at the end of the window."""
    age = findings.policy.max_age
    return age is not None and findings.age_days is not None and findings.age_days > days(age)


def important_drift(findings: Findings) -> list[Drift]:
    """Return the drifted features of known importance, the most important first.

    Broken columns are left out, because a model cannot learn anything from them.
    """
    drifted = [
        drift for drift in findings.features if drift.drifted and not drift.broken and drift.importance is not None
    ]
    return sorted(drifted, key=lambda drift: -(drift.importance or 0.0))


def immature_labels(policy: Policy, window: Window, checked_at: datetime) -> str | None:
    """Return a clause that explains why labels of ``window`` may still arrive; ``None`` after the grace period.

    :param checked_at: time at which the window is checked
    """
    grace, since = policy.grace, checked_at - window.end
    if grace is None or since >= grace:
        return None
    ended = f"ended {in_days(days(since))} ago" if since > timedelta(0) else "has not ended"
    return f"the window {ended}, and labels may arrive until {in_days(days(grace))} after its end"


def outside_estimate(realised: Performance, estimated: Performance) -> bool:
    """Return whether realised performance lies outside the confidence interval of estimated performance."""
    return not estimated.low <= realised.value <= estimated.high


def missed_estimate(findings: Findings) -> bool | None:
    """Return whether realised performance lies outside the confidence interval of estimated performance.

    :return: ``None`` if realised performance cannot be judged, or if there is no estimate
    """
    realised, estimated = judged_performance(findings), findings.estimated
    return None if realised is None or estimated is None else outside_estimate(realised, estimated)


def is_replaced(findings: Findings) -> bool:
    """Return whether the predictions are from a version that is no longer the champion."""
    scored_by, champion = findings.scored_by, findings.champion
    return scored_by is not None and champion is not None and scored_by.version != champion.version


def days(duration: timedelta | None) -> float:
    """Convert ``duration`` to days; ``None`` counts as 0."""
    return duration / timedelta(days=1) if duration is not None else 0.0
