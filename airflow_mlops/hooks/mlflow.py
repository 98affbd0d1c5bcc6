"""The connection to MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.core.connections import ConnectionInfo


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
        from airflow_mlops.compute.connections import airflow_connection
        from airflow_mlops.core.references import MLflowTarget
        from airflow_mlops.registry.client import connect

        return connect(MLflowTarget(conn_id=self.mlflow_conn_id), airflow_connection)

    def champion(self, model: str) -> int | None:
        """The version of ``model`` with the alias ``champion``, or ``None``: no champion yet, or no such model.

        A server is asked by HTTP, as importing the client takes longer than all the rest.
        """
        import requests

        from airflow_mlops.compute.connections import airflow_connection
        from airflow_mlops.registry.client import tracking_uri
        from airflow_mlops.registry.versions import CHAMPION, champion

        found = airflow_connection(self.mlflow_conn_id)
        uri = tracking_uri(found).rstrip("/")
        if not uri.startswith(("http://", "https://")):
            ref = champion(self.get_conn(), model)
            return ref.version if ref is not None else None
        answer = requests.get(
            f"{uri}/api/2.0/mlflow/registered-models/alias",
            params={"name": model, "alias": CHAMPION},
            auth=_credentials(found),
            timeout=10,
        )
        if answer.status_code == 404 or (answer.status_code == 400 and "not found" in answer.text):
            return None
        answer.raise_for_status()
        return int(answer.json()["model_version"]["version"])

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run. A server that cannot be reached gets a warning in the log: they are for the record.

        A server is asked by HTTP, as importing the client takes longer than all the rest.
        """
        import requests

        from airflow_mlops.compute.connections import airflow_connection
        from airflow_mlops.registry.client import tracking_uri

        found = airflow_connection(self.mlflow_conn_id)
        uri = tracking_uri(found).rstrip("/")
        try:
            if uri.startswith(("http://", "https://")):
                for name, value in tags.items():
                    requests.post(
                        f"{uri}/api/2.0/mlflow/runs/set-tag",
                        json={"run_id": run_id, "key": name, "value": value},
                        auth=_credentials(found),
                        timeout=10,
                    ).raise_for_status()
            else:
                client = self.get_conn()
                for name, value in tags.items():
                    client.set_tag(run_id, name, value)
        except Exception as error:  # noqa: BLE001 - the training is done
            self.log.warning("Run %s was not tagged with %s: %s", run_id, ", ".join(tags), error)

    def test_connection(self) -> tuple[bool, str]:
        """Connect and say what was found; for the test button and ``airflow connections test``."""
        from airflow_mlops.registry.client import without_credentials

        try:
            uri: str = self.get_conn().tracking_uri
        except Exception as error:  # noqa: BLE001 - whatever it is, the user who asked wants to read it
            return False, str(error)
        return True, f"MLflow{_server_version(uri)} answers at {without_credentials(uri)}."


def _credentials(found: ConnectionInfo) -> Any:
    """What requests takes: login and password, or a password alone as a bearer token."""
    if found.login or not found.secret:
        return (found.login, found.secret or "") if found.login else None

    def bearer(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {found.secret}"
        return request

    return bearer


def _server_version(uri: str) -> str:
    import requests

    if not uri.startswith(("http://", "https://")):
        return ""
    try:
        answer = requests.get(f"{uri}/version", timeout=3)
    except requests.RequestException:
        return ""
    return f" {answer.text}" if answer.ok and len(answer.text) < 20 else ""
