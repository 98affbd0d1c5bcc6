"""When monitoring asks for retraining, and when to look closer."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from airflow_mlops.specs.base import Model
from airflow_mlops.specs.durations import Duration


class Policy(Model):
    """When to ask for retraining, and when to look closer.

    :param metric: the metric of realised performance that decides; by task ``roc_auc``, ``accuracy`` or ``rmse``
        unless given
    :param tolerance: how much worse than at training is still good enough: a difference for metrics where more is
        better, a share of the reference for errors and losses
    :param confidence: of the interval around realised performance
    :param false_alarm_rate: the share of windows in which anything may be said to have drifted although nothing has
    :param min_effect: the share of rows that a change must concern to be called drift, however sure it is; 0.1 standard
        deviations of a normal distribution are 0.04
    :param min_rows: with fewer rows drift is not measured
    :param min_labels: with fewer labels performance is not judged
    :param min_coverage: with a smaller share of labelled predictions performance is not judged
    :param grace: how long after a window's end its labels may take; before that performance is not judged
    :param max_staleness: how long before a window's end its newest row may be
    :param max_age: retrain when the champion's training data ended longer ago than this, seen from the window's end
    """

    metric: str | None = None
    tolerance: float = Field(default=0.02, ge=0)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    false_alarm_rate: float = Field(default=0.05, gt=0, lt=1)
    min_effect: float = Field(default=0.02, ge=0, lt=1)
    min_rows: int = Field(default=50, ge=1)
    min_labels: int = Field(default=200, ge=1)
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    grace: Duration | None = None
    max_staleness: Duration | None = None
    max_age: timedelta | None = None
