"""Decide whether a window requests retraining, by triggers, persistence, cooldown, budget, and refused candidates.

A retraining trigger is a condition that may request retraining. :func:`triggers` returns the triggers whose condition
is met in a window. :func:`plan` decides whether these triggers lead to a request, and
:mod:`airflow_mlops.registry.requests` records the request.

All limits are measured between the times of the windows, so they do not depend on when a window is checked. Requests by
later windows count as well, because windows may be checked late and in any order. Cooldown and budget count only the
requests that are passed to :func:`plan`. :func:`airflow_mlops.registry.requests.counted` selects these requests, and
leaves out requests of earlier windows that no training answered. The cooldown ignores requests after which the champion
changed for another reason.

A candidate that is trained on the same data and code would be refused again. After ``r`` refused requests, the next
request is possible ``2 ** (r - 1)`` windows after the last refused request. The wait doubles with each refusal, so each
new candidate is trained on more new data. The count of refusals starts again with a new champion and with a new code
version (``policy.code``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import get_args

from airflow_mlops.core.calls import Request
from airflow_mlops.core.counts import counted
from airflow_mlops.core.windows import Window
from airflow_mlops.core.zones import instant, local
from airflow_mlops.policy.checks import (
    days,
    important_drift,
    is_replaced,
    is_too_old,
    is_worse,
    judged_performance,
    lost_coverage,
)
from airflow_mlops.policy.details.challengers import deciding_comparison, gain_of
from airflow_mlops.policy.details.inputs import broken_inputs
from airflow_mlops.policy.details.performance import change_of
from airflow_mlops.policy.findings import ActiveTrigger, Findings, Limit, RetrainingPlan
from airflow_mlops.policy.spec import Measured, Policy, Trigger
from airflow_mlops.policy.wording import HEADLINE_LENGTH, duration_text, listed, name, share, shorten

MEASURED = get_args(Measured)
BROKEN_WINDOWS = 3
"""Number of windows in a row in which a feature must be broken before a request leaves an important feature out."""
UNIMPORTANT = 0.05
"""The largest sum of the permutation importances (a share) of broken features that a request leaves out immediately.

Above this sum, the features must have been broken in :data:`BROKEN_WINDOWS` windows in a row.
"""


def request_id(model: str, window: Window) -> str:
    """Return the id of the request that ``window`` makes for ``model``. A window can make only one request."""
    return f"{model}/{window.identity}"


def triggers(findings: Findings) -> dict[Trigger, str]:
    """Return the reason, in at most 90 characters, of each trigger whose condition is met in the window."""
    return {trigger: shorten(reason, HEADLINE_LENGTH) for trigger, reason in _triggers(findings)}


def plan(
    findings: Findings,
    earlier: Sequence[Findings] = (),
    requests: Sequence[Request] = (),
    refused: Sequence[Request] = (),
    replaced: Collection[str] = (),
) -> RetrainingPlan:
    """Decide whether the window requests retraining.

    A new model cannot learn from broken features. A request waits for the repair of broken features as long as
    :func:`waits_for_repair` returns a reason. Without a reason, the training leaves the broken features out.

    While a feature has been broken for fewer than :data:`BROKEN_WINDOWS` windows in a row, the gain of a challenger is not a
    trigger, because a challenger has learned from the broken values.

    :param earlier: findings of earlier windows, ordered by time. The current policy is applied to the earlier findings.
        Only windows with predictions of the same version count
    :param requests: the requests that count for cooldown and budget, in any order, including the request of this window
        if there is one
    :param refused: the requests whose candidates were refused since the champion last changed
    :param replaced: ids of the requests after which the champion changed for another reason
    """
    triggers_before = [
        triggers(item.under(findings.policy))
        if item.scored_by is not None and item.scored_by == findings.scored_by
        else {}
        for item in earlier
    ]
    active = triggers(findings)
    if broken_inputs(findings).keys() - _persistently_broken(earlier):
        active.pop("challenger", None)
    planned = limited(
        findings.model,
        findings.window,
        findings.policy,
        active,
        triggers_before,
        requests,
        refused,
        replaced,
    )
    broken = broken_inputs(findings)
    if planned.request is not None or not broken:
        return planned
    kept_waiting = waits_for_repair(findings, earlier)
    limits = [
        *planned.limits,
        Limit(name="inputs", says=_inputs(findings, kept_waiting), reached=kept_waiting is not None),
    ]
    without = [] if kept_waiting is not None else list(broken)
    return RetrainingPlan(triggers=planned.triggers, limits=limits, without=without)


def waits_for_repair(findings: Findings, earlier: Sequence[Findings]) -> str | None:
    """Return a clause that explains why a request waits for the repair of broken features; ``None`` if it does not.

    A request always waits if ``on_broken`` of the policy is ``wait``, or if all features are broken. Otherwise:

    - A request does not wait for features that were broken in each of the last :data:`BROKEN_WINDOWS` windows with
      rows, including this window.
    - A request does not wait for other broken features either if their permutation importances are known and add up to
      at most :data:`UNIMPORTANT`.
    - In all other cases, the request waits.

    :param earlier: findings of earlier windows, ordered by time
    """
    broken = broken_inputs(findings)
    if findings.policy.on_broken == "wait":
        return "on_broken is 'wait'"
    if {drift.column for drift in findings.features} <= broken.keys():
        return "no feature would be left"
    persistent = _persistently_broken(earlier)
    new = [name for name in broken if name not in persistent]
    importance = {drift.column: drift.importance for drift in findings.features}
    used = sum(importance.get(name) or 0.0 for name in new)
    known = all(importance.get(name) is not None for name in new)
    if known and used <= UNIMPORTANT:
        return None
    uses = f"{share(used, 0)} of the permutation importance" if known else "an unknown share of the importance"
    return f"features broken for fewer than {BROKEN_WINDOWS} windows in a row have {uses}"


def _persistently_broken(earlier: Sequence[Findings]) -> set[str]:
    """Return the features that were broken in each of the last ``BROKEN_WINDOWS - 1`` earlier windows with rows.

    The set is empty if there are fewer such windows.

    :param earlier: findings of earlier windows, ordered by time
    """
    before = [broken_inputs(item).keys() for item in earlier if item.rows][1 - BROKEN_WINDOWS :]
    return set.intersection(*map(set, before)) if len(before) == BROKEN_WINDOWS - 1 else set()


def _inputs(findings: Findings, waits: str | None) -> str:
    """Describe which features are broken, and whether a request waits for their repair or leaves them out.

    The returned text has no full stop at its end.

    :param waits: a clause that explains why a request waits; ``None`` if a request leaves the features out
    """
    broken = broken_inputs(findings)
    clauses = listed([f"{name} {what}" for name, what in broken.items()], 10)
    if waits is not None:
        return f"{clauses}, and {waits}. Repair these features and run MonitorOperator again"
    return f"{clauses}; a request leaves {listed(list(broken), 10)} out of the features"


def limited(
    model: str,
    window: Window,
    policy: Policy,
    active: Mapping[Trigger, str],
    earlier: Sequence[Collection[Trigger]] = (),
    requests: Sequence[Request] = (),
    refused: Sequence[Request] = (),
    replaced: Collection[str] = (),
) -> RetrainingPlan:
    """Apply persistence, cooldown, budget and earlier refusals to the active triggers of a window.

    :param active: the triggers whose condition is met in the window, each with its reason
    :param earlier: the triggers whose condition was met in each earlier window, ordered by time
    :param requests: the requests that count for cooldown and budget, in any order, including the request of this window
        if there is one
    :param refused: the requests whose candidates were refused since the champion last changed
    :param replaced: ids of the requests after which the champion changed for another reason
    """
    own_id = request_id(model, window)
    own = next((request for request in requests if request.id == own_id), None)
    found = [_persistent(trigger, reason, policy, earlier) for trigger, reason in active.items()]
    if own is not None:
        return RetrainingPlan(triggers=found, request=own)
    current = [request for request in requests if request.id not in replaced]
    limits = [
        *([_cooldown(window, policy.cooldown, current)] if policy.cooldown else []),
        *([_budget(window, policy.budget.requests, policy.budget.period, requests)] if policy.budget else []),
        *_refusals(window, [request for request in refused if request.code == policy.code]),
    ]
    return RetrainingPlan(triggers=found, limits=limits)


def _triggers(findings: Findings) -> Iterator[tuple[Trigger, str]]:
    champion, policy = findings.champion, findings.policy
    if champion is None:
        yield "no_champion", f"Model {name(findings.model)!r} has no champion yet"
        return
    if "challenger" in policy.retrain_on and findings.challenger is not None and findings.challenger.best is not None:
        yield "challenger", gain_of(findings.challenger, findings.challenger.best)
    if not is_replaced(findings):
        yield from _measured(findings)
    if is_too_old(findings):
        yield (
            "age",
            f"Training data are {duration_text(findings.age_days or 0)} old (limit: {duration_text(days(policy.max_age))})",
        )
    if (arrived := _new_data(findings)) is not None:
        yield "new_data", arrived
    if policy.code is not None and findings.code_version is not None and findings.code_version != policy.code:
        yield (
            "new_code",
            f"Training code is {name(policy.code)!r}, but v{champion.version} used {name(findings.code_version)!r}",
        )


def _measured(findings: Findings) -> Iterator[tuple[Trigger, str]]:
    policy, judged = findings.policy, judged_performance(findings)
    if "performance" in policy.retrain_on:
        if deciding_comparison(findings) is None and judged is not None and is_worse(judged, policy):
            yield "performance", change_of(judged, policy)
        # The comparison with challengers does not measure intervals, and every retraining computes them again.
        elif (lost := lost_coverage(findings)) is not None:
            yield "performance", change_of(lost, policy)
    estimated = findings.estimated if findings.unmeasured is not None else None
    if "estimated_performance" in policy.retrain_on and estimated is not None and is_worse(estimated, policy):
        yield "estimated_performance", change_of(estimated, policy, estimated=True)
    drifted = important_drift(findings)
    total = sum(drift.importance or 0.0 for drift in drifted)
    if "drift" in policy.retrain_on and total >= policy.min_importance:
        names = listed([name(drift.column) for drift in drifted])
        yield "drift", f"Drifted features have {share(total, 0)} of the importance: {names}"


def _new_data(findings: Findings) -> str | None:
    """Return a clause about the new data if their amount triggers retraining; otherwise ``None``."""
    wanted, arrived = findings.policy.new_data, findings.arrivals
    if wanted is None or arrived is None:
        return None
    dataset = name(arrived.dataset)
    if wanted.windows is not None and arrived.windows >= wanted.windows:
        return f"{arrived.windows:,} new windows of {dataset!r} since training ({wanted.windows} needed)"
    if wanted.share is not None and arrived.share is not None and arrived.share >= wanted.share:
        return (
            f"New rows of {dataset!r}: {share(arrived.share, 0)} of the training set ({share(wanted.share, 0)} needed)"
        )
    return None


def _persistent(trigger: Trigger, reason: str, policy: Policy, earlier: Sequence[Collection[Trigger]]) -> ActiveTrigger:
    if trigger not in MEASURED:
        return ActiveTrigger(trigger=trigger, reason=reason)
    needed = policy.persistence
    windows = 1 + sum(trigger in active for active in [*reversed(earlier)][: needed.n - 1])
    return ActiveTrigger(trigger=trigger, reason=reason, windows=windows, enough=windows >= needed.k)


def _cooldown(window: Window, cooldown: timedelta, requests: Sequence[Request]) -> Limit:
    own = local(window.end, window.zone)
    near = [item.window for item in requests if abs(local(item.window.end, window.zone) - own) < cooldown]
    if not near:
        return Limit(name="cooldown", says=f"no other request within {duration_text(days(cooldown))}", reached=False)
    last = max(near, key=lambda other: other.end)
    until = _time(instant(local(last.end, window.zone) + cooldown, window.zone))
    says = f"{last.label} requested retraining, and the cooldown of {duration_text(days(cooldown))} lasts until {until}"
    return Limit(name="cooldown", says=says, reached=True)


def _budget(window: Window, allowed: int, period: timedelta, requests: Sequence[Request]) -> Limit:
    end = local(window.end, window.zone)
    ends = sorted(local(request.window.end, window.zone) for request in requests)
    own = bisect_left(ends, end)
    # No period that contains this window may have more requests than allowed, counting the request of this window.
    with_own = [*ends[:own], end, *ends[own:]]
    full = [
        with_own[first]
        for first in range(max(0, own - allowed), min(own, len(with_own) - 1 - allowed) + 1)
        if with_own[first + allowed] - with_own[first] < period
    ]
    if full:
        until = _time(instant(full[-1] + period, window.zone))
        says = f"the budget of {allowed} in {duration_text(days(period))} is exhausted until {until}"
        return Limit(name="budget", says=says, reached=True)
    used = sum(end - period < other <= end for other in ends)
    return Limit(
        name="budget", says=f"{used} of {allowed} requests in {duration_text(days(period))} are used", reached=False
    )


def _refusals(window: Window, refused: Sequence[Request]) -> list[Limit]:
    if not refused:
        return []
    last = max((request.window for request in refused), key=lambda tried: tried.start)
    times = len({request.id for request in refused})
    wait = 2 ** (times - 1)
    # The quotient is rounded, because months differ in length.
    since = round((window.start - last.start) / (last.end - last.start))
    refusal = (
        f"the candidates trained for the request of {last.label} were refused"
        if times == 1
        else f"the candidates trained for {times} requests were refused, most recently for {last.label}"
    )
    says = f"{refusal}; the next request is possible {counted(wait, 'window')} after {last.label} at the earliest"
    return [Limit(name="refusals", says=says, reached=since < wait)]


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d}" if (at.hour, at.minute, at.second) == (0, 0, 0) else f"{at:%Y-%m-%d %H:%M} UTC"
