"""``MLflowHook``, the hook for MLflow tracking servers and model registries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from mlflow import MlflowClient


class MLflowHook(BaseHook):
    """Connects to an MLflow tracking server and model registry.

    The host of the connection is the tracking URI (``https://...``, ``sqlite:///...``, ``databricks``). Login and
    password are used for basic authentication. A password without a login is used as a bearer token. The extra
    ``ui_url`` is the address of MLflow's pages for browsers, if it differs from the tracking URI.

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
        """Return an MLflow client after checking that the server answers and accepts the credentials.

        :raises ConnectionNotFoundError: the connection is not defined in Airflow
        :raises RegistryError: the server does not answer or refuses the credentials
        """
        from airflow_mlops.compute.connections import airflow_connection
        from airflow_mlops.core.references import MLflowTarget
        from airflow_mlops.registry.client import connect

        return connect(MLflowTarget(conn_id=self.mlflow_conn_id), airflow_connection)

    def champion(self, model: str) -> int | None:
        """Return the number of the champion's version, or ``None`` if the model does not exist or has no champion.

        Plain HTTP is used where it is sufficient, because importing MLflow's client takes seconds.

        :param model: name of the registered model
        :raises ConnectionNotFoundError: the connection is not defined in Airflow
        :raises RegistryError: the server does not answer, refuses the request, or is not an MLflow server
        """
        from airflow_mlops.compute.connections import airflow_connection
        from airflow_mlops.registry.light import Aliases, sufficient
        from airflow_mlops.registry.versions import CHAMPION, champion

        found = airflow_connection(self.mlflow_conn_id)
        if sufficient(found):
            return Aliases(found).version(model, CHAMPION)
        ref = champion(self.get_conn(), model)
        return ref.version if ref is not None else None

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an MLflow run. A failure is logged as a warning and raises no error.

        Plain HTTP is used where it is sufficient, because importing MLflow's client takes seconds.

        :param run_id: id of the MLflow run
        :param tags: values by tag name
        """
        import requests

        from airflow_mlops.compute.connections import airflow_connection
        from airflow_mlops.core.secrets import mask_chain
        from airflow_mlops.registry.client import authorization, verify
        from airflow_mlops.registry.light import server_address, sufficient

        try:
            # The connection may be defined only where the step runs, for example in a Kubernetes Secret.
            found = airflow_connection(self.mlflow_conn_id)
            if sufficient(found):
                header = authorization(found)
                for name, value in tags.items():
                    requests.post(
                        f"{server_address(found)}/api/2.0/mlflow/runs/set-tag",
                        json={"run_id": run_id, "key": name, "value": value},
                        headers={"Authorization": header} if header else {},
                        timeout=10,
                        verify=verify(),
                    ).raise_for_status()
            else:
                client = self.get_conn()
                for name, value in tags.items():
                    client.set_tag(run_id, name, value)
        except Exception as error:  # noqa: BLE001 - the training has succeeded
            mask_chain(error)
            self.log.warning("The tags %s of MLflow run %s could not be set: %s", ", ".join(tags), run_id, error)

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the connection works, and a message for the user.

        Airflow's *Test* button and ``airflow connections test`` call this method.
        """
        from airflow_mlops.registry.client import without_credentials

        try:
            uri: str = self.get_conn().tracking_uri
        except Exception as error:  # noqa: BLE001 - the user sees the message
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
