"""Findings about performance: metric values, segments with worse performance, and change points."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.catalog import find_metric, is_coverage_gap

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "brier": "Brier score",
    "rmse": "RMSE",
    "mae": "MAE",
    "poisson_deviance": "Poisson deviance",
    "gamma_deviance": "gamma deviance",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "f1_macro": "macro F1",
    "precision": "precision",
    "recall": "recall",
    "interval_coverage": "interval coverage",
}
"""The usual names of metrics, for text."""

_LOSSES = {
    "roc_auc": "1 - ROC AUC",
    "brier": "Brier score",
    "log_loss": "log loss",
    "accuracy": "share of wrong predictions",
    "rmse": "squared error",
    "mae": "absolute error",
    "poisson_deviance": "Poisson deviance",
    "gamma_deviance": "gamma deviance",
    "average_precision": "1 - average precision",
    "balanced_accuracy": "1 - balanced accuracy",
    "f1": "1 - F1",
    "f1_macro": "1 - macro F1",
    "precision": "1 - precision",
    "recall": "1 - recall",
}


def loss_name(metric: str) -> str:
    """Return the name of the loss that is averaged over the rows of a segment.

    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, an expected cost or a deviance
    """
    return _LOSSES.get(metric, metric)


class MeanLoss(Model):
    """A mean loss with a confidence interval."""

    value: float
    low: float
    high: float


class Segment(Model):
    """A segment with worse performance: the mean loss rose significantly, and by more than the tolerance.

    :param name: condition that defines the rows of the segment, as in ``carrier = EV``
    :param feature: the feature in this condition
    :param rows: number of labelled rows of the segment in the window
    :param share: ``rows`` as a share of all labelled rows in the window. If performance is weighted, the share of the
        weight of the rows
    :param share_reference: share of the segment among the held-out rows at training
    :param loss: mean loss of the segment in the window
    :param reference: mean loss of the segment on the held-out split part at training
    :param contribution: ``share`` times the rise of the segment's mean loss. The contributions of all segments of a
        feature add up to the ``rate`` of its :class:`Shift`
    :param adjusted_p_value: probability of at least this rise if nothing has changed, adjusted for the number of
        segments
    """

    name: str
    feature: str
    rows: int
    share: float
    share_reference: float
    loss: MeanLoss
    reference: MeanLoss
    contribution: float
    adjusted_p_value: float


class Shift(Model):
    """The change of the mean loss of all rows, decomposed by the segments of one feature.

    ``mix`` and ``rate`` add up to the change.

    :param mix: the change due to different shares of the segments, computed with the losses at training
    :param rate: the change due to different losses inside the segments, computed with the shares in the window
    """

    feature: str
    mix: float
    rate: float


class LossChange(Model):
    """The change of the mean loss of all rows since training, and a summary of the tests of all segments.

    :param metric: the metric of realised performance. The metric determines the loss of a row. For ``accuracy``, the
        loss is 1 for a wrong and 0 for a correct prediction. For ``rmse``, the loss is the squared error. For
        other metrics whose smaller values are better, such as ``log_loss``, it is the row's loss. For the remaining
        metrics, such as ``roc_auc``, the loss is computed from the row's influence on the metric
    :param reference: the mean loss on the held-out split part at training
    :param value: the mean loss in the window
    :param tested: number of segments with enough rows at training and in the window
    :param fallen: number of segments with worse performance
    :param false_alarm_rate: the limit on the expected share of false alarms among the ``fallen`` segments
        (Benjamini-Hochberg). If nothing has changed, at most this share of windows has a false alarm
    :param min_rise: the smallest rise of a segment's mean loss that counts. If larger values of the metric are
        better, as for ``roc_auc``, the rise is an absolute difference. Otherwise, the rise is a share of the loss at
        training
    :param shifts: one decomposition for each feature, ordered by the absolute value of ``mix``, the largest first
    """

    metric: str
    reference: float
    value: float
    tested: int
    fallen: int
    false_alarm_rate: float
    min_rise: float
    shifts: list[Shift] = Field(default_factory=list)


class Change(Model):
    """A change point: the first window at a new level of performance or drift.

    :param kind: ``performance`` for realised performance, ``drift`` for the drift of a feature
    :param of: the name of the metric (``performance``) or of the feature (``drift``)
    :param window: the first window at the new level
    :param before: the level before ``window``: the mean metric value, or the mean effect of the drift (a share of rows)
    :param after: the level from ``window`` to the next change point
    :param p_value: probability of a change at least as clear in a series with a constant level
    """

    kind: Literal["performance", "drift"]
    of: str
    window: Window
    before: float
    after: float
    p_value: float

    def __str__(self) -> str:
        if self.kind == "drift":
            return (
                f"since {self.window.label}, the effect of the drift of {self.of} has been {self.after:.3f} "
                f"({self.before:.3f} before)"
            )
        name = METRIC_NAMES.get(self.of, self.of)
        return f"since {self.window.label}, {name} has been {self.after:.3f} ({self.before:.3f} before)"


class RecentLevel(Model):
    """The best level that a recent champion reached in its windows, compared with the current window.

    :mod:`airflow_mlops.performance.levels` describes the comparison.

    :param version: the version that reached the level
    :param windows: number of windows of this version
    :param value: the level: the mean of the metric over these windows
    :param low: lower end of the confidence interval of the difference, the current value minus the level
    :param high: upper end of this interval
    :param compared: number of versions from which the best version was selected. The interval is corrected for this
        number
    """

    version: int
    windows: int
    value: float
    low: float
    high: float
    compared: int = Field(default=1, ge=1)


class Performance(Model):
    """The value of a metric with a confidence interval.

    The value is either measured with labels or estimated from the scores without labels.

    :param low: lower end of the confidence interval
    :param high: upper end of the confidence interval
    :param reference: value of the metric on the held-out split part at training; ``None`` if unknown
    :param reference_low: lower end of the confidence interval of ``reference``; ``None`` if unknown. Without an
        interval, ``reference`` is treated as exact
    :param reference_high: upper end of the confidence interval of ``reference``; ``None`` if unknown
    :param compared: number of models in the selection on the held-out rows: the candidates, and the champion if it was
        measured. The interval of the difference from ``reference`` is corrected for this number
    :param recent: the best level of recent champions; ``None`` unless the policy has ``best_recent`` and there are
        enough windows
    :param labels: number of labels; for an estimate, number of scores. Rows with the weight 0 do not count
    :param greater_is_better: the direction of a custom metric; ``None`` for a built-in metric
    :param weight: column with the weights of the rows, in the window and at training; ``None`` if each row counts once
    """

    metric: str
    value: float
    low: float
    high: float
    reference: float | None = None
    reference_low: float | None = None
    reference_high: float | None = None
    compared: int = Field(default=1, ge=1)
    recent: RecentLevel | None = None
    labels: int
    greater_is_better: bool | None = None
    weight: str | None = None

    @property
    def higher_is_better(self) -> bool:
        """Return whether larger values of the metric are better."""
        return find_metric(self.metric, self.greater_is_better).higher_is_better

    @property
    def has_absolute_tolerance(self) -> bool:
        """Return whether the tolerance is a difference. Otherwise it is a share of the value at training."""
        # A good coverage gap is almost 0, so a share of it would be almost 0 as well.
        return self.higher_is_better or is_coverage_gap(self.metric)


class IntervalCoverage(Performance):
    """The realised coverage: the share of the labels that lie in their prediction interval.

    :param nominal: the coverage that was requested at training (``interval=``)
    """

    nominal: float


class PositiveRate(Model):
    """The rate of positives: the share of a binary model's predictions that are the positive class.

    :param value: the rate in the window, from 0 to 1
    :param low: lower end of the confidence interval
    :param high: upper end of the confidence interval
    :param reference: the rate on the held-out split part at training; ``None`` if the profile of the version does not
        contain it
    :param rows: number of predictions with a score
    :param threshold: decision threshold of the version
    :param positive: the positive class
    """

    value: float
    low: float
    high: float
    reference: float | None = None
    rows: int
    threshold: float
    positive: Any = None


class GroupRate(Model):
    """A rate in a group of rows.

    :param name: condition of the group, such as ``sex = f``
    :param rate: the rate, from 0 to 1
    :param rows: number of rows that the rate is a share of
    """

    name: str
    rate: float
    rows: int


class FairnessDifference(Model):
    """The largest difference in treatment between two groups of rows (:mod:`airflow_mlops.performance.fairness`).

    :param metric: ``demographic_parity`` (share of positive predictions) or ``equalized_odds`` (true positive rate or
        false positive rate, whichever differs more)
    :param sensitive: the column that defines the groups
    :param value: the difference, from 0 to 1
    :param low: lower end of the confidence interval
    :param high: upper end of the confidence interval
    :param reference: the difference in the evaluation by which the version was promoted; ``None`` if no gate measured it
    :param reference_low: lower end of the confidence interval of ``reference``
    :param reference_high: upper end of the confidence interval of ``reference``
    :param compared: number of models that were compared in this evaluation. The interval of the rise from ``reference``
        is corrected for this number
    :param limit: the largest difference that the policy allows
    :param of: the meaning of the rate that differs most, such as ``true positive rate``
    :param least: the group with the smaller rate
    :param most: the group with the larger rate
    """

    metric: Literal["demographic_parity", "equalized_odds"]
    sensitive: str
    value: float
    low: float
    high: float
    reference: float | None = None
    reference_low: float | None = None
    reference_high: float | None = None
    compared: int = Field(default=1, ge=1)
    limit: float
    of: str
    least: GroupRate
    most: GroupRate

    @property
    def difference(self) -> str:
        """Return the name of the difference: ``demographic parity`` or ``equalized odds``."""
        return self.metric.replace("_", " ")

    @property
    def metric_name(self) -> str:
        """Return the name in the metrics of a task, such as ``demographic_parity_over_sex``."""
        return f"{self.metric}_over_{self.sensitive}"

    @property
    def is_significant(self) -> bool:
        """Return whether the whole interval lies above the limit."""
        return self.low > self.limit


class Bias(Model):
    """The mean error of the predictions: prediction minus label.

    For a regression model, the error of a row is the predicted value minus the label. For a binary model, the error is the
    score minus 1 for a positive label, and the score for a negative label. The bias is then the mean score minus the
    share of positive labels (calibration in the large).

    :param value: the mean error
    :param low: lower end of the confidence interval
    :param high: upper end of the confidence interval
    :param reference: mean error on the held-out split part at training; ``None`` if unknown
    :param labels: number of labels
    :param of_probabilities: whether the predictions are probabilities of a binary model
    :param significant: whether the interval excludes 0, and the bias is large enough to matter
        (:func:`airflow_mlops.performance.bias.bias`)
    """

    value: float
    low: float
    high: float
    reference: float | None = None
    labels: int
    of_probabilities: bool = False
    significant: bool = False
