"""The link to a task's MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.links.base import ResultLink

if TYPE_CHECKING:
    from airflow_mlops.core.connections import ConnectionInfo


def ui_address(connection: ConnectionInfo) -> str:
    """Where a browser finds MLflow's pages: the extra ``ui_url``, or the tracking server; empty if it has no pages."""
    from airflow_mlops.registry.client import tracking_uri, without_credentials

    address = str(connection.extra.get("ui_url") or tracking_uri(connection)).rstrip("/")
    return without_credentials(address) if address.startswith(("http://", "https://")) else ""


def run_page(conn_id: str, run_id: str) -> str:
    """The page of an MLflow run; empty if that MLflow has no pages."""
    address = ui_address(airflow_connection(conn_id))
    return f"{address}/#/runs/{quote(run_id)}" if address else ""


class MLflowRunLink(ResultLink):
    """From a training or an evaluation to the run that records it.

    The run is the result's ``run_id``, or that of a model version the result holds. The operator names the
    connection in ``mlflow_conn_id``.
    """

    name = "MLflow run"

    def address(self, operator: Any, result: dict[str, Any]) -> str:
        run_id = run_id_of(result)
        return run_page(getattr(operator, "mlflow_conn_id", "mlflow_default"), run_id) if run_id else ""


def run_id_of(result: dict[str, Any]) -> str:
    """The MLflow run that a result is about; empty if it names none."""
    nested = (value for value in result.values() if isinstance(value, dict))
    return next((str(found["run_id"]) for found in (result, *nested) if found.get("run_id")), "")
