"""``RollbackOperator``, which makes an earlier champion the champion again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.notifications import Event
from airflow_mlops.operators.champion import ChampionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class RollbackOperator(ChampionOperator):
    """Rolls a model back to a former champion.

    The operator moves the MLflow alias ``champion``, writes an entry to the ledger and emits the asset event.

    :param model: name of the registered model
    :param reason: the reason for the rollback, which is recorded in the ledger
    :param to_version: number of a version that was champion before; by default the version that the current champion
        replaced
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    """

    step = "rollback"
    changed = "rolled_back"

    to_version: Any

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
        self.assign_parameters(locals())
        self.add_champion_outlet(model)

    def build_spec(self, context: Context) -> dict[str, Any]:
        fields = super().build_spec(context)
        # Templates render to text, so an undefined or None parameter of the DAG run is rendered to text, too.
        return fields | {"to_version": None} if self.to_version in ("", "None") else fields

    def decision(self, result: dict[str, Any]) -> str:
        version = result["champion"]["version"]
        return f"rolled back to v{version}" if result["rolled_back"] else f"unchanged: v{version}"

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        if not result["rolled_back"]:
            return None
        champion = result["champion"]
        urls = self.urls(context, champion["run_id"], ledger=result["ledger_url"])
        return Event("rolled_back", result["model"], result["summary"], champion["version"], result["reason"], urls)
