"""The health of a model, as monitoring saw it: what is waited for, and what is told."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.policy.findings import Decision


class ModelHealthSpec(Spec):
    """Wait for a report on a model, and accept only some verdicts.

    :param window: the window the report is about; the latest that has one unless given
    :param max_age: how long ago the window may have been checked
    :param accept: the decisions to go on with
    """

    model: Name
    window: Window | None = None
    max_age: Duration | None = None
    accept: list[Decision] = Field(default=["healthy", "watch"], min_length=1)


class ModelHealthResult(Result):
    """What the report says.

    :param created: when the window was checked
    :param report_url: where the page is in the artifact store
    """

    decision: Decision
    reason: str
    model: str
    window: Window
    created: UtcDatetime
    report_url: str
