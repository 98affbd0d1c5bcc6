"""``PromoteOperator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

from airflow_mlops.links import MLflowRunLink
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.specs.promote import PromoteSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


def champion_alias(model: str | None) -> AssetAlias:
    """The alias through which a task emits ``mlops://MODEL/champion``, which not every run of it does."""
    return AssetAlias(f"mlops-{model}-champion" if model and "{" not in model else "mlops-champion")


def emit_champion(alias: AssetAlias, context: Context, result: dict[str, Any]) -> None:
    """Say on the asset ``mlops://MODEL/champion`` that the champion changed."""
    champion, replaced = result["champion"], result["replaced"]
    extra: dict[str, Any] = {
        "version": champion["version"],
        "run_id": champion["run_id"],
        "replaced": replaced["version"] if replaced else None,
        "reason": result["reason"],
        **{key: result[key] for key in ("dataset_id", "metrics") if key in result},
    }
    context["outlet_events"][alias].add(Asset(f"mlops://{result['model']}/champion"), extra=extra)


class PromoteOperator(StepOperator):
    """Makes the winner of an evaluation the champion: moves the MLflow alias, writes the ledger, emits the asset event.

    Nothing is promoted where no candidate passed, or where another version became champion after the evaluation;
    the task succeeds, its result says why, and the ledger keeps it.

    :param verdict: the output of an EvaluateOperator
    :param model: the registered model; the verdict's unless given
    :param mlflow_conn_id: the Airflow connection to MLflow
    """

    step = "promote"
    spec = PromoteSpec
    template_fields: Sequence[str] = (*StepOperator.template_fields, "verdict", "model", "mlflow_conn_id")
    operator_extra_links = (MLflowRunLink(),)

    def __init__(
        self, *, verdict: Any, model: str | None = None, mlflow_conn_id: str = "mlflow_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict
        self.model = model
        self.mlflow_conn_id = mlflow_conn_id
        self.champion_alias = champion_alias(model)
        self.add_outlets([self.champion_alias])

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {"verdict": self.verdict, "model": self.model, "mlflow": {"conn_id": self.mlflow_conn_id}}

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["promoted"]:
            emit_champion(self.champion_alias, context, result)
