"""The thresholds from which a change counts as drift."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model


class DriftThresholds(Model):
    """The thresholds from which a change counts as drift.

    :param false_alarm_rate: largest share of windows, between 0 and 1, in which any column may be reported as drifted
        although nothing has changed
    :param min_effect: smallest share of rows, between 0 and 1, that a change must affect to count as drift, however
        significant it is. A shift of a normal distribution by 0.1 standard deviations affects 0.04
    :param min_rows: smallest number of rows, in the window and in the reference, with which drift is measured
    """

    false_alarm_rate: float = Field(default=0.05, gt=0, lt=1)
    min_effect: float = Field(default=0.02, ge=0, lt=1)
    min_rows: int = Field(default=50, ge=1)
