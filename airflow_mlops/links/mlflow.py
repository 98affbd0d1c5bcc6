"""The link to the MLflow run of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.links.base import ResultLink

if TYPE_CHECKING:
    from airflow_mlops.core.connections import ConnectionInfo


def ui_address(connection: ConnectionInfo) -> str:
    """The address of MLflow's pages: the extra ``ui_url`` or the tracking server. Empty if that is not an HTTP address."""
    from airflow_mlops.registry.client import tracking_uri, without_credentials

    address = str(connection.extra.get("ui_url") or tracking_uri(connection)).rstrip("/")
    return without_credentials(address) if address.startswith(("http://", "https://")) else ""


def run_page(conn_id: str, run_id: str) -> str:
    """The address of an MLflow run's page. Empty if this MLflow has no pages."""
    address = ui_address(airflow_connection(conn_id))
    return f"{address}/#/runs/{quote(run_id)}" if address else ""


class MLflowRunLink(ResultLink):
    """The link from a task to its MLflow run.

    The run is the field ``run_id`` of the result, or of a model version in the result. The connection is the operator's
    ``mlflow_conn_id``.
    """

    name = "MLflow run"

    def address(self, operator: Any, result: dict[str, Any]) -> str:
        run_id = _run_id(result)
        return run_page(getattr(operator, "mlflow_conn_id", "mlflow_default"), run_id) if run_id else ""


def _run_id(result: dict[str, Any]) -> str:
    """The MLflow run in a result; empty if there is none."""
    nested = (value for value in result.values() if isinstance(value, dict))
    return next((str(found["run_id"]) for found in (result, *nested) if found.get("run_id")), "")
