"""The verdict on a window: the decision, its headline, and the details.

Retraining needs a trigger that the policy names and that retraining can remedy, such as a missing champion, realised performance
that is certainly worse than at training, or old training data. Drift alone leads to ``watch`` unless the policy says otherwise,
because features drift with every season and often without harm. Estimated performance depends on the inputs alone: a drop of
realised performance that it does not show points to concept drift.
"""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.policy.checks import days, important_drift, is_replaced, is_worse, judged_performance
from airflow_mlops.policy.details import (
    Observation,
    against,
    change_of,
    level_of,
    observations,
    reasons_for_worse_performance,
)
from airflow_mlops.policy.findings import ActiveTrigger, Decision, Findings, RetrainingPlan, Verdict
from airflow_mlops.policy.retraining import MEASURED, plan
from airflow_mlops.policy.spec import Trigger
from airflow_mlops.policy.wording import (
    DETAIL_LENGTH,
    HEADLINE_LENGTH,
    capitalized,
    counted,
    in_days,
    listed,
    metric_name,
    number,
    share,
    shorten,
)

TRIGGER_NAMES: dict[Trigger, str] = {
    "no_champion": "no champion",
    "performance": "realised performance",
    "estimated_performance": "estimated performance",
    "drift": "drift of important features",
    "age": "age of the training data",
    "new_data": "new data",
    "new_code": "new code",
}
LIMIT_NAMES = {"cooldown": "cooldown", "budget": "budget", "refusals": "refusals", "inputs": "broken inputs"}


def decide(findings: Findings, retraining: RetrainingPlan | None = None) -> Verdict:
    """Decide what to do about a window.

    :param retraining: the policy's decision about retraining; by default, the one without knowledge of other windows
    """
    planned = retraining or plan(findings)
    if planned.is_requested:
        return _verdict("retrain", _active(planned.due, findings) + _others(findings, planned.due))
    judged, policy = judged_performance(findings), findings.policy
    found = [*_postponed(planned, findings), *_active(planned.triggers, findings)]
    worse = judged is not None and is_worse(judged, policy)
    if judged is not None and worse and all(active.trigger != "performance" for active in planned.triggers):
        found.insert(0, _tolerated(findings))
    found += _others(findings, planned.triggers)
    if judged is None or worse:
        return _verdict("watch", found or [Observation("Performance is not known")])
    level = level_of(judged, policy)
    expected = f"performance as expected ({metric_name(judged.metric)} {number(judged.value)})"
    if not found:
        return _verdict("healthy", [Observation(f"No drift{against(findings.features)}, {expected}", [level])])
    first, *rest = found
    if not planned.triggers and len(both := f"{first.headline}; {expected}") <= HEADLINE_LENGTH:
        first = Observation(both, first.details)
    return _verdict("watch", [first, *rest, Observation(level, [level])])


def _verdict(decision: Decision, found: Sequence[Observation]) -> Verdict:
    headline = capitalized(shorten(found[0].headline, HEADLINE_LENGTH))
    said = dict.fromkeys(shorten(text, DETAIL_LENGTH) for item in found for text in item.details)
    # The headline need not be repeated.
    details = [text for text in said if text.rstrip(".") != headline]
    return Verdict(
        decision=decision, headline=headline, details=details, reason=" ".join([_stopped(headline), *details])
    )


def _stopped(text: str) -> str:
    return text if text.endswith(("…", ".")) else f"{text}."


def _others(findings: Findings, active: Sequence[ActiveTrigger]) -> list[Observation]:
    """What deserves attention besides the triggers."""
    if any(item.trigger == "no_champion" for item in active):
        return []
    reported = {item.reason for item in active}
    return [item for item in observations(findings) if item.headline not in reported]


def _postponed(planned: RetrainingPlan, findings: Findings) -> list[Observation]:
    """That a due request is postponed, and by which limits."""
    reached = [limit for limit in planned.limits if limit.reached]
    if not planned.due or not reached:
        return []
    headline = f"Retraining postponed ({LIMIT_NAMES[reached[0].name]}): {planned.due[0].reason}"
    return [Observation(headline, [f"Retraining postponed: {limit.says}." for limit in reached])]


def _tolerated(findings: Findings) -> Observation:
    """Worse performance that is no trigger: of a version that was replaced, or because the policy ignores it."""
    judged = findings.performance
    assert judged is not None
    details = [level_of(judged, findings.policy)]
    headline = change_of(judged, findings.policy)
    if is_replaced(findings) and findings.champion is not None:
        headline = f"{headline}, now v{findings.champion.version}"
        details.append(f"{findings.champion} has since replaced {findings.scored_by}, which made these predictions.")
    return Observation(headline, details)


def _active(triggers: Sequence[ActiveTrigger], findings: Findings) -> list[Observation]:
    return [
        Observation(active.reason, [*_trigger_details(active.trigger, findings), *_persistence(active, findings)])
        for active in triggers
    ]


def _trigger_details(trigger: Trigger, findings: Findings) -> list[str]:
    policy, champion = findings.policy, findings.champion
    if trigger == "no_champion":
        return [f"Train and promote a first version of {findings.model}."]
    if trigger == "performance" and findings.performance is not None:
        return [level_of(findings.performance, policy), *reasons_for_worse_performance(findings)]
    if trigger == "estimated_performance" and findings.estimated is not None:
        return [level_of(findings.estimated, policy, "Estimated")]
    if trigger == "drift":
        drifted = important_drift(findings)
        total = share(sum(drift.importance or 0.0 for drift in drifted), 0)
        names = listed([drift.column for drift in drifted])
        return [f"Drifted features: {names} ({total} of the importance, {share(policy.min_importance, 0)} needed)."]
    if trigger == "age":
        window, allowed = findings.window.label, days(policy.max_age)
        ended = f"ended {in_days(findings.age_days)} before the end of {window} ({in_days(allowed)} allowed)"
        return [f"Training data of {champion}: {ended}."]
    if trigger == "new_data" and findings.arrivals is not None:
        arrived = findings.arrivals
        amount = f"{counted(arrived.windows, 'window')} with {counted(arrived.rows, 'row')} of {arrived.dataset}"
        return [f"New data: {amount} since the training data of {champion} ended."]
    return [f"Training code: {policy.code} in the policy, {findings.code_version} for {champion}."]


def _persistence(active: ActiveTrigger, findings: Findings) -> list[str]:
    """In how many windows a measured trigger held, if the policy counts more than one."""
    needed = findings.policy.persistence
    if needed.n == 1 or active.trigger not in MEASURED:
        return []
    held = f"{active.windows} of the last {needed.n} windows"
    return [f"Trigger {TRIGGER_NAMES[active.trigger]}: held in {held} ({needed.k} needed)."]
