"""When triggers that hold lead to a request for retraining: persistence, cooldown, budget, and what the gates refused.

Everything is counted in windows and their ends, never by the clock, so that a replay decides as the first run did; and
in both directions, as windows may be checked late and in any order.

A request that the gates refused would be refused again on the same data and code. After the first refusal the next window
may ask, after ``r`` in a row the window ``2 ** (r - 1)`` windows after the one that was refused last: with each try the data
that is new has doubled. A new champion and another version of the code (``policy.code``) begin anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import get_args

from airflow_mlops.core.calls import Request
from airflow_mlops.core.windows import Window
from airflow_mlops.policy.findings import Held, Limit, Retraining
from airflow_mlops.policy.spec import Measured, Policy, Trigger

_MEASURED = get_args(Measured)


def name_of(model: str, window: Window) -> str:
    """The id of the request for ``model`` that ``window`` may make."""
    return f"{model}/{window.label}"


def plan(
    name: str,
    window: Window,
    policy: Policy,
    holding: Mapping[Trigger, str],
    earlier: Sequence[Collection[Trigger]] = (),
    asked: Sequence[Request] = (),
    refused: Sequence[Request] = (),
) -> Retraining:
    """What the policy makes of the triggers that hold.

    :param name: the id of the request that the window may make
    :param holding: the triggers that hold in the window, each with its reason
    :param earlier: those that held in each earlier window, by time
    :param asked: all requests so far, in any order
    :param refused: those that the gates have refused since the champion last changed
    """
    own = next((request for request in asked if request.id == name), None)
    held = [_held(trigger, reason, policy, earlier) for trigger, reason in holding.items()]
    if own is not None:
        return Retraining(triggers=held, request=own)
    limits = [
        *([_cooldown(window, policy.cooldown, asked)] if policy.cooldown else []),
        *([_budget(window, policy.budget.requests, policy.budget.period, asked)] if policy.budget else []),
        *_refusals(window, [request for request in refused if request.code == policy.code]),
    ]
    return Retraining(triggers=held, limits=limits)


def _held(trigger: Trigger, reason: str, policy: Policy, earlier: Sequence[Collection[Trigger]]) -> Held:
    if trigger not in _MEASURED:
        return Held(trigger=trigger, reason=reason)
    asked = policy.persistence
    windows = 1 + sum(trigger in held for held in [*reversed(earlier)][: asked.n - 1])
    return Held(trigger=trigger, reason=reason, windows=windows, enough=windows >= asked.k)


def _cooldown(window: Window, cooldown: timedelta, asked: Sequence[Request]) -> Limit:
    near = [other.window for other in asked if abs(other.window.end - window.end) < cooldown]
    if not near:
        return Limit(name="cooldown", says=f"no other window within {_span(cooldown)} asked", reached=False)
    last = max(near, key=lambda other: other.end)
    says = f"{last.label} asked, and the cooldown of {_span(cooldown)} lasts until {_time(last.end + cooldown)}"
    return Limit(name="cooldown", says=says, reached=True)


def _budget(window: Window, requests: int, period: timedelta, asked: Sequence[Request]) -> Limit:
    ends = sorted(request.window.end for request in asked)
    own = bisect_left(ends, window.end)
    # With the window among them: is any period that it lies in fuller than it may be?
    with_own = [*ends[:own], window.end, *ends[own:]]
    full = [
        with_own[first]
        for first in range(max(0, own - requests), min(own, len(with_own) - 1 - requests) + 1)
        if with_own[first + requests] - with_own[first] < period
    ]
    if full:
        says = f"the budget of {requests} in {_span(period)} is used up until {_time(full[-1] + period)}"
        return Limit(name="budget", says=says, reached=True)
    used = sum(window.end - period < end <= window.end for end in ends)
    return Limit(name="budget", says=f"{used} of {requests} in {_span(period)} are used", reached=False)


def _refusals(window: Window, refused: Sequence[Request]) -> list[Limit]:
    if not refused:
        return []
    last = max((request.window for request in refused), key=lambda tried: tried.start)
    times = len({request.id for request in refused})
    wait = 2 ** (times - 1)
    # Months differ in length.
    since = round((window.start - last.start) / (last.end - last.start))
    often = "" if times == 1 else f", {times} times in a row"
    says = (
        f"the gates refused what {last.label} asked for{often}, and the next try waits for "
        f"{wait} more window{'s' if wait > 1 else ''} of data"
    )
    return [Limit(name="refusals", says=says, reached=since < wait)]


def _span(duration: timedelta) -> str:
    hours = duration / timedelta(hours=1)
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d}" if (at.hour, at.minute, at.second) == (0, 0, 0) else f"{at:%Y-%m-%d %H:%M} UTC"
