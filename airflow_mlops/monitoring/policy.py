"""From what was found to what to do.

Retraining needs a reason that the policy names and that retraining can mend: no champion, realised performance that is
certainly worse than at training, training data that is too old. Drift alone is worth a look and no more unless the policy
says otherwise: features drift in every season without saying much about the model. Estimated performance is worth a look
too, and says why: it knows the inputs alone, so that what the inputs do not explain is concept drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import get_args

from airflow_mlops.monitoring import retraining
from airflow_mlops.specs.base import Request
from airflow_mlops.specs.drift import Drift
from airflow_mlops.specs.metrics import METRICS
from airflow_mlops.specs.monitor import Findings, Held, Limit, Performance, Retraining, Verdict
from airflow_mlops.specs.policy import Measured, Policy, Trigger
from airflow_mlops.specs.reference import TRAINING
from airflow_mlops.specs.why import LOSSES

_NAMED = 3


def triggers(found: Findings) -> dict[Trigger, str]:
    """The triggers of the policy that hold, each with its reason in one clause."""
    champion, policy = found.champion, found.policy
    if champion is None:
        return {"no_champion": f"there is no champion: {found.model} has to be trained first"}
    holding: dict[Trigger, str] = {}
    if not _replaced(found):
        judged = found.performance if found.unmeasured is None else None
        if "performance" in policy.retrain_on and judged is not None and is_worse(judged, policy):
            holding["performance"] = "; ".join(
                [_compared(judged, policy), *_broken(found), *_cause(found), *_where(found)]
            )
        guess = found.estimated if found.unmeasured is not None else None
        if "estimated_performance" in policy.retrain_on and guess is not None and is_worse(guess, policy):
            holding["estimated_performance"] = _compared(guess, policy, "estimated")
        moved = important_drift(found)
        share = sum(drift.importance or 0.0 for drift in moved)
        if "drift" in policy.retrain_on and share >= policy.min_importance:
            holding["drift"] = (
                f"features with {share:.0%} of the importance have drifted, and {policy.min_importance:.0%} is enough: "
                f"{_listed([drift.column for drift in moved])}"
            )
    if too_old(found):
        holding["age"] = (
            f"the training data of {champion} ended {found.age_days:,.0f} days before the end of "
            f"{found.window.label}, and {_days(policy.max_age):g} are allowed"
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
    """What the policy makes of the triggers, see :func:`airflow_mlops.monitoring.retraining.plan`.

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
    if planned.request is None and (broken := _unusable(found)):
        says = f"no model can learn from inputs that are broken, so mend them first: {_listed(broken)}"
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
        return Verdict(decision="retrain", reason=_sentence([_often(held, policy) for held in planned.due]))
    concerns = [_often(held, policy) for held in planned.triggers]
    if planned.due:
        concerns += [f"retraining is held back: {limit.says}" for limit in planned.limits if limit.reached]
    said = "; ".join(concerns)
    concerns += [concern for concern in _concerns(found) if concern not in said]
    judged = found.performance if found.unmeasured is None else None
    worse = judged is not None and is_worse(judged, policy)
    if judged is not None and worse and all(held.trigger != "performance" for held in planned.triggers):
        replaced = f", but {found.champion} has replaced {found.scored_by} since" if _replaced(found) else ""
        concerns.insert(0, f"{_compared(judged, policy)}{replaced}")
    if not concerns and judged is not None:
        calm = f"nothing has drifted{_against(found.features)}"
        return Verdict(decision="healthy", reason=_sentence([_compared(judged, policy), calm]))
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


def important_drift(found: Findings) -> list[Drift]:
    """The features that have drifted and whose importance is known, what matters most first.

    A column that is broken does not count: there is nothing in it to learn from.
    """
    moved = [drift for drift in found.features if drift.drifted and not drift.note and drift.importance is not None]
    return sorted(moved, key=lambda drift: -(drift.importance or 0.0))


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


def _replaced(found: Findings) -> bool:
    """Whether another version than the champion made the predictions."""
    by, champion = found.scored_by, found.champion
    return by is not None and champion is not None and by.version != champion.version


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
            concerns.append(f"the {what} have drifted{_against([part])} (by {part.effect:.1%} of the rows{odd})")
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


def _moved(drifts: Sequence[Drift], what: str) -> str:
    names = [f"{drift.column} ({drift.remark})" if drift.remark else drift.column for drift in drifts]
    several, largest = len(drifts) > 1, max(drift.effect or 0 for drift in drifts)
    return (
        f"{len(drifts)} {what}{'s have' if several else ' has'} drifted{_against(drifts)}: {_listed(names)} "
        f"(by {'up to ' if several else ''}{largest:.1%} of the rows)"
    )


def _against(drifts: Sequence[Drift]) -> str:
    """What all of ``drifts`` were measured against, where that is not training."""
    references = {drift.reference for drift in drifts}
    return f" against {references.pop()}" if len(references) == 1 and TRAINING not in references else ""


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_NAMED])
    if more := len(names) - len(shown):
        shown.append(f"{more} more")
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def _unusable(found: Findings) -> list[str]:
    """The features that the window has no values of, or only one value."""
    broken = [f"{drift.column} ({drift.note})" for drift in found.features if drift.broken and drift.drifted]
    return [*broken, *(str(item) for item in found.schema_changes if item.before is not None and not item.compared)]


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
    if any(drift.reference != TRAINING for drift in found.features):
        # They may have moved little by little since training.
        return [f"the inputs have not drifted{_against(found.features)}, and {expected}"]
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
