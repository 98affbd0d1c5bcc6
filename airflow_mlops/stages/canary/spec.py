"""Spec and result of the stage ``canary``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.metrics.catalog import MetricName
from airflow_mlops.registry.records.verdict import Verdict

Share = Annotated[float, Field(gt=0, lt=1)]


class CanarySpec(Spec):
    """Parameters of a step of a canary.

    :param model: name of the registered model
    :param version: number or alias of the version to roll out
    :param shares: shares of the requests that the version answers, one after the other, ascending, each greater than 0
        and less than 1
    :param promote: whether the version becomes champion after the last share. If not, the version keeps the last share,
        and the result contains the verdict for a PromoteOperator
    :param outcomes: name of the champion's labelled predictions; by default ``MODEL_outcomes``
    :param canary_outcomes: name of the canary's labelled predictions; by default ``MODEL_canary_outcomes``
    :param metric: metric by which the canary and the champion are compared: ``roc_auc``, ``accuracy``, ``log_loss``,
        ``brier``, ``rmse`` or ``mae``, an expected cost (:mod:`airflow_mlops.metrics.costs`), a deviance
        (:mod:`airflow_mlops.metrics.deviances`), a pinball loss (:mod:`airflow_mlops.metrics.quantiles`) or ``smape``
        (:mod:`airflow_mlops.metrics.forecasts`). The default is ``roc_auc`` (binary), ``accuracy`` (multiclass, or if
        one of the two versions predicts only labels), ``rmse`` (regression), or the metric by which both versions are
        judged (:func:`airflow_mlops.metrics.judged.common_metric_of_rows`). A ranking has no default
    :param max_loss: largest accepted loss of the metric compared with the champion. The share is increased only if a
        greater loss is ruled out with statistical significance. For ``rmse``, it is a loss of the mean squared error.
        By default, the share is increased unless the canary is significantly worse
    :param min_labels: number of labelled predictions of the canary that a comparison needs, both at the current share
        and since the last comparison. The champion needs as many in total
    :param groups: column that names the cluster of each row, such as a customer; by default, rows are independent
    :param confidence: confidence of a withdrawal. Over all comparisons, a canary that is no worse than the champion is
        withdrawn with a probability of at most ``1 - confidence``
    """

    model: Name
    version: int | str
    shares: list[Share] = Field(default=[0.05, 0.2, 0.5], min_length=1)
    promote: bool = True
    outcomes: Name | None = None
    canary_outcomes: Name | None = None
    metric: MetricName | None = None
    max_loss: float | None = Field(default=None, ge=0)
    min_labels: int = Field(default=500, ge=50)
    groups: str | None = None
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    mlflow: MLflowTarget = MLflowTarget()

    @model_validator(mode="after")
    def _ascending(self) -> CanarySpec:
        if sorted({*self.shares}) != self.shares:
            raise ValueError(
                f"`shares` must be ascending, but is {self.shares}. A smaller share would give entities back to the champion."
            )
        return self


State = Literal["idle", "started", "waiting", "widened", "held", "withdrawn", "passed", "promoted"]


class CanaryResult(Result):
    """The result of a step of a canary.

    :param state: the result. ``idle``: there is no version to roll out. ``started``: the canary begins. ``waiting``:
        there are too few labels for a comparison. ``widened``: the share is increased. ``held``: a comparison neither
        withdraws the canary nor increases its share. ``withdrawn``: the canary is withdrawn. ``passed``: the canary
        passed the comparison at the last share, and PromoteOperator may promote it. ``promoted``: the canary is
        champion
    :param version: the canary; ``None`` if no version has the alias
    :param share: the share that it answers now; 0 if it answers none
    :param champion: the champion after the step; ``None`` if the model has no champion
    :param replaced: the replaced champion; ``None`` if no champion was replaced
    :param promoted: whether this step made the canary the champion
    :param verdict: for ``passed`` and ``promoted``, the comparison with the champion, for a PromoteOperator
    :param reason: the reason for the state
    :param ledger_url: URL of the ledger entry; ``None`` if nothing was decided
    """

    state: State
    model: str
    version: ModelVersionRef | None
    share: float = 0.0
    champion: ModelVersionRef | None
    replaced: ModelVersionRef | None = None
    promoted: bool = False
    verdict: Verdict | None = None
    reason: str
    ledger_url: str | None = None
