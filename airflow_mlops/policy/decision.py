"""From what was found to what to do.

Retraining needs a reason that the policy names and that retraining can mend: no champion, realised performance that is
certainly worse than at training, training data that is too old. Drift alone is worth a look and no more unless the policy
says otherwise: features drift in every season without saying much about the model. Estimated performance is worth a look
too, and says why: it knows the inputs alone, so that what the inputs do not explain is concept drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from airflow_mlops.core.calls import Request
from airflow_mlops.policy import retraining
from airflow_mlops.policy.findings import Findings, Held, Limit, Retraining, Verdict
from airflow_mlops.policy.judgement import days, important_drift, is_worse, replaced, too_old
from airflow_mlops.policy.reasons import against, broken, cause, compared, concerns, listed, sentence, unusable, where
from airflow_mlops.policy.spec import Measured, Policy, Trigger


def triggers(found: Findings) -> dict[Trigger, str]:
    """The triggers of the policy that hold, each with its reason in one clause."""
    champion, policy = found.champion, found.policy
    if champion is None:
        return {"no_champion": f"there is no champion: {found.model} has to be trained first"}
    holding: dict[Trigger, str] = {}
    if not replaced(found):
        judged = found.performance if found.unmeasured is None else None
        if "performance" in policy.retrain_on and judged is not None and is_worse(judged, policy):
            holding["performance"] = "; ".join([compared(judged, policy), *broken(found), *cause(found), *where(found)])
        guess = found.estimated if found.unmeasured is not None else None
        if "estimated_performance" in policy.retrain_on and guess is not None and is_worse(guess, policy):
            holding["estimated_performance"] = compared(guess, policy, "estimated")
        moved = important_drift(found)
        share = sum(drift.importance or 0.0 for drift in moved)
        if "drift" in policy.retrain_on and share >= policy.min_importance:
            holding["drift"] = (
                f"features with {share:.0%} of the importance have drifted, and {policy.min_importance:.0%} is enough: "
                f"{listed([drift.column for drift in moved])}"
            )
    if too_old(found):
        holding["age"] = (
            f"the training data of {champion} ended {found.age_days:,.0f} days before the end of "
            f"{found.window.label}, and {days(policy.max_age):g} are allowed"
        )
    if (come := _come(found)) is not None:
        holding["new_data"] = f"since the training data of {champion} ended, {come}"
    if policy.code is not None and found.code_version is not None and found.code_version != policy.code:
        holding["new_code"] = f"{champion} was trained by code {found.code_version}, and the code is {policy.code} now"
    return holding


def plan(
    found: Findings,
    earlier: Sequence[Findings] = (),
    asked: Sequence[Request] = (),
    refused: Sequence[Request] = (),
) -> Retraining:
    """What the policy makes of the triggers, see :func:`airflow_mlops.policy.retraining.plan`.

    Broken inputs hold a request back: what fell is not the model.

    :param earlier: what was found in earlier windows, by time. They are judged by the present policy, and those count
        in which the same version made the predictions
    """
    name = retraining.name_of(found.model, found.window)
    held_before = [
        triggers(item.model_copy(update={"policy": found.policy, "champion": item.scored_by}))
        if item.scored_by is not None and item.scored_by == found.scored_by
        else {}
        for item in earlier
    ]
    planned = retraining.plan(name, found.window, found.policy, triggers(found), held_before, asked, refused)
    if planned.request is None and (mend := unusable(found)):
        says = f"no model can learn from inputs that are broken, so mend them first: {listed(mend)}"
        planned = planned.model_copy(
            update={"limits": [*planned.limits, Limit(name="inputs", says=says, reached=True)]}
        )
    return planned


def decide(found: Findings, planned: Retraining | None = None) -> Verdict:
    """The verdict on what was found.

    :param planned: what the policy makes of it, with what is known of other windows; nothing unless given
    """
    policy, planned = found.policy, planned or plan(found)
    if planned.asks:
        return Verdict(decision="retrain", reason=sentence([_often(held, policy) for held in planned.due]))
    said = [_often(held, policy) for held in planned.triggers]
    if planned.due:
        said += [f"retraining is held back: {limit.says}" for limit in planned.limits if limit.reached]
    already = "; ".join(said)
    said += [concern for concern in concerns(found) if concern not in already]
    judged = found.performance if found.unmeasured is None else None
    worse = judged is not None and is_worse(judged, policy)
    if judged is not None and worse and all(held.trigger != "performance" for held in planned.triggers):
        since = f", but {found.champion} has replaced {found.scored_by} since" if replaced(found) else ""
        said.insert(0, f"{compared(judged, policy)}{since}")
    if not said and judged is not None:
        calm = f"nothing has drifted{against(found.features)}"
        return Verdict(decision="healthy", reason=sentence([compared(judged, policy), calm]))
    if judged is not None and not worse:
        said.append(compared(judged, policy))
    return Verdict(decision="watch", reason=sentence(said))


def _come(found: Findings) -> str | None:
    """How much new data has come, in one clause, if it is as much as the policy asks for."""
    wanted, come = found.policy.new_data, found.arrivals
    if wanted is None or come is None:
        return None
    if wanted.windows is not None and come.windows >= wanted.windows:
        return f"{come.windows} windows of {come.dataset} have come, and {wanted.windows} are asked for"
    if wanted.share is not None and come.share is not None and come.share >= wanted.share:
        return (
            f"{come.rows:,} rows of {come.dataset} have come, {come.share:.0%} of what it was trained on, and "
            f"{wanted.share:.0%} are asked for"
        )
    return None


def _often(held: Held, policy: Policy) -> str:
    """The reason of a trigger, and in how many windows it held where that counts."""
    asked = policy.persistence
    if asked.n == 1 or held.trigger not in get_args(Measured):
        return held.reason
    needed = "" if held.enough else f", and retraining takes {asked.k}"
    return f"{held.reason}; so it was in {held.windows} of the last {asked.n} windows{needed}"
