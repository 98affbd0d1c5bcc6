"""Why performance is what it is: where the rows cost more than at training, and since when something is different."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.catalog import find_metric

LOSSES = {
    "roc_auc": "1 - roc_auc",
    "brier": "Brier's score",
    "log_loss": "log loss",
    "accuracy": "share of wrong predictions",
    "rmse": "squared error",
    "mae": "absolute error",
}
"""What is averaged over the rows, by metric."""


class MeanLoss(Model):
    """A mean loss with the ends of its confidence interval."""

    value: float
    low: float
    high: float


class Segment(Model):
    """A part of the rows in which performance fell: the mean loss rose by more than chance and by more than the floor.

    :param name: which rows, as in ``carrier = EV``
    :param rows: how many there are in the window, of those with a label
    :param share: of these, which share they are
    :param share_reference: the same in the held-out part at training
    :param loss: of these rows, in the window
    :param reference: the same in the held-out part
    :param contribution: ``share`` times the rise: what it adds to the rise of the mean loss of all rows
    :param adjusted_p_value: how likely such a rise is if nothing has changed, adjusted for the number of segments
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
    """The change of the mean loss of all rows, split by the segments of one feature; the two add up to the change.

    :param mix: what is due to rows that moved between the segments, at the losses of training
    :param rate: what is due to other losses inside the segments, at the shares of the window
    """

    feature: str
    mix: float
    rate: float


class LossChange(Model):
    """How the mean loss of all rows has changed, and how its segments were tested.

    :param metric: of realised performance. What is averaged is the row's own loss; for ``accuracy`` whether the prediction
        is wrong, for ``rmse`` the squared error, and for ``roc_auc`` the row's influence, so that the mean is 1 less it
    :param reference: the mean in the held-out part at training
    :param value: the mean in the window
    :param tested: segments with rows enough in both
    :param fallen: those of them in which performance fell
    :param false_alarm_rate: the share of those said to have fallen that may have not (Benjamini-Hochberg); with nothing
        changed, the share of windows in which any is
    :param min_rise: the floor below which a rise does not count: a share of the loss, a difference for ``roc_auc`` and ``accuracy``
    :param shifts: by feature, those where most rows moved to where losses are different first
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
    """The window from which on something has stood at another level than in the windows before.

    :param kind: of what: realised performance, or the drift of a feature
    :param of: the metric's or the feature's name
    :param window: the first at the new level
    :param before: the level until then; drift is a share of rows
    :param after: the level since, up to the next change
    :param p_value: how likely a change as sure as this is, if the level is always the same
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
                f"since {self.window.label} the drift of {self.of} has been {self.after:.1%} of the rows, "
                f"before {self.before:.1%}"
            )
        way = "lower" if self.after < self.before else "higher"
        apart = abs(self.after - self.before)
        return (
            f"since {self.window.label} {self.of} has been {apart:.3f} {way} "
            f"({self.after:.3f} against {self.before:.3f} before)"
        )


class Performance(Model):
    """Performance: realised, predictions against the labels that came later; or estimated, from the scores alone.

    :param low: lower end of the confidence interval
    :param high: upper end of it
    :param reference: the same metric on the held-out data at training
    :param labels: how many labels it was measured on; of an estimate, how many rows it is for
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
