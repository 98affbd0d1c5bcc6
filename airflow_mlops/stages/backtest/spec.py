"""Spec and result of a backtest."""

from __future__ import annotations

from statistics import fmean

from pydantic import Field, model_validator

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.models.trainers.spec import AnyTrainer
from airflow_mlops.policy.spec import Policy, Trigger


class BacktestSpec(Spec):
    """The parameters of a backtest, which replays a retraining policy over labelled windows of the past.

    :param model: name of the registered model
    :param version: the version that the replay begins with; by default the champion. Its training set is the first
        window
    :param outcomes: name of the datasets of labelled predictions; by default ``MODEL_outcomes``
    :param window: only windows inside this window are replayed; by default all windows after the training set
    :param delay: number of windows until the labels of a window have arrived; 0 if they are known at its end
    :param policy: the retraining policy. Only the triggers ``challenger`` and ``age`` are replayed, so the policy must
        have one of them
    :param trainer: the trainer; by default the trainers of the version and of the other candidates in the last
        decision. It is required if the trainer of the version runs user code
    """

    model: Name
    version: int | None = Field(default=None, ge=1)
    outcomes: Name | None = None
    window: Window | None = None
    delay: int = Field(default=0, ge=0)
    policy: Policy = Policy()
    trainer: AnyTrainer | None = None
    mlflow: MLflowTarget = MLflowTarget()

    @model_validator(mode="after")
    def _has_replayed_trigger(self) -> BacktestSpec:
        has_challengers = "challenger" in self.policy.retrain_on and self.policy.probe is not None
        if not has_challengers and self.policy.max_age is None:
            raise ValueError(
                "a backtest replays only the triggers `challenger` and `age`, but the policy has neither. Add 'challenger' to "
                "`retrain_on` and set `probe`, or set `max_age`."
            )
        return self


class Step(Model):
    """The result of one strategy in one window.

    :param loss: mean loss of the champion in the window; ``None`` if the window has no labels, or the metric is not defined
    :param value: metric of the champion in the window; ``None`` if the window has no labels, or the metric is not defined
    :param trained: whether a model was trained after the window
    :param triggers: the retraining triggers whose condition was met
    :param compared: whether challengers were trained and compared with the champion after the window
    :param helped: whether the trained model had a smaller total loss than the replaced model, over the windows until
        the next training; ``None`` if no model was trained, or if no window follows
    """

    window: Window
    loss: float | None
    value: float | None
    trained: bool = False
    triggers: list[Trigger] = Field(default_factory=list)
    compared: bool = False
    helped: bool | None = None


class Replayed(Model):
    """The replay of one strategy.

    :param strategy: ``never``, ``every window``, ``policy`` or ``oracle``
    :param steps: the monitored windows, in order of time
    """

    strategy: str
    steps: list[Step]

    @property
    def mean_loss(self) -> float:
        """Return the average of the mean losses of the windows with labels."""
        return fmean(step.loss for step in self.steps if step.loss is not None)

    @property
    def mean_value(self) -> float:
        """Return the average of the metric over the windows with labels."""
        return fmean(step.value for step in self.steps if step.value is not None)

    @property
    def trainings(self) -> int:
        """Return the number of windows after which a model was trained."""
        return sum(step.trained for step in self.steps)

    @property
    def comparisons(self) -> int:
        """Return the number of windows after which challengers were compared with the champion."""
        return sum(step.compared for step in self.steps)

    @property
    def false_asks(self) -> int:
        """Return the number of trainings that did not help."""
        return sum(step.helped is False for step in self.steps)

    @property
    def judged_asks(self) -> int:
        """Return the number of trainings for which it is known whether they helped."""
        return sum(step.helped is not None for step in self.steps)


class BacktestResult(Result):
    """The result of a backtest, stored as ``backtests/MODEL/TIME-ID.json`` next to an HTML page of the same name.

    :param version: the version that the replay began with
    :param window: from the beginning of the first monitored window to the end of the last
    :param delay: number of windows until the labels of a window arrived
    :param policy: the replayed policy
    :param created: time at which the replay ended
    :param fits: number of models that were fitted for all strategies together
    :param seconds: time of all these fits, in seconds
    :param page_url: URL of the HTML page in the artifact store
    :param metric: name of the metric, which also defines the loss
    :param strategies: the replays of ``never``, ``every window``, ``policy`` and ``oracle``
    """

    version: ModelVersionRef
    window: Window
    delay: int
    policy: Policy
    created: UtcDatetime
    fits: int
    seconds: float
    page_url: str
    metric: str
    strategies: list[Replayed]
