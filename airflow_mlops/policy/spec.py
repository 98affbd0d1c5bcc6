"""The settings of the retraining policy."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.durations import Duration
from airflow_mlops.metrics.fairness_rule import FairnessRule
from airflow_mlops.performance.thresholds import PerformanceThresholds

OnBroken = Literal["drop", "wait"]
Measured = Literal["challenger", "performance", "estimated_performance", "drift"]
Trigger = Literal[
    "no_champion", "challenger", "performance", "estimated_performance", "drift", "age", "new_data", "new_code"
]
"""The retraining triggers.

The triggers in :data:`Measured` depend on measurements, so chance alone can meet their condition in a single window.
"""


class Persistence(Model):
    """The number of windows in which the condition of a measured trigger must be met.

    :param k: the smallest number of windows in which the condition must be met
    :param n: number of windows that are counted: the current window and the ``n - 1`` windows before it
    """

    k: int = Field(default=1, ge=1)
    n: int = Field(default=1, ge=1, le=36)

    @model_validator(mode="after")
    def _possible(self) -> Persistence:
        if self.k > self.n:
            raise ValueError(f"k={self.k} must not be larger than n={self.n}")
        return self


class Budget(Model):
    """The largest number of requests for retraining in a period.

    :param requests: the largest number of requests
    :param period: length of the period. The limit applies to every period of this length, whenever the period starts
    """

    requests: int = Field(ge=1)
    period: Duration


class NewData(Model):
    """The amount of new data that triggers retraining.

    A window of ``dataset`` is new if it lies between the end of the champion's training data and the end of the
    monitored window. Exactly one of ``windows`` and ``share`` must be set.

    :param dataset: name of the dataset in which new data arrive
    :param windows: number of new windows
    :param share: number of new rows as a share of the rows of the champion's training set
    """

    dataset: Name
    windows: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> NewData:
        if self.windows is None and self.share is None:
            raise ValueError("neither `windows` nor `share` is set; set one of them")
        if self.windows is not None and self.share is not None:
            raise ValueError("`windows` and `share` are both set; remove one of them")
        return self


class Policy(PerformanceThresholds):
    """The retraining policy, which decides whether a window is ``healthy``, ``watch`` or ``retrain``.

    :param max_staleness: the longest time between the newest row of a window and the end of the window
    :param retrain_on: the measured triggers that may request retraining. ``challenger``: a challenger, which the
        trainer of the champion or of another candidate fits to the newest rows, is significantly better than the
        champion. ``performance``: realised performance is significantly worse than at training, and no challenger was
        compared. ``estimated_performance``: estimated performance is significantly worse, and realised performance
        cannot be judged yet. ``drift``: the drifted features have at least ``min_importance``
    :param probe: the shortest time between two windows for which challengers are trained. By default, challengers are
        trained for every window with enough labels; ``None`` trains none. A window in which realised performance is
        significantly worse than at training is probed regardless of ``probe``
    :param min_gain: the smallest gain of a challenger that justifies retraining: the reduction of the mean loss, as a
        share of the champion's mean loss
    :param min_importance: smallest share of the model's permutation importance that drifted features must have together
        to trigger retraining
    :param max_age: the longest time between the end of the champion's training data and the end of the window
    :param new_data: the amount of new data that triggers retraining
    :param code: version of the training code, such as a git commit. Retraining is triggered if the champion's MLflow
        run has a different version in the tag ``mlops.code_version``
    :param persistence: number of windows in which the condition of a measured trigger must be met; by default, the
        current window is enough
    :param cooldown: the shortest time between the ends of two windows that request retraining
    :param budget: the largest number of requests in a period; a request counts at the end of the window that makes it
    :param on_broken: how a request treats broken features. ``drop`` leaves them out of the training if the model hardly
        uses them, or once they are broken in three windows in a row; until then, the request waits. ``wait`` always
        waits until they are repaired
    :param fairness: the largest differences in treatment between groups of rows, declared as for the gate. A difference
        is measured in each window. The window is ``watch`` if its whole interval lies above the limit, or if the
        difference is significantly larger than in the evaluation of the version, by more than ``tolerance``
    """

    max_staleness: Duration | None = None
    retrain_on: tuple[Measured, ...] = ("challenger", "performance")
    probe: timedelta | None = Field(default=timedelta(0), ge=timedelta(0))
    min_gain: float = Field(default=0.02, ge=0, lt=1)
    min_importance: float = Field(default=0.5, gt=0, le=1)
    max_age: timedelta | None = None
    new_data: NewData | None = None
    code: str | None = Field(default=None, min_length=1)
    persistence: Persistence = Persistence()
    cooldown: Duration | None = None
    budget: Budget | None = None
    on_broken: OnBroken = "drop"
    fairness: tuple[FairnessRule, ...] = ()

    @model_validator(mode="after")
    def _distinct_fairness(self) -> Policy:
        names = [f"{rule.metric_name}{end}" for rule in self.fairness for end in ("", "_low", "_high", "_reference")]
        if same := sorted({name for name in names if names.count(name) > 1}, key=len):
            raise ValueError(
                f"two fairness metrics of the policy would have the name {same[0]} in the metrics of the task; remove one"
            )
        return self
