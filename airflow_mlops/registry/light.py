"""Read the champion from an MLflow server by plain HTTP, because importing MLflow's client takes seconds."""

from __future__ import annotations

from typing import Any

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.registry.client import tracking_uri
from airflow_mlops.registry.versions import CHAMPION


def server_address(found: ConnectionInfo) -> str | None:
    """Return the address of the MLflow server of a connection; ``None`` if the tracking URI is not an HTTP address.

    :raises SpecError: the connection has no host
    """
    uri = tracking_uri(found).rstrip("/")
    return uri if uri.startswith(("http://", "https://")) else None


def champion_version(address: str, found: ConnectionInfo, model: str) -> int | None:
    """Return the number of the champion's version, or ``None`` if the model does not exist or has no champion.

    :param address: address of the MLflow server
    :param found: connection with the credentials
    :param model: name of the registered model
    :raises requests.RequestException: the server does not answer or refuses the request
    """
    import requests

    answer = requests.get(
        f"{address}/api/2.0/mlflow/registered-models/alias",
        params={"name": model, "alias": CHAMPION},
        auth=credentials(found),
        timeout=10,
    )
    if answer.status_code == 404 or (answer.status_code == 400 and "not found" in answer.text):
        return None
    answer.raise_for_status()
    return int(answer.json()["model_version"]["version"])


def credentials(found: ConnectionInfo) -> Any:
    """Return the parameter ``auth`` for the library requests: login and password, a bearer token, or ``None``."""
    if found.login or not found.secret:
        return (found.login, found.secret or "") if found.login else None

    def bearer(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {found.secret}"
        return request

    return bearer
