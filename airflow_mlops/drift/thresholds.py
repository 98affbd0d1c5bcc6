"""The settings that decide which changes count as drift."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model


class DriftThresholds(Model):
    """The settings that decide which changes count as drift.

    :param false_alarm_rate: largest share of windows, between 0 and 1, in which any column may be reported as drifted
        although nothing has changed
    :param min_effect: smallest effect that counts as drift, as a share of rows between 0 and 1. Smaller effects are
        ignored even if they are significant. A shift of a normal distribution by 0.1 standard deviations has an effect
        of 0.04. A change of a rare value of a categorical column can also count by its odds ratio
        (:mod:`airflow_mlops.drift.categorical`)
    :param min_rows: smallest number of rows in the window and in the reference. Drift is not measured with fewer rows
    """

    false_alarm_rate: float = Field(default=0.05, gt=0, lt=1)
    min_effect: float = Field(default=0.02, ge=0, lt=1)
    min_rows: int = Field(default=50, ge=1)
