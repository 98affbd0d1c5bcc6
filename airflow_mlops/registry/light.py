"""Read aliases, such as that of the champion, from an MLflow server by plain HTTP.

Importing MLflow's client takes seconds, and 40 MB of memory.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.secrets import mask_chain
from airflow_mlops.registry.client import authorization, request_error, tracking_uri, verify

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from requests import Response

_PATH = "/api/2.0/mlflow/registered-models/alias"
_TIMEOUT = 10
# Settings of MLflow's client that change its requests, and that this module does not know.
_OTHER_SETTINGS = (
    "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_WORKSPACE",
)  # fmt: skip
_CREDENTIALS_FILE = "~/.mlflow/credentials"


def server_address(found: ConnectionInfo) -> str | None:
    """Return the address of the MLflow server of a connection; ``None`` if the tracking URI is not an HTTP address.

    :raises SpecError: the connection has no host
    """
    uri = tracking_uri(found).rstrip("/")
    return uri if uri.startswith(("http://", "https://")) else None


class Aliases:
    """Reads aliases of the model registry of an MLflow server, over one connection.

    The requests have the credentials and the TLS settings of MLflow's client, see :func:`sufficient`.

    :param found: connection for which :func:`sufficient` is true
    """

    def __init__(self, found: ConnectionInfo) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self._address = server_address(found)
        self._session = requests.Session()
        # The server may have closed the connection since the last request.
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=1))
        if (header := authorization(found)) is not None:
            # As in MLflow's client, this is a header. A login in the file .netrc would replace it.
            self._session.headers["Authorization"] = header

    def version(self, model: str, alias: str) -> int | None:
        """Return the number of the version with an alias, or ``None`` if there is no such version or model.

        :raises RegistryUnavailableError: the server does not respond or is overloaded
        :raises RegistryError: the server refuses the request, or is not an MLflow server
        """
        from requests import RequestException

        what = f"The {alias} of {model!r} cannot be looked up"
        try:
            answer = self._session.get(
                f"{self._address}{_PATH}", params={"name": model, "alias": alias}, timeout=_TIMEOUT, verify=verify()
            )
            if _is_absent(answer, alias):
                return None
            answer.raise_for_status()
        except RequestException as error:
            # The error messages of the library contain the URL and, if the header is invalid, the header.
            mask_chain(error)
            raise request_error(what, error) from error
        try:
            return int(answer.json()["model_version"]["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{what}: the response does not come from an MLflow server.") from error


def sufficient(found: ConnectionInfo) -> bool:
    """Return whether :class:`Aliases` can send the requests that MLflow's client would send.

    This is the case for a server that needs no credentials, a login and a password, or a bearer token, from the
    connection or from ``MLFLOW_TRACKING_USERNAME``, ``MLFLOW_TRACKING_PASSWORD`` and ``MLFLOW_TRACKING_TOKEN``. MLflow's
    client is needed for other settings, such as ``MLFLOW_TRACKING_AUTH``, for MLflow's file of credentials, and for
    plugins that add headers.

    :raises SpecError: the connection has no host
    """
    return (
        server_address(found) is not None
        and not any(os.environ.get(name) for name in _OTHER_SETTINGS)
        and not Path(_CREDENTIALS_FILE).expanduser().exists()
        and not _has_plugins()
    )


@cache
def _has_plugins() -> bool:
    """Return whether plugins add headers to the requests of MLflow's client.

    The result is cached: the search reads the metadata of all installed packages, which takes 30 ms.
    """
    return not all(_is_feast(plugin) for plugin in entry_points(group="mlflow.request_header_provider"))


def _is_feast(plugin: EntryPoint) -> bool:
    """Return whether a plugin for headers is that of Feast, which :func:`connect` does not load either."""
    return plugin.value.partition(".")[0] == "feast"


def _is_absent(answer: Response, alias: str) -> bool:
    """Return whether MLflow answers that the model or the alias does not exist."""
    if answer.status_code not in (400, 404):
        return False
    try:
        found = answer.json()
        return bool(found["error_code"] == "RESOURCE_DOES_NOT_EXIST" or f"alias {alias} not found" in found["message"])
    except (ValueError, KeyError, TypeError):
        # A proxy in front of MLflow has answered.
        return False
