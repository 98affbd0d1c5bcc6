"""Thresholds for judging performance."""

from __future__ import annotations

from typing import Any

from pydantic import Field, FiniteFloat, model_validator

from airflow_mlops.core.durations import Duration
from airflow_mlops.drift.thresholds import DriftThresholds
from airflow_mlops.metrics.catalog import INTERVAL_METRICS, check_metric, find_metric, is_custom
from airflow_mlops.metrics.declarations import name_metric


class PerformanceThresholds(DriftThresholds):
    """The thresholds for worse performance, and for the labels that are needed to judge performance.

    :param metric: the metric that measures performance; by default ``roc_auc`` (binary; ``accuracy`` for a model
        without probabilities), ``accuracy`` (multiclass) or ``rmse`` (regression), or the metric by which the model is
        judged (:mod:`airflow_mlops.metrics.judged`). A custom metric is named by its import path and must have been measured at training, see
        :mod:`airflow_mlops.metrics.custom`. ``expected_cost`` also needs the keys ``false_positive`` and
        ``false_negative`` (:mod:`airflow_mlops.metrics.costs`), ``tweedie_deviance`` the key ``power``
        (:mod:`airflow_mlops.metrics.deviances`), ``pinball`` and ``quantile_coverage_gap`` the key ``alpha``
        (:mod:`airflow_mlops.metrics.quantiles`), and ``ndcg`` the keys ``k`` and ``group``
        (:mod:`airflow_mlops.metrics.rankings`)
    :param greater_is_better: whether larger values of a custom metric are better; ``None`` for a built-in metric
    :param tolerance: how much worse the metric may be than at training. If larger values of the metric are better, and
        for the coverage gap of a quantile, the tolerance is an absolute difference. Otherwise (errors and losses), the
        tolerance is a share of the value at training. The coverage of prediction intervals may be lower, and fairness
        metrics may be higher than in the evaluation, by ``tolerance`` as an absolute difference
    :param min: the smallest acceptable value of the metric, if larger values of the metric are better. Performance
        counts as worse if the whole confidence interval lies below ``min``, regardless of the value at training
    :param max: the largest acceptable value of the metric, for errors and losses, in the unit of the metric
    :param best_recent: length of the time before the window. Performance is also compared with the best level that a
        champion of this model reached in this time (:mod:`airflow_mlops.performance.levels`). By default, performance
        is not compared with earlier champions
    :param confidence: confidence level of the interval of the metric, from 0.5 to below 1
    :param min_labels: the smallest number of labels for which performance is judged
    :param min_coverage: the smallest share of predictions with a label for which performance is judged, from 0 to 1
    :param grace: time after the end of a window in which labels may still arrive. Performance is judged only after this
        time; by default, performance is judged immediately
    :param groups: column of the predictions that names the cluster of each row, such as a customer. Rows of one cluster
        are not independent. The intervals of realised performance (:mod:`airflow_mlops.metrics.clusters`), the drift
        tests (:mod:`airflow_mlops.drift.clusters`) and the tests of segments allow for this dependence. By default,
        rows are independent
    """

    metric: str | None = None
    greater_is_better: bool | None = None
    tolerance: float = Field(default=0.02, ge=0)
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    best_recent: Duration | None = None
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    min_labels: int = Field(default=200, ge=1)
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    grace: Duration | None = None
    groups: str | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _with_parameters(cls, fields: Any) -> Any:
        return name_metric(fields)

    @model_validator(mode="after")
    def _known_metric(self) -> PerformanceThresholds:
        check_metric(self.metric, self.greater_is_better)
        if self.metric in INTERVAL_METRICS:
            raise ValueError(
                f"`metric` is {self.metric!r}, but the coverage of prediction intervals is judged in addition to the metric; set `metric` to "
                "rmse or mae"
            )
        if self.groups is not None and self.metric is not None and is_custom(self.metric):
            raise ValueError("`groups` needs a built-in metric; remove `groups` or set another `metric`")
        if self.min is not None and self.max is not None:
            raise ValueError(
                "`min` and `max` are both set; set `min` if larger values of the metric are better, otherwise `max`"
            )
        if self.metric is not None and (wrong := self.wrong_bound(self.metric)) is not None:
            raise ValueError(wrong)
        return self

    def wrong_bound(self, metric: str) -> str | None:
        """Return a clause that explains why ``min`` or ``max`` does not fit ``metric``; ``None`` if they fit.

        :param metric: the metric of the model. If the field ``metric`` is not set, it is known only when a window is
            checked
        """
        greater = find_metric(metric, self.greater_is_better).higher_is_better
        if self.max is not None and greater:
            return f"`max` is set, but larger values of {metric} are better; set `min` instead"
        if self.min is not None and not greater:
            return f"`min` is set, but smaller values of {metric} are better; set `max` instead"
        return None
