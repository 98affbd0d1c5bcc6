"""Check the findings of a window against the policy: performance, label delay, drift, and age of the training data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from airflow_mlops.core.windows import Window
from airflow_mlops.drift.findings import Drift
from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.findings import FairnessDifference, IntervalCoverage, Performance
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.standards import standards
from airflow_mlops.policy.wording import duration_text

IMPACT = 0.05
"""The smallest impact of drift, see :func:`impact`, that can matter."""
MOVED = 0.1
"""The smallest effect of score drift (a share of rows) that can matter if performance cannot be judged."""
NOT_FOLLOWED = 0.2
"""The scores do not follow the labels if the effect of label drift exceeds the effect of score drift by at least
this share of rows."""
GROWING_WINDOWS = 3
"""Drift counts as growing if its impact grows, and performance falls, over this number of checked windows in a row."""


def exceeds_limit(performance: Performance, policy: Policy) -> bool:
    """Return whether the value is worse than a standard allows, regardless of the confidence interval."""
    return any(standard.exceeded for standard in standards(performance, policy))


def is_worse(performance: Performance, policy: Policy) -> bool:
    """Return whether performance is significantly worse than a standard allows."""
    return any(standard.broken for standard in standards(performance, policy))


def is_acceptable(performance: Performance, policy: Policy) -> bool:
    """Return whether performance has a standard, and is not significantly worse than any standard allows."""
    return bool(standards(performance, policy)) and not is_worse(performance, policy)


def judged_performance(findings: Findings) -> Performance | None:
    """Return realised performance; ``None`` if performance cannot be judged (see :attr:`Findings.unmeasured`)."""
    return findings.performance if findings.unmeasured is None else None


def lost_coverage(findings: Findings) -> IntervalCoverage | None:
    """Return the coverage of the prediction intervals if it is significantly lower than at training, else ``None``."""
    found = findings.interval if findings.unmeasured is None else None
    return found if found is not None and is_worse(found, findings.policy) else None


def is_less_fair(found: FairnessDifference, policy: Policy) -> bool:
    """Return whether a fairness metric rose since the evaluation, significantly and by more than the tolerance.

    Both values are estimates. If nothing has changed, at most ``(1 - confidence) / 2`` of the windows are false alarms.
    """
    change = difference(found, policy.confidence)
    return change is not None and change.low > policy.tolerance


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


def impact(findings: Findings) -> float:
    """Return the impact of input drift: the sum of the drifted features' effects, weighted by their importance.

    The impact is a share of rows from 0 to 1. If the importance of any of these features is unknown, the impact is the
    largest effect. If only the joint distribution drifted and no single feature, the impact is the effect of that
    drift. Broken features are left out.
    """
    drifted = [drift for drift in findings.features if drift.drifted and not drift.broken]
    together = findings.multivariate
    if not drifted:
        return together.effect or 0.0 if together is not None and together.drifted else 0.0
    if any(drift.importance is None for drift in drifted):
        return max(drift.effect or 0.0 for drift in drifted)
    return sum((drift.importance or 0.0) * (drift.effect or 0.0) for drift in drifted)


def why_drift_matters(findings: Findings, earlier: Sequence[Findings] = ()) -> str | None:
    """Return a clause that says why a person should look at the drift of the inputs; ``None`` if it does not matter.

    Drift matters if its :func:`impact` is at least :data:`IMPACT` and one of these conditions holds:

    - Performance is worse than the limit, significantly or not. This is realised performance, or estimated performance
      if realised performance cannot be judged.
    - Performance cannot be judged, and the scores drifted with an effect of at least :data:`MOVED`.
    - Drift grew and performance fell in the last windows.

    :param earlier: findings of earlier windows, ordered by time
    """
    if impact(findings) < IMPACT:
        return None
    judged, scores = judged_performance(findings), findings.prediction
    measured = judged or findings.estimated
    if measured is not None and exceeds_limit(measured, findings.policy):
        return f"{'' if judged is not None else 'estimated '}performance is worse than the limit"
    if judged is None and scores is not None and scores.drifted and (scores.effect or 0.0) >= MOVED:
        return "it moved the scores, and performance cannot be judged yet"
    if _grows([*earlier, findings]):
        return f"it has grown for {GROWING_WINDOWS} windows in which performance fell"
    return None


def attributions_matter(findings: Findings) -> bool:
    """Return whether a person should look at the drift of the attributions.

    The drift matters if performance is worse than the limit, significantly or not, or if performance cannot be judged.
    """
    found, judged = findings.attributions, judged_performance(findings)
    if found is None or not found.drifted:
        return False
    return judged is None or exceeds_limit(judged, findings.policy)


def _grows(history: Sequence[Findings]) -> bool:
    """Return whether the impact of drift grew and performance fell over the last :data:`GROWING_WINDOWS` windows.

    Only windows with predictions of the version that made the predictions in the last window count. All of these
    conditions must hold:

    - The impact grows, and performance falls, from each window to the next. If realised performance cannot be judged in
      one of the windows, estimated performance is used for all of them.
    - The impact is at least :data:`IMPACT` in the oldest of these windows.
    - In the newest window, performance is worse than the limit that half of the policy's tolerance would give.

    :param history: findings of windows, ordered by time
    """
    last = history[-1]
    same = [item for item in history if item.scored_by is not None and item.scored_by == last.scored_by]
    recent = same[-GROWING_WINDOWS:]
    if len(recent) < GROWING_WINDOWS:
        return False
    judged = [judged_performance(item) for item in recent]
    values = judged if all(item is not None for item in judged) else [item.estimated for item in recent]
    measured = [item for item in values if item is not None]
    if len(measured) < len(recent) or len({(item.metric, item.weight) for item in measured}) > 1:
        return False
    impacts = [impact(item) for item in recent]
    sign = 1 if measured[-1].higher_is_better else -1
    half = last.policy.model_copy(update={"tolerance": last.policy.tolerance / 2})
    return (
        impacts[0] >= IMPACT
        and all(now > before for before, now in pairwise(impacts))
        and all(sign * now.value < sign * before.value for before, now in pairwise(measured))
        and exceeds_limit(measured[-1], half)
    )


def scores_do_not_follow(findings: Findings) -> bool:
    """Return whether the labels drifted, and drifted further than the scores.

    The effect of label drift must exceed the effect of score drift by at least :data:`NOT_FOLLOWED`. If score drift
    was not measured, its effect counts as 0.
    """
    label, scores = findings.label, findings.prediction
    if label is None or not label.drifted:
        return False
    moved = scores.effect or 0.0 if scores is not None else 0.0
    return (label.effect or 0.0) - moved >= NOT_FOLLOWED


def accepted_estimate(findings: Findings) -> Performance | None:
    """Return estimated performance if it is acceptable and enough to call the window healthy; otherwise ``None``.

    The estimate is enough only if realised performance cannot be judged, and in one of these cases:

    - The grace period has not ended, so more labels may still arrive.
    - There are fewer labels than ``min_labels`` or ``min_coverage`` requires, and ``retrain_on`` contains
      ``estimated_performance`` but no trigger that needs labels.
    """
    policy, estimated = findings.policy, findings.estimated
    if findings.unmeasured is None or estimated is None or not is_acceptable(estimated, policy):
        return None
    few = findings.labelled < policy.min_labels or (findings.coverage or 0.0) < policy.min_coverage
    alone = "estimated_performance" in policy.retrain_on and {*policy.retrain_on} <= {"estimated_performance", "drift"}
    due = immature_labels(policy, findings.window, findings.created) is None
    return estimated if (alone and few) or not due else None


def immature_labels(policy: Policy, window: Window, checked_at: datetime) -> str | None:
    """Return a clause that explains why labels of ``window`` may still arrive; ``None`` after the grace period.

    :param checked_at: time at which the window is checked
    """
    grace, since = policy.grace, checked_at - window.end
    if grace is None or since >= grace:
        return None
    ended = f"ended {duration_text(days(since))} ago" if since > timedelta(0) else "has not ended"
    return f"the window {ended}, and labels may arrive until {duration_text(days(grace))} after its end"


def outside_estimate(realised: Performance, estimated: Performance) -> bool:
    """Return whether a realised value lies outside the confidence interval of an estimate."""
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
