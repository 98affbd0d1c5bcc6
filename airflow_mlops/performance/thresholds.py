"""Thresholds of performance."""

from __future__ import annotations

from pydantic import Field, StrictBool, model_validator

from airflow_mlops.core.durations import Duration
from airflow_mlops.drift.thresholds import DriftThresholds
from airflow_mlops.metrics.catalog import check_metric


class PerformanceThresholds(DriftThresholds):
    """When performance counts as worse, and when there are enough labels to judge it.

    :param metric: the metric of performance; by default ``roc_auc`` (binary), ``accuracy`` (multiclass) or ``rmse``
        (regression). A user's own metric is named by its import path and must have been measured at training, see
        :mod:`airflow_mlops.metrics.custom`
    :param greater_is_better: the direction of a user's own metric
    :param tolerance: the acceptable loss of performance since training: an absolute difference for metrics for which higher is
        better, a share of the reference value for errors and losses
    :param confidence: confidence level of the interval of performance
    :param min_labels: performance is judged with at least this many labels
    :param min_coverage: performance is judged if at least this share of the predictions has a label
    :param grace: time after the end of a window in which labels may arrive; performance is judged afterwards
    """

    metric: str | None = None
    greater_is_better: StrictBool | None = None
    tolerance: float = Field(default=0.02, ge=0)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    min_labels: int = Field(default=200, ge=1)
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    grace: Duration | None = None

    @model_validator(mode="after")
    def _known_metric(self) -> PerformanceThresholds:
        check_metric(self.metric, self.greater_is_better)
        return self
