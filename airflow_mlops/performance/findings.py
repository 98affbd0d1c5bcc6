"""Findings about performance: its value, the segments in which it got worse, and its change points."""

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
"""Metrics of performance, as they are written in text."""

LOSSES = {
    "roc_auc": "1 - ROC AUC",
    "brier": "Brier score",
    "log_loss": "log loss",
    "accuracy": "share of wrong predictions",
    "rmse": "squared error",
    "mae": "absolute error",
}
"""The name of the mean loss that belongs to each metric."""


class MeanLoss(Model):
    """A mean loss with its confidence interval."""

    value: float
    low: float
    high: float


class Segment(Model):
    """A segment with worse performance: its mean loss rose significantly and by more than the tolerance.

    :param name: the rows of the segment, as in ``carrier = EV``
    :param feature: the feature that defines it
    :param rows: number of its labelled rows in the window
    :param share: ``rows`` as a share of all labelled rows
    :param share_reference: the same share in the held-out part at training
    :param loss: mean loss of its rows in the window
    :param reference: mean loss of its rows in the held-out part at training
    :param contribution: ``share`` times the rise of its mean loss: its part of the rise of the mean loss of all rows
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
    """The change of the mean loss of all rows, decomposed by the segments of one feature into two parts.

    :param mix: the part due to changed shares of the segments, at the losses of training
    :param rate: the part due to changed losses inside the segments, at the shares of the window
    """

    feature: str
    mix: float
    rate: float


class LossChange(Model):
    """The change of the mean loss of all rows, and how its segments were tested.

    :param metric: the metric of realised performance. The loss of a row is 1 for a wrong and 0 for a right prediction for
        ``accuracy``, the squared error for ``rmse``, and the row's influence on 1 - ROC AUC for ``roc_auc``
    :param reference: the mean loss in the held-out part at training
    :param value: the mean loss in the window
    :param tested: number of segments with enough rows in both
    :param fallen: number of segments with worse performance
    :param false_alarm_rate: expected share of false alarms among these segments (Benjamini-Hochberg); if nothing has changed, the
        share of windows with any
    :param min_rise: smaller rises do not count: a share of the loss, or a difference for ``roc_auc`` and ``accuracy``
    :param shifts: decomposition by each feature, the largest ``mix`` first
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
    """A change point: the window from which on performance or drift has been at another level.

    :param kind: ``performance`` for realised performance, ``drift`` for the drift of a feature
    :param of: the name of the metric or the feature
    :param window: the first window at the new level
    :param before: the level before; drift is a share of rows
    :param after: the level from ``window`` to the next change point
    :param p_value: probability of such a clear change if the level never changes
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
                f"since {self.window.label}, the drift of {self.of} has been {self.after:.1%} of rows "
                f"({self.before:.1%} before)"
            )
        name = METRIC_NAMES.get(self.of, self.of)
        return f"since {self.window.label}, {name} has been {self.after:.3f} ({self.before:.3f} before)"


class Performance(Model):
    """Realised performance, measured on labels, or performance estimated from the scores alone.

    :param low: lower end of the confidence interval
    :param high: upper end of the confidence interval
    :param reference: the metric on the held-out data at training
    :param labels: number of labels; for an estimate, number of rows
    :param greater_is_better: the direction of a user's own metric; ``None`` for a built-in one
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
        """The direction of the metric."""
        return find_metric(self.metric, self.greater_is_better).higher_is_better
