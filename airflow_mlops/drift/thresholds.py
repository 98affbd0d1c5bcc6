"""What counts as drift."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model


class DriftThresholds(Model):
    """What counts as drift.

    :param false_alarm_rate: share of windows, between 0 and 1, in which any column may be reported as drifted although
        nothing has changed
    :param min_effect: smallest share of rows, between 0 and 1, that a change must concern to count as drift, however
        significant it is. A shift by 0.1 standard deviations of a normal distribution is 0.04
    :param min_rows: drift is not measured with fewer rows than this
    """

    false_alarm_rate: float = Field(default=0.05, gt=0, lt=1)
    min_effect: float = Field(default=0.02, ge=0, lt=1)
    min_rows: int = Field(default=50, ge=1)
