"""Decide about a window: healthy, watch, or retrain, with a headline and details.

Retraining needs a retraining trigger: a condition that the policy enables and that retraining can remedy, such as a
missing champion, realised performance that is significantly worse than at training, or old training data.

``watch`` means that a person should look at the window. The reasons are a postponed request, broken inputs, missing or
too few labels, a worse estimate, or drift that matters. Features drift with every season, often without harm. A window
whose inputs drifted while performance is acceptable is ``healthy``, and the details list the drift. Estimated
performance depends on the inputs alone. If realised performance drops and estimated performance does not, concept drift
is likely.
"""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.core.counts import counted
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.checks import (
    accepted_estimate,
    days,
    immature_labels,
    important_drift,
    is_worse,
    judged_performance,
)
from airflow_mlops.policy.details.challengers import challengers_of, deciding_comparison
from airflow_mlops.policy.details.concerns import observations
from airflow_mlops.policy.details.drift import against, compared_windows, movements
from airflow_mlops.policy.details.inputs import broken_inputs
from airflow_mlops.policy.details.observation import Observation
from airflow_mlops.policy.details.performance import (
    acceptable,
    bias_of,
    change_of,
    levels_of,
    reasons_for_worse_performance,
    worse_performance,
)
from airflow_mlops.policy.details.versions import model_version, replaced_in_window, replaced_version
from airflow_mlops.policy.findings import ActiveTrigger, Decision, Findings, RetrainingPlan, Verdict
from airflow_mlops.policy.retraining import MEASURED, plan
from airflow_mlops.policy.spec import Trigger
from airflow_mlops.policy.wording import (
    DETAIL_LENGTH,
    HEADLINE_LENGTH,
    capitalized,
    duration_text,
    fitting,
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
    "budget": "because the budget is exhausted",
    "refusals": "after refused candidates",
    "inputs": "because inputs are broken",
}


def decide(findings: Findings, retraining: RetrainingPlan | None = None, earlier: Sequence[Findings] = ()) -> Verdict:
    """Return the verdict on a window.

    :param retraining: the decision about retraining. By default, the policy is applied to this window alone, without
        earlier windows
    :param earlier: findings of earlier windows, ordered by time, which show whether drift grows
    """
    decision, found = _decide(findings, retraining or plan(findings), earlier)
    return _verdict(decision, [*found, *replaced_in_window(findings)])


def _decide(
    findings: Findings, planned: RetrainingPlan, earlier: Sequence[Findings]
) -> tuple[Decision, list[Observation]]:
    """Return the decision and the facts behind the decision, the most important fact first."""
    if planned.is_requested:
        left_out = [item for item in planned.limits if item.name == "inputs"]
        without = [Observation(item.says, [f"Broken inputs: {item.says}."]) for item in left_out]
        return "retrain", [*_active(planned.due, findings), *without, *_others(findings, planned, earlier)]
    judged, policy = judged_performance(findings), findings.policy
    found = [*_postponed(planned, findings), *_active(planned.triggers, findings)]
    worse = judged is not None and is_worse(judged, policy)
    reported = {active.trigger for active in planned.triggers} & {"performance", "challenger"}
    if judged is not None and worse and not reported:
        found.insert(0, _without_trigger(judged, findings))
    urgent = _concerns(findings, planned, earlier)
    moved = _moved(findings, planned)
    enough = judged or accepted_estimate(findings)
    if found or urgent or enough is None or worse:
        found = [*found, *urgent] or [Observation("Performance is not known")]
        return "watch", _with_level(found, moved, planned, findings)
    return "healthy", _healthy(enough, moved, planned, findings)


def _healthy(
    measured: Performance, moved: Sequence[Observation], planned: RetrainingPlan, findings: Findings
) -> list[Observation]:
    """Return the facts about a healthy window: performance first, then drift."""
    policy, estimated = findings.policy, judged_performance(findings) is None
    levels = levels_of(measured, policy, "Estimated" if estimated else "Realised")
    if estimated:
        details = [*levels, f"Realised performance is not judged because {findings.unmeasured}."]
        return [Observation(_by_estimate(measured, findings), details), *moved]
    clause = acceptable(measured, policy)
    if not moved:
        headline = f"No drift{against(findings.features)}, {clause}"
        return [
            Observation(headline, [*levels, *bias_of(findings), *_challengers(findings), *compared_windows(findings)])
        ]
    first = moved[0].headline
    headline = fitting(
        f"{capitalized(clause)}; {first[:1].lower()}{first[1:]}", f"{capitalized(clause)}; harmless drift"
    )
    facts = [*levels, *bias_of(findings), *_challengers(findings), *_drift_alone(planned, findings)]
    return [Observation(headline, facts), *moved]


def _by_estimate(estimated: Performance, findings: Findings) -> str:
    """Return the headline of a window that is healthy by the estimate alone."""
    few = immature_labels(findings.policy, findings.window, findings.created) is None
    why = "labels are not needed" if few else "labels are not due yet"
    return fitting(
        f"Estimated {acceptable(estimated, findings.policy)}; {why}", f"Healthy according to the estimate; {why}"
    )


def _with_level(
    found: Sequence[Observation], moved: Sequence[Observation], planned: RetrainingPlan, findings: Findings
) -> list[Observation]:
    """Return the facts about a ``watch`` window: its observations, its drift, and performance if it is acceptable."""
    judged, policy = judged_performance(findings), findings.policy
    if judged is None or is_worse(judged, policy):
        return [*found, *moved]
    levels, clause = levels_of(judged, policy), acceptable(judged, policy)
    first, *rest = found
    if not planned.triggers and len(both := f"{first.headline}; {clause}") <= HEADLINE_LENGTH:
        first = Observation(both, first.details)
    facts = [*levels, *bias_of(findings), *_challengers(findings), *_drift_alone(planned, findings)]
    return [first, *rest, *moved, Observation(levels[0], facts)]


def _challengers(findings: Findings) -> list[str]:
    """Return sentences about the comparison with challengers.

    The list is empty if there was no comparison, or if a challenger is better than the champion.
    """
    compared = findings.challenger
    return challengers_of(compared, findings.policy) if compared is not None and compared.best is None else []


def _drift_alone(planned: RetrainingPlan, findings: Findings) -> list[str]:
    """Return a sentence that explains why drift with acceptable performance does not request retraining.

    The list is empty in these cases: a trigger is active, no feature drifted, or ``retrain_on`` contains ``drift``.
    """
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


def _others(findings: Findings, planned: RetrainingPlan, earlier: Sequence[Findings]) -> list[Observation]:
    """Return the observations to report besides the active triggers: concerns first, then drift."""
    return [*_concerns(findings, planned, earlier), *_moved(findings, planned)]


def _concerns(findings: Findings, planned: RetrainingPlan, earlier: Sequence[Findings]) -> list[Observation]:
    """Return the observations for a person to look at, except observations that the active triggers report.

    The list is empty if the model has no champion.
    """
    if _is_first(planned):
        return []
    reported = {active.reason for active in planned.triggers}
    found = observations(findings, _inputs_reported(planned), earlier)
    return [item for item in found if item.headline not in reported]


def _moved(findings: Findings, planned: RetrainingPlan) -> list[Observation]:
    return [] if _is_first(planned) else movements(findings, _inputs_reported(planned))


def _is_first(planned: RetrainingPlan) -> bool:
    return any(active.trigger == "no_champion" for active in planned.triggers)


def _inputs_reported(planned: RetrainingPlan) -> bool:
    return bool(planned.due) and any(item.name == "inputs" for item in planned.limits)


def _reached(planned: RetrainingPlan) -> dict[str, str]:
    """Return a clause about each limit that postpones a request, by the name of the limit."""
    return {limit.name: limit.says for limit in planned.limits if limit.reached}


def _postponed(planned: RetrainingPlan, findings: Findings) -> list[Observation]:
    """Return an observation that a request is postponed, with the limits that postpone the request.

    The list is empty if no request is due, or if no limit is reached.
    """
    reached = _reached(planned)
    if not planned.due or not reached:
        return []
    clause, first = _without_limit(planned.due[0].reason), next(iter(reached))
    variants = [f"{clause}; retraining postponed {LIMIT_NAMES[first]}"]
    if first == "inputs" and (broken := broken_inputs(findings)):
        clauses = listed([f"{column} {what}" for column, what in broken.items()])
        variants.insert(0, f"{clause}; retraining postponed because {clauses}")
    return [Observation(fitting(*variants), [f"Retraining is postponed because {says}." for says in reached.values()])]


def _without_limit(reason: str) -> str:
    """Remove the limit in parentheses from the end of a trigger's reason, to leave room in the headline."""
    return reason.rpartition(" (")[0] if " (" in reason and reason.endswith(")") else reason


def _without_trigger(judged: Performance, findings: Findings) -> Observation:
    """Return an observation about worse performance that does not trigger retraining, and the reason if it is known.

    The reason is the first of these that applies:

    - The predictions are from a version that is no longer the champion.
    - Challengers were compared, and none is better than the champion.
    - The setting ``retrain_on`` does not contain ``performance``.

    :param judged: realised performance
    """
    if (replaced := replaced_version(findings)) is not None:
        return replaced
    levels, change = levels_of(judged, findings.policy), change_of(judged, findings.policy)
    if (compared := deciding_comparison(findings)) is not None:
        unhelpful = "retraining would not help"
        return Observation(
            fitting(f"{change}; {unhelpful}", f"{_without_limit(change)}; {unhelpful}"),
            [*levels, *challengers_of(compared, findings.policy)],
        )
    if "performance" in findings.policy.retrain_on:
        return Observation(change, levels)
    headline = f"{_without_limit(change)}; no retraining because retrain_on lacks 'performance'"
    return Observation(headline, levels)


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
    so_far = f"retraining needs {needed.k} such windows in the last {needed.n} ({active.windows} so far)"
    return fitting(f"{_without_limit(active.reason)}; {so_far}", active.reason)


def _trigger_details(trigger: Trigger, findings: Findings) -> list[str]:
    policy, champion = findings.policy, findings.champion
    trained = model_version(champion) if champion is not None else "the champion"
    if trigger == "no_champion":
        return [f"Train and promote a first version of model {findings.model!r}."]
    if trigger == "challenger" and findings.challenger is not None:
        return [*challengers_of(findings.challenger, policy), *_worse_too(findings)]
    if trigger == "performance" and findings.performance is not None:
        return worse_performance(findings)
    if trigger == "estimated_performance" and findings.estimated is not None:
        return levels_of(findings.estimated, policy, "Estimated")
    if trigger == "drift":
        drifted = important_drift(findings)
        total = share(sum(drift.importance or 0.0 for drift in drifted), 0)
        names = listed([f"{name(drift.column)} {share(drift.importance or 0.0, 0)}" for drift in drifted], 10)
        needed = f"{total} together, {share(policy.min_importance, 0)} needed"
        return [f"Permutation importance of the drifted features: {names} ({needed})."]
    if trigger == "age":
        ended = f"ended {duration_text(findings.age_days or 0)} before the end of {findings.window.label}"
        return [f"The training data of {trained} {ended} (limit: {duration_text(days(policy.max_age))})."]
    if trigger == "new_data" and findings.arrivals is not None:
        arrived = findings.arrivals
        amount = f"{counted(arrived.windows, 'window')} with {counted(arrived.rows, 'row')}"
        return [f"Dataset {arrived.dataset!r} has {amount} after the end of the training data of {trained}."]
    return [
        f"The policy names training code {policy.code!r}, but {trained} was trained with {findings.code_version!r}."
    ]


def _worse_too(findings: Findings) -> list[str]:
    """Return the facts about worse performance; empty if performance is not judged or not worse."""
    judged, policy = judged_performance(findings), findings.policy
    if judged is None or not is_worse(judged, policy):
        return []
    return [*levels_of(judged, policy), *reasons_for_worse_performance(findings)]


def _persistence(active: ActiveTrigger, findings: Findings) -> list[str]:
    """Return a sentence about the windows in which the condition was met, if the policy counts several windows."""
    needed = findings.policy.persistence
    if needed.n == 1 or active.trigger not in MEASURED:
        return []
    met = f"met in {active.windows} of the last {needed.n} windows ({needed.k} needed)"
    return [f"The condition of the retraining trigger {TRIGGER_NAMES[active.trigger]!r} was {met}."]
