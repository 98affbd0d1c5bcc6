"""The connection to MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from mlflow import MlflowClient


class MLflowHook(BaseHook):
    """Connects to an MLflow tracking server and model registry.

    The connection's host is the tracking URI (``https://...``, ``sqlite:///...``, ``databricks``); login and password
    are basic authentication, a password alone is a bearer token. The extra ``ui_url`` is the address of MLflow's pages
    where a browser needs another one than the workers.

    :param mlflow_conn_id: id of the Airflow connection
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id

    def get_conn(self) -> MlflowClient:
        """The client, as the steps of this package get it: it has reached the server and was let in.

        :raises ConnectionNotFoundError: Airflow has no such connection
        :raises RegistryError: the server cannot be used
        """
        from airflow_mlops.compute.base import airflow_connection
        from airflow_mlops.registry.client import connect
        from airflow_mlops.specs.base import MLflowTarget

        return connect(MLflowTarget(conn_id=self.mlflow_conn_id), airflow_connection)

    def test_connection(self) -> tuple[bool, str]:
        """Connect and say what was found; for the test button and ``airflow connections test``."""
        from airflow_mlops.registry.client import without_credentials

        try:
            uri: str = self.get_conn().tracking_uri
        except Exception as error:  # noqa: BLE001 - whatever it is, the user who asked wants to read it
            return False, str(error)
        return True, f"MLflow{_server_version(uri)} answers at {without_credentials(uri)}."


def _server_version(uri: str) -> str:
    import requests

    if not uri.startswith(("http://", "https://")):
        return ""
    try:
        answer = requests.get(f"{uri}/version", timeout=3)
    except requests.RequestException:
        return ""
    return f" {answer.text}" if answer.ok and len(answer.text) < 20 else ""
