"""Decide about a window: healthy, watch, or retrain, with a headline and details.

Retraining needs a retraining trigger: a condition that the policy enables and that retraining can remedy, such as a
missing champion, realised performance that is significantly worse than at training, or old training data. By default,
drift alone leads to ``watch``, because features drift with every season and often without harm. Estimated performance
depends on the inputs alone. If realised performance drops and estimated performance does not, concept drift is likely.
"""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.checks import days, important_drift, is_worse, judged_performance
from airflow_mlops.policy.details import (
    Observation,
    acceptable,
    against,
    bias_of,
    broken_inputs,
    challengers_of,
    change_of,
    compared_windows,
    deciding_comparison,
    level_of,
    model_version,
    observations,
    reasons_for_worse_performance,
    replaced_in_window,
    replaced_version,
)
from airflow_mlops.policy.findings import ActiveTrigger, Decision, Findings, RetrainingPlan, Verdict
from airflow_mlops.policy.retraining import MEASURED, plan
from airflow_mlops.policy.spec import Trigger
from airflow_mlops.policy.wording import (
    DETAIL_LENGTH,
    HEADLINE_LENGTH,
    capitalized,
    counted,
    fitting,
    in_days,
    listed,
    name,
    share,
    shorten,
)

TRIGGER_NAMES: dict[Trigger, str] = {
    "no_champion": "no champion",
    "challenger": "a better challenger",
    "performance": "realised performance",
    "estimated_performance": "estimated performance",
    "drift": "drift of important features",
    "age": "age of the training data",
    "new_data": "new data",
    "new_code": "new code",
}
LIMIT_NAMES = {
    "cooldown": "by the cooldown",
    "budget": "because the budget is used up",
    "refusals": "after refused candidates",
    "inputs": "because inputs are broken",
}


def decide(findings: Findings, retraining: RetrainingPlan | None = None) -> Verdict:
    """Return the verdict on a window.

    :param retraining: the decision about retraining. By default, the policy is applied to this window alone, without
        earlier windows
    """
    decision, found = _decide(findings, retraining or plan(findings))
    return _verdict(decision, [*found, *replaced_in_window(findings)])


def _decide(findings: Findings, planned: RetrainingPlan) -> tuple[Decision, list[Observation]]:
    """Return the decision and the facts behind the decision, the most important fact first."""
    if planned.is_requested:
        return "retrain", _active(planned.due, findings) + _others(findings, planned)
    judged, policy = judged_performance(findings), findings.policy
    found = [*_postponed(planned, findings), *_active(planned.triggers, findings)]
    worse = judged is not None and is_worse(judged, policy)
    reported = {active.trigger for active in planned.triggers} & {"performance", "challenger"}
    if judged is not None and worse and not reported:
        found.insert(0, _without_trigger(judged, findings))
    found += _others(findings, planned)
    if judged is None or worse:
        return "watch", found or [Observation("Performance is not known")]
    level, clause = level_of(judged, policy), acceptable(judged, policy)
    if not found:
        headline = f"No drift{against(findings.features)}, {clause}"
        return "healthy", [
            Observation(headline, [level, *bias_of(findings), *_challengers(findings), *compared_windows(findings)])
        ]
    first, *rest = found
    if not planned.triggers and len(both := f"{first.headline}; {clause}") <= HEADLINE_LENGTH:
        first = Observation(both, first.details)
    return "watch", [
        first,
        *rest,
        Observation(level, [level, *bias_of(findings), *_challengers(findings), *_drift_alone(planned, findings)]),
    ]


def _challengers(findings: Findings) -> list[str]:
    """Return the comparison with challengers, if there was one and no challenger is better."""
    compared = findings.challenger
    return challengers_of(compared, findings.policy) if compared is not None and compared.best is None else []


def _drift_alone(planned: RetrainingPlan, findings: Findings) -> list[str]:
    """Return a sentence that explains why drift with acceptable performance does not request retraining."""
    if planned.triggers or "drift" in findings.policy.retrain_on or not any(part.drifted for part in findings.features):
        return []
    return ["Drift alone does not request retraining, because retrain_on does not contain 'drift'."]


def _verdict(decision: Decision, found: Sequence[Observation]) -> Verdict:
    headline = capitalized(shorten(found[0].headline, HEADLINE_LENGTH))
    unique = dict.fromkeys(shorten(text, DETAIL_LENGTH) for item in found for text in item.details)
    # A detail that is equal to the headline is left out.
    details = [text for text in unique if text.rstrip(".") != headline]
    return Verdict(
        decision=decision, headline=headline, details=details, reason=" ".join([_with_stop(headline), *details])
    )


def _with_stop(text: str) -> str:
    return text if text.endswith(("…", ".")) else f"{text}."


def _others(findings: Findings, planned: RetrainingPlan) -> list[Observation]:
    """Return the observations to report in addition to the active triggers of ``planned``."""
    if any(active.trigger == "no_champion" for active in planned.triggers):
        return []
    reported = {active.reason for active in planned.triggers}
    found = observations(findings, inputs_reported=bool(planned.due) and "inputs" in _reached(planned))
    return [item for item in found if item.headline not in reported]


def _reached(planned: RetrainingPlan) -> dict[str, str]:
    """Return the limits that postpone a request: name of the limit, and a clause that explains the limit."""
    return {limit.name: limit.says for limit in planned.limits if limit.reached}


def _postponed(planned: RetrainingPlan, findings: Findings) -> list[Observation]:
    """Return an observation that a request is postponed, with the limits that postpone the request."""
    reached = _reached(planned)
    if not planned.due or not reached:
        return []
    clause, first = _without_limit(planned.due[0].reason), next(iter(reached))
    variants = [f"{clause}; retraining postponed {LIMIT_NAMES[first]}"]
    if first == "inputs" and (broken := broken_inputs(findings)):
        variants.insert(0, f"{clause}; retraining postponed because {listed(broken)}")
    return [Observation(fitting(*variants), [f"Retraining is postponed because {says}." for says in reached.values()])]


def _without_limit(reason: str) -> str:
    """Remove the limit in parentheses from the end of a trigger's reason, to leave room in the headline."""
    return reason.rpartition(" (")[0] if " (" in reason and reason.endswith(")") else reason


def _without_trigger(judged: Performance, findings: Findings) -> Observation:
    """Return an observation about worse performance that does not trigger retraining.

    Either a version that has been replaced made the predictions, or the policy does not retrain on performance.
    """
    if (replaced := replaced_version(findings)) is not None:
        return replaced
    level, change = level_of(judged, findings.policy), change_of(judged, findings.policy)
    if (compared := deciding_comparison(findings)) is not None:
        unhelpful = "retraining would not help"
        return Observation(
            fitting(f"{change}; {unhelpful}", f"{_without_limit(change)}; {unhelpful}"),
            [level, *challengers_of(compared, findings.policy)],
        )
    if "performance" in findings.policy.retrain_on:
        return Observation(change, [level])
    headline = f"{_without_limit(change)}; no retraining because retrain_on lacks 'performance'"
    return Observation(headline, [level])


def _active(triggers: Sequence[ActiveTrigger], findings: Findings) -> list[Observation]:
    return [
        Observation(
            _headline(active, findings), [*_trigger_details(active.trigger, findings), *_persistence(active, findings)]
        )
        for active in triggers
    ]


def _headline(active: ActiveTrigger, findings: Findings) -> str:
    """Return the reason of a trigger, and how many windows a request still needs."""
    if active.enough:
        return active.reason
    needed = findings.policy.persistence
    so_far = f"retraining needs {needed.k} such windows among the last {needed.n} (now {active.windows})"
    return fitting(f"{_without_limit(active.reason)}; {so_far}", active.reason)


def _trigger_details(trigger: Trigger, findings: Findings) -> list[str]:
    policy, champion = findings.policy, findings.champion
    trained = model_version(champion) if champion is not None else "the champion"
    if trigger == "no_champion":
        return [f"Train and promote a first version of model {findings.model!r}."]
    if trigger == "challenger" and findings.challenger is not None:
        return [*challengers_of(findings.challenger, policy), *_worse_too(findings)]
    if trigger == "performance" and findings.performance is not None:
        return [level_of(findings.performance, policy), *reasons_for_worse_performance(findings)]
    if trigger == "estimated_performance" and findings.estimated is not None:
        return [level_of(findings.estimated, policy, "Estimated")]
    if trigger == "drift":
        drifted = important_drift(findings)
        total = share(sum(drift.importance or 0.0 for drift in drifted), 0)
        names = listed([f"{name(drift.column)} {share(drift.importance or 0.0, 0)}" for drift in drifted], 10)
        needed = f"{total} together, {share(policy.min_importance, 0)} needed"
        return [f"Permutation importance of the drifted features: {names} ({needed})."]
    if trigger == "age":
        ended = f"ended {in_days(findings.age_days or 0)} before the end of {findings.window.label}"
        return [f"The training data of {trained} {ended} (limit: {in_days(days(policy.max_age))})."]
    if trigger == "new_data" and findings.arrivals is not None:
        arrived = findings.arrivals
        amount = f"{counted(arrived.windows, 'window')} with {counted(arrived.rows, 'row')}"
        return [f"Dataset {arrived.dataset!r} has {amount} after the end of the training data of {trained}."]
    return [
        f"The policy names training code {policy.code!r}, but {trained} was trained with {findings.code_version!r}."
    ]


def _worse_too(findings: Findings) -> list[str]:
    """Return the facts about worse performance, which a better challenger often goes together with."""
    judged, policy = judged_performance(findings), findings.policy
    if judged is None or not is_worse(judged, policy):
        return []
    return [level_of(judged, policy), *reasons_for_worse_performance(findings)]


def _persistence(active: ActiveTrigger, findings: Findings) -> list[str]:
    """Return a sentence about the windows in which the condition was met, if the policy counts several windows."""
    needed = findings.policy.persistence
    if needed.n == 1 or active.trigger not in MEASURED:
        return []
    met = f"met in {active.windows} of the last {needed.n} windows ({needed.k} needed)"
    return [f"The condition of the retraining trigger {TRIGGER_NAMES[active.trigger]!r} was {met}."]
