"""Build the section of the monitoring report on retraining.

The section shows the retraining triggers by window and the limits on requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from airflow_mlops.policy.findings import Report, RetrainingPlan
from airflow_mlops.policy.spec import Policy, Trigger
from airflow_mlops.policy.verdict import TRIGGER_NAMES
from airflow_mlops.stages.monitor.page.drawing import BADGES

_MAX_WINDOWS = 12


@dataclass(frozen=True)
class Row:
    """A row of the table, with the windows in which the condition of a retraining trigger was met.

    :param name: name of the retraining trigger
    :param needed: number of windows in which the condition must be met, such as ``2 of 3``
    :param marks: one mark for each window: ``●`` if the condition was met, otherwise ``·``
    """

    name: str
    needed: str
    marks: list[str]


@dataclass(frozen=True)
class RetrainingSection:
    """The section of the monitoring report on retraining.

    :param outcome: one or two sentences that say whether retraining is requested, and why
    :param windows: labels of the reported window and of the windows before it, ordered by time: the columns of the
        table
    :param rows: rows of the table: one for each retraining trigger, and one for requests
    :param limits: name and state of each limit on requests
    """

    outcome: str
    windows: list[str]
    rows: list[Row]
    limits: list[tuple[str, str]]


def retraining_section(report: Report, history: Sequence[Report]) -> RetrainingSection | None:
    """Build the section on retraining; ``None`` for old reports, which contain no decision about retraining.

    :param history: reports on earlier windows of the same model, ordered by time
    """
    planned = report.retraining
    if planned is None:
        return None
    shown = [*history, report][-_MAX_WINDOWS:]
    return RetrainingSection(
        outcome=_outcome(report, planned),
        windows=[item.window.short_label for item in shown],
        rows=_rows(shown, report.policy),
        limits=[(item.name, f"reached: {item.says}" if item.reached else item.says) for item in planned.limits],
    )


def _outcome(report: Report, planned: RetrainingPlan) -> str:
    if report.verdict.decision == "retrain":
        names = ", ".join(TRIGGER_NAMES[active.trigger] for active in planned.due)
        return f"Retraining is requested because of {names}. Request: {planned.request.id if planned.request else '-'}."
    earlier = " An earlier check of this window requested retraining." if planned.request is not None else ""
    if planned.due:
        return f'Retraining is postponed by a limit that is marked "reached" below.{earlier}'
    if planned.triggers:
        return f"Retraining is not requested, because no trigger's condition was met in enough windows.{earlier}"
    return f"Retraining is not requested, because no trigger's condition is met.{earlier}"


def _rows(shown: Sequence[Report], policy: Policy) -> list[Row]:
    active = [{item.trigger for item in (report.retraining or RetrainingPlan()).triggers} for report in shown]
    requested = [BADGES["retrain"].mark if item.retraining and item.retraining.request else "·" for item in shown]
    return [
        *(
            Row(TRIGGER_NAMES[trigger], _needed(trigger, policy), ["●" if trigger in held else "·" for held in active])
            for trigger in get_args(Trigger)
            if trigger in _enabled(policy) or any(trigger in held for held in active)
        ),
        Row("retraining requested", "", requested),
    ]


def _enabled(policy: Policy) -> set[Trigger]:
    optional: dict[Trigger, object] = {"age": policy.max_age, "new_data": policy.new_data, "new_code": policy.code}
    return {*policy.retrain_on, *(trigger for trigger, value in optional.items() if value is not None)}


def _needed(trigger: Trigger, policy: Policy) -> str:
    persistence = policy.persistence
    return f"{persistence.k} of {persistence.n}" if trigger in policy.retrain_on else "1 of 1"
