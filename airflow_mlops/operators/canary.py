"""``CanaryOperator``, which widens the share of a canary step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.notifications import Event
from airflow_mlops.operators.champion import ChampionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.observability.samples import Sample


class CanaryOperator(ChampionOperator):
    """Widens the share of the requests that a new version answers, withdraws it if it does worse than the champion, and promotes it at
    the end.

    Each run of the task makes one step: it starts the canary, or compares its labelled predictions with those of the champion and decides.
    Each decision is recorded in the ledger. The tag of the version in MLflow has the share, which servers with ``--canary``
    follow within seconds. Nothing is decided, and the task succeeds, while there are too few labels, while no version has the alias,
    and after the canary of the version has ended.

    :param model: name of the registered model
    :param version: number or alias of the version to roll out
    :param shares: shares of the requests that it answers one after the other, ascending, each greater than 0 and less than 1; by
        default 0.05, 0.2 and 0.5
    :param promote: whether the version becomes champion after the last share. If not, it keeps this share, and the result has the
        verdict for a PromoteOperator
    :param outcomes: name of the champion's labelled predictions; ``MODEL_outcomes`` by default
    :param canary_outcomes: name of the canary's labelled predictions; ``MODEL_canary_outcomes`` by default
    :param metric: metric by which the two are compared: ``roc_auc``, ``accuracy``, ``log_loss``, ``brier``, ``rmse`` or ``mae``,
        or an expected cost as ``{"metric": "expected_cost", "false_positive": 1, "false_negative": 20}``; by default ``roc_auc``
        (binary), ``accuracy`` (multiclass) or ``rmse`` (regression)
    :param max_loss: largest loss of the metric that is accepted: a share is widened only when a greater loss is significantly ruled
        out. For ``rmse``, it is a loss of the mean squared error. By default, a share is widened unless the canary is
        significantly worse
    :param min_labels: labelled predictions that the canary must have at a share, and since the last comparison, before it is compared
    :param groups: column that names the cluster of each row, such as a customer; by default, rows are independent
    :param confidence: probability with which a canary that is no worse than the champion is not withdrawn by any comparison
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    """

    step = "canary"
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
        # A step that promotes nothing is no decision about the champion.
        return super().samples(result) if result["promoted"] else []

    def decision(self, result: dict[str, Any]) -> str:
        share = f" {result['share']:.0%}" if result["share"] else ""
        return f"{result['state']}{share}: {result['reason']}"

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        name = {"promoted": "promoted", "withdrawn": "refused"}.get(result["state"])
        if name is None:
            return None
        canary = result["version"]
        urls = self.urls(context, canary["run_id"], ledger=result["ledger_url"])
        return Event(name, result["model"], result["summary"], canary["version"], result["reason"], urls)
