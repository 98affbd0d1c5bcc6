"""``RollbackOperator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.links import MLflowRunLink
from airflow_mlops.notifications import Event
from airflow_mlops.observability.samples import Sample, decided
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.champion import champion_alias, emit_champion, emit_if_lost
from airflow_mlops.stages.rollback.spec import RollbackSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class RollbackOperator(StepOperator):
    """Makes an earlier champion the champion again: moves the MLflow alias, writes the ledger, emits the asset event.

    :param model: the registered model
    :param reason: why; it goes into the ledger
    :param to_version: a version that was champion before; the one the present champion replaced unless given
    :param mlflow_conn_id: the Airflow connection to MLflow
    """

    step = "rollback"
    spec = RollbackSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "model",
        "reason",
        "to_version",
        "mlflow_conn_id",
    )
    operator_extra_links = (MLflowRunLink(),)

    def __init__(
        self,
        *,
        model: str,
        reason: str,
        to_version: int | str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.reason = reason
        self.to_version = to_version
        self.mlflow_conn_id = mlflow_conn_id
        self.champion_alias = champion_alias(model)
        self.add_outlets([self.champion_alias])

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "model": self.model,
            # A template always renders to text; an empty one, or that of a parameter left out, asks for the default.
            "to_version": None if self.to_version in (None, "", "None") else self.to_version,
            "reason": self.reason,
            "mlflow": {"conn_id": self.mlflow_conn_id},
        }

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        if not result["rolled_back"]:
            return None
        champion = result["champion"]
        urls = self.urls(context, champion["run_id"], ledger=result["ledger_url"])
        return Event("rolled_back", result["model"], result["summary"], champion["version"], result["reason"], urls)

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        return decided(result, "rolled_back")

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["rolled_back"]:
            emit_champion(self.champion_alias, context, result)
        else:
            emit_if_lost(self.champion_alias, context, result)
