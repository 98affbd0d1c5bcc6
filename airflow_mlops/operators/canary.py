"""``CanaryOperator``, which increases the share of requests that a canary answers step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.notifications import Event
from airflow_mlops.operators.champion import ChampionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.observability.samples import Sample


class CanaryOperator(ChampionOperator):
    """Increases the share of requests that a new version, the canary, answers step by step.

    The canary is withdrawn if it is worse than the champion, and promoted after the last share.

    Each run of the task makes one decision. It starts the canary, or it compares the labelled predictions of the canary
    and of the champion. After the comparison, it increases the share, keeps the share, withdraws the canary or promotes
    the canary. Each decision is recorded in the ledger. A tag of the version in MLflow contains the share. Servers with
    ``--canary`` apply a new share within seconds. The task succeeds without a decision while there are too few labels,
    while no version has the alias ``version``, and after the canary of the version has ended.

    :param model: name of the registered model
    :param version: number or alias of the version to roll out
    :param shares: shares of the requests that the version answers, one after the other. They are ascending, greater
        than 0 and less than 1. By default, they are 0.05, 0.2 and 0.5
    :param promote: whether the version becomes champion after the last share. If not, the version keeps the last share,
        and the result contains the verdict for a PromoteOperator
    :param outcomes: name of the champion's labelled predictions; by default ``MODEL_outcomes``
    :param canary_outcomes: name of the canary's labelled predictions; by default ``MODEL_canary_outcomes``
    :param metric: metric by which the canary and the champion are compared: ``roc_auc``, ``accuracy``, ``log_loss``,
        ``brier``, ``rmse`` or ``mae``; an expected cost such as ``{"metric": "expected_cost", "false_positive": 1,
        "false_negative": 20}``; a deviance such as ``poisson_deviance``; a pinball loss such as ``{"metric":
        "pinball", "alpha": 0.9}``; or ``smape`` for forecasts. By default the metric by which both versions are judged,
        if they have one: the pinball loss of a quantile, ``smape`` of forecasts, or the deviance of an objective for
        counts or positive amounts. Otherwise ``roc_auc`` (binary), ``accuracy`` (multiclass, or if one of the two
        predicts labels only) or ``rmse`` (regression). A ranking has no default
    :param max_loss: largest accepted loss of the metric compared with the champion. The share is increased only if a
        greater loss is ruled out with statistical significance. For ``rmse``, it is a loss of the mean squared error.
        By default, the share is increased unless the canary is significantly worse
    :param min_labels: number of labelled predictions of the canary that a comparison needs, both at the current share
        and since the last comparison. The champion needs as many in total
    :param groups: column that names the cluster of each row, such as a customer; by default, rows are independent
    :param confidence: confidence of a withdrawal. Over all comparisons, a canary that is no worse than the champion is
        withdrawn with a probability of at most ``1 - confidence``
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    """

    step = "canary"
    safeguards = ChampionOperator.safeguards | {"max_loss"}
    structured = frozenset({"shares"})
    changed = "promoted"

    def __init__(
        self,
        *,
        model: str,
        version: int | str,
        shares: list[float] | None = None,
        promote: bool = True,
        outcomes: str | None = None,
        canary_outcomes: str | None = None,
        metric: str | Mapping[str, Any] | None = None,
        max_loss: float | None = None,
        min_labels: int = 500,
        groups: str | None = None,
        confidence: float = 0.95,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())
        self.add_champion_outlet(model)

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        # Only a promotion is a decision about the champion.
        return super().samples(result) if result["promoted"] else []

    def decision(self, result: dict[str, Any]) -> str:
        from airflow_mlops.gates.base import percent

        share = f" {percent(result['share'])}" if result["share"] else ""
        return f"{result['state']}{share}: {result['reason']}"

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        name = {"promoted": "promoted", "withdrawn": "refused"}.get(result["state"])
        if name is None:
            return None
        canary = result["version"]
        urls = self.urls(context, canary["run_id"], ledger=result["ledger_url"])
        return Event(name, result["model"], result["summary"], canary["version"], result["reason"], urls)
