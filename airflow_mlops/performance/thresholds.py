"""What counts as worse performance."""

from __future__ import annotations

from pydantic import Field, StrictBool, model_validator

from airflow_mlops.core.durations import Duration
from airflow_mlops.drift.thresholds import DriftThresholds
from airflow_mlops.metrics.catalog import check_metric


class PerformanceThresholds(DriftThresholds):
    """What counts as worse performance, and how many labels it takes to say so.

    :param metric: the metric of realised performance that decides; ``roc_auc`` (binary), ``accuracy`` (multiclass) or
        ``rmse`` (regression) by default. A user's own metric is named by import path and must have been measured at
        training, see :mod:`airflow_mlops.metrics.custom`
    :param greater_is_better: the direction of a user's own metric
    :param tolerance: how much worse than at training is still good enough: an absolute difference for metrics where
        more is better, a share of the reference value for errors and losses
    :param confidence: confidence level of the interval around realised performance
    :param min_labels: performance is not judged with fewer labels than this
    :param min_coverage: performance is not judged if a smaller share of the predictions has a label
    :param grace: how long after the end of a window its labels may take to arrive; performance is not judged before
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
