"""The link to a task's MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_mlops.compute.base import airflow_connection
from airflow_mlops.links.base import ResultLink

if TYPE_CHECKING:
    from airflow_mlops.connections import ConnectionInfo


def ui_address(connection: ConnectionInfo) -> str:
    """Where a browser finds MLflow's pages: the extra ``ui_url``, or the tracking server; empty if it has no pages."""
    from airflow_mlops.registry.client import tracking_uri, without_credentials

    address = str(connection.extra.get("ui_url") or tracking_uri(connection)).rstrip("/")
    return without_credentials(address) if address.startswith(("http://", "https://")) else ""


class MLflowRunLink(ResultLink):
    """From a training or an evaluation to the run that records it.

    The run is the result's ``run_id``, or that of a model version the result holds. The operator names the
    connection in ``mlflow_conn_id``.
    """

    name = "MLflow run"

    def address(self, operator: Any, result: dict[str, Any]) -> str:
        run_id = _run_id(result)
        if not run_id:
            return ""
        address = ui_address(airflow_connection(getattr(operator, "mlflow_conn_id", "mlflow_default")))
        return f"{address}/#/runs/{quote(run_id)}" if address else ""


def _run_id(result: dict[str, Any]) -> str:
    nested = (value for value in result.values() if isinstance(value, dict))
    return next((str(found["run_id"]) for found in (result, *nested) if found.get("run_id")), "")
