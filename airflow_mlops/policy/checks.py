"""Checks of the findings against the policy: worse performance, immature labels, old training data."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow_mlops.core.windows import Window
from airflow_mlops.drift.findings import Drift
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import in_days


def limit(performance: Performance, policy: Policy) -> float | None:
    """The worst acceptable value of the metric; ``None`` without a reference."""
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


def judged_performance(findings: Findings) -> Performance | None:
    """Realised performance, unless there are grounds against judging it (:attr:`Findings.unmeasured`)."""
    return findings.performance if findings.unmeasured is None else None


def is_too_old(findings: Findings) -> bool:
    """Whether the champion's training data are older than ``max_age`` at the end of the window."""
    age = findings.policy.max_age
    return age is not None and findings.age_days is not None and findings.age_days > days(age)


def important_drift(findings: Findings) -> list[Drift]:
    """The drifted features of known importance, the most important first.

    Broken columns do not count, because a model cannot learn anything from them.
    """
    drifted = [
        drift for drift in findings.features if drift.drifted and not drift.broken and drift.importance is not None
    ]
    return sorted(drifted, key=lambda drift: -(drift.importance or 0.0))


def immature_labels(policy: Policy, window: Window, checked_at: datetime) -> str | None:
    """Why labels of ``window`` may still arrive, as one clause; ``None`` once the policy's grace period is over."""
    grace, since = policy.grace, checked_at - window.end
    if grace is None or since >= grace:
        return None
    ended = f"ended {in_days(days(since))} ago" if since > timedelta(0) else "has not ended"
    return f"the window {ended}, and labels may arrive until {in_days(days(grace))} after its end"


def outside_estimate(realised: Performance, estimated: Performance) -> bool:
    """Whether realised performance lies outside the interval of the estimate."""
    return not estimated.low <= realised.value <= estimated.high


def missed_estimate(findings: Findings) -> bool | None:
    """Whether judged performance lies outside the interval of the estimate; ``None`` if either is missing."""
    realised, estimated = judged_performance(findings), findings.estimated
    return None if realised is None or estimated is None else outside_estimate(realised, estimated)


def is_replaced(findings: Findings) -> bool:
    """Whether a version other than the champion made the predictions."""
    scored_by, champion = findings.scored_by, findings.champion
    return scored_by is not None and champion is not None and scored_by.version != champion.version


def days(duration: timedelta | None) -> float:
    """``duration`` in days; 0 for ``None``."""
    return duration / timedelta(days=1) if duration is not None else 0.0
