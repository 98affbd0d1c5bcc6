"""Spec and result of waiting for a report on a model."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.policy.findings import Decision


class ModelHealthSpec(Spec):
    """The parameters of waiting for a report on a model with an accepted decision.

    :param model: name of the registered model
    :param window: the window of the report; by default the latest window with a report
    :param max_age: the longest acceptable time since the check; older reports are ignored. By default there is no limit
    :param accept: the accepted decisions
    """

    model: Name
    window: Window | None = None
    max_age: Duration | None = None
    accept: list[Decision] = Field(default=["healthy", "watch"], min_length=1)


class ModelHealthResult(Result):
    """A summary of the report that was found.

    :param headline: the main reason, in at most 90 characters; empty in reports written before there was one
    :param reason: the headline and the details as one text
    :param created: time at which the window was checked
    :param report_url: URL of the page in the artifact store
    """

    decision: Decision
    reason: str
    headline: str = ""
    model: str
    window: Window
    created: UtcDatetime
    report_url: str
