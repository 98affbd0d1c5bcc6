"""The section of a report's page about retraining: which triggers held, window by window, and what held a request back."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import get_args

from airflow_mlops.policy.findings import Report, Retraining
from airflow_mlops.policy.spec import Policy, Trigger
from airflow_mlops.stages.monitor.page.drawing import DECISIONS

_SHOWN = 12
_NAMES: dict[Trigger, str] = {
    "no_champion": "no champion",
    "performance": "realised performance",
    "estimated_performance": "estimated performance",
    "drift": "drift of important features",
    "age": "age of the training data",
    "new_data": "new data",
    "new_code": "new code",
}


def retraining(report: Report, history: Sequence[Report]) -> str:
    """The section; nothing for reports from before there was one.

    :param history: reports on earlier windows, by time
    """
    planned = report.retraining
    if planned is None:
        return ""
    shown = [*history, report][-_SHOWN:]
    return (
        f'<h2>Retraining</h2><p class="muted">{escape(_outcome(report, planned))}</p>'
        f'<div class="wide"><table>{_head(shown)}{_rows(shown, report.policy)}</table></div>'
        f"{_limits(planned)}\n"
    )


def _outcome(report: Report, planned: Retraining) -> str:
    if report.verdict.decision == "retrain":
        names = ", ".join(_NAMES[held.trigger] for held in planned.due)
        return f"Asked for, because of: {names}. The request is {planned.request.id if planned.request else '-'}."
    asked = " An earlier check of this window asked for it." if planned.request is not None else ""
    if planned.due:
        return f"Held back.{asked}"
    if planned.triggers:
        return f"Not asked for: what holds has not held in enough windows.{asked}"
    return f"Not asked for: no trigger holds.{asked}"


def _head(shown: Sequence[Report]) -> str:
    windows = "".join(f"<th>{escape(item.window.label[:10])}</th>" for item in shown)
    return f'<thead><tr><th>Trigger</th><th class="note">Enough are</th>{windows}</tr></thead>'


def _rows(shown: Sequence[Report], policy: Policy) -> str:
    held = [{item.trigger for item in (one.retraining or Retraining()).triggers} for one in shown]
    rows = [
        _row(_NAMES[trigger], _needed(trigger, policy), ["●" if trigger in of else "·" for of in held])
        for trigger in get_args(Trigger)
        if trigger in _declared(policy) or any(trigger in of for of in held)
    ]
    asked = [DECISIONS["retrain"][0] if one.retraining and one.retraining.request else "·" for one in shown]
    return f"<tbody>{''.join(rows)}{_row('asked for retraining', '', asked)}</tbody>"


def _row(name: str, needed: str, marks: Sequence[str]) -> str:
    cells = "".join(f"<td>{mark}</td>" for mark in marks)
    return f'<tr><td>{escape(name)}</td><td class="note">{escape(needed)}</td>{cells}</tr>'


def _declared(policy: Policy) -> set[Trigger]:
    given: dict[Trigger, object] = {"age": policy.max_age, "new_data": policy.new_data, "new_code": policy.code}
    return {*policy.retrain_on, *(trigger for trigger, value in given.items() if value is not None)}


def _needed(trigger: Trigger, policy: Policy) -> str:
    asked = policy.persistence
    return f"{asked.k} of {asked.n}" if trigger in policy.retrain_on else "1 of 1"


def _limits(planned: Retraining) -> str:
    listed = "".join(
        f"<dt>{limit.name}</dt><dd>{'holds back: ' if limit.reached else ''}{escape(limit.says)}</dd>"
        for limit in planned.limits
    )
    return f'<dl class="about">{listed}</dl>' if listed else ""
