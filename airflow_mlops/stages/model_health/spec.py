"""Spec and result of the stage ``model_health``."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.policy.findings import Decision


class ModelHealthSpec(Spec):
    """Parameters of the check that monitoring has reported an accepted decision on a model.

    :param model: name of the registered model
    :param window: the time window that the report covers; by default the latest window with a report
    :param max_age: maximum age of the report. An older report is ignored. By default a report of any age is accepted
    :param accept: the accepted decisions. A report with another decision raises an error
    """

    model: Name
    window: Window | None = None
    max_age: Duration | None = None
    accept: list[Decision] = Field(default=["healthy", "watch"], min_length=1)


class ModelHealthResult(Result):
    """A summary of a monitoring report with an accepted decision.

    :param headline: the main reason for the decision, in at most 90 characters; empty in reports by older versions of
        this package
    :param reason: the headline and the details as one text
    :param created: time at which monitoring wrote the report
    :param report_url: URL of the report's HTML page in the artifact store
    """

    decision: Decision
    reason: str
    headline: str = ""
    model: str
    window: Window
    created: UtcDatetime
    report_url: str
