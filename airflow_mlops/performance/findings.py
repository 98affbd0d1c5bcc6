"""Models of findings about performance, such as its value, segments with worse performance, and change points."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.catalog import find_metric

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "brier": "Brier score",
    "rmse": "RMSE",
    "mae": "MAE",
}
"""The usual names of metrics, for text."""

LOSSES = {
    "roc_auc": "1 - ROC AUC",
    "brier": "Brier score",
    "log_loss": "log loss",
    "accuracy": "share of wrong predictions",
    "rmse": "squared error",
    "mae": "absolute error",
}
"""The names of the losses of which segments have a mean, by metric."""


class MeanLoss(Model):
    """A mean loss with its confidence interval."""

    value: float
    low: float
    high: float


class Segment(Model):
    """A segment of the rows with worse performance. Its mean loss rose significantly and by more than the tolerance.

    :param name: condition that defines its rows, as in ``carrier = EV``
    :param feature: the feature in this condition
    :param rows: number of its labelled rows in the window
    :param share: ``rows`` as a share of all labelled rows
    :param share_reference: share of the rows of the held-out part that are in the segment
    :param loss: mean loss of its rows in the window
    :param reference: mean loss of its rows in the held-out part at training
    :param contribution: ``share`` times the rise of its mean loss, which is the part that the segment contributes to the rise of
        the mean loss of all rows
    :param adjusted_p_value: probability of such a rise if nothing has changed, adjusted for the number of segments
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
    """The decomposition of the change of the mean loss of all rows by the segments of one feature.

    The sum of the two parts is the change.

    :param mix: the part due to changed shares of the segments, if their losses had stayed as at training
    :param rate: the part due to changed losses inside the segments, with their shares in the window
    """

    feature: str
    mix: float
    rate: float


class LossChange(Model):
    """The change of the mean loss of all rows, and the tests of its segments.

    :param metric: the metric of realised performance. The loss of a row is 1 for a wrong and 0 for a right prediction for
        ``accuracy``, the squared error for ``rmse``, and the row's influence on 1 - ROC AUC for ``roc_auc``
    :param reference: the mean loss in the held-out part at training
    :param value: the mean loss in the window
    :param tested: number of segments with enough rows at training and in the window
    :param fallen: number of segments with worse performance
    :param false_alarm_rate: expected share of false alarms among these segments (Benjamini-Hochberg); if nothing has changed, the
        share of windows with a false alarm
    :param min_rise: the smallest rise that counts, a share of the loss at training or, for ``roc_auc`` and ``accuracy``, a difference
    :param shifts: decomposition by each feature, ordered by the absolute value of ``mix``, the largest first
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
    """A change point, which is the first window at a new level of performance or drift.

    :param kind: ``performance`` for realised performance, ``drift`` for the drift of a feature
    :param of: the name of the metric or the feature
    :param window: the first window at the new level
    :param before: the level before ``window``; for drift, the mean effect, a share of rows
    :param after: the level from ``window`` to the next change point
    :param p_value: probability that chance alone shows such a clear change if the level is constant
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


class Performance(Model):
    """The value of a metric with its interval, either measured with labels or estimated from the scores without labels.

    :param low: lower end of the confidence interval
    :param high: upper end of the confidence interval
    :param reference: value of the metric on the held-out part at training; ``None`` if unknown
    :param labels: number of labels; for an estimate, number of scores
    :param greater_is_better: the direction of a custom metric; ``None`` for a built-in metric
    """

    metric: str
    value: float
    low: float
    high: float
    reference: float | None = None
    labels: int
    greater_is_better: bool | None = None

    @property
    def higher_is_better(self) -> bool:
        """Return whether larger values of the metric are better."""
        return find_metric(self.metric, self.greater_is_better).higher_is_better
