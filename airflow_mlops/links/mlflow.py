"""The operator link to the MLflow run of a task, and addresses of MLflow's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.links.base import ResultLink

if TYPE_CHECKING:
    from airflow_mlops.core.connections import ConnectionInfo


def ui_address(connection: ConnectionInfo) -> str:
    """Return the address of MLflow's pages.

    The address is the extra ``ui_url`` of the connection, or by default the tracking URI. If the address is not an HTTP
    address, an empty string is returned.
    """
    from airflow_mlops.registry.client import tracking_uri, without_credentials

    address = str(connection.extra.get("ui_url") or tracking_uri(connection)).rstrip("/")
    return without_credentials(address) if address.startswith(("http://", "https://")) else ""


def run_page(conn_id: str, run_id: str) -> str:
    """Return the address of an MLflow run's page, or an empty string if the MLflow connection has no HTTP address."""
    address = ui_address(airflow_connection(conn_id))
    return f"{address}/#/runs/{quote(run_id)}" if address else ""


class MLflowRunLink(ResultLink):
    """The link from a task to its MLflow run.

    The run is the field ``run_id`` of the task's result, or of a model version in this result. The operator's
    ``mlflow_conn_id`` names the connection to MLflow.
    """

    name = "MLflow run"

    def address(self, operator: Any, result: dict[str, Any]) -> str:
        run_id = _run_id(result)
        return run_page(getattr(operator, "mlflow_conn_id", "mlflow_default"), run_id) if run_id else ""


def _run_id(result: dict[str, Any]) -> str:
    """Return the id of the MLflow run in the result of a task, or an empty string if the result names no run."""
    nested = (value for value in result.values() if isinstance(value, dict))
    return next((str(found["run_id"]) for found in (result, *nested) if found.get("run_id")), "")
