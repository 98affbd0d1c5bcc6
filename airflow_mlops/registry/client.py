"""Create an MLflow client from an Airflow connection, and convert MLflow's exceptions to errors of this package."""

from __future__ import annotations

import base64
import importlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from airflow_mlops.core.connections import ConnectionInfo, ConnectionResolver
from airflow_mlops.core.errors import RegistryError, RegistryUnavailableError, SpecError
from airflow_mlops.core.isolation import without
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.core.secrets import mask, mask_urls

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from requests.exceptions import RequestException

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Without this, MLflow warns on import if git is not installed.
    "GIT_PYTHON_REFRESH": "quiet",
    # With its default of seven retries, MLflow waits four minutes for a server that is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_ATTEMPTS, _TIMEOUT, _PAUSE = 3, 3.0, 1.0
# A server that has accepted a request is not asked again for this time, because steps connect several times.
_ACCEPTED_SECONDS = 60.0

# The credentials that this module has written to environment variables. The next connection must not inherit them.
_set_here: dict[str, str] = {}
# Time in seconds at which a server accepted a request, by tracking URI and credentials.
_accepted: dict[tuple[str, str | None], float] = {}


def connect(target: MLflowTarget, connection: ConnectionResolver) -> MlflowClient:
    """Connect to the MLflow server of ``target``, and make this server MLflow's default in the process.

    The credentials are checked with a request. The request is omitted if an HTTP server has accepted the same credentials
    from this process in the last minute.

    The host of the Airflow connection is the tracking URI (``http://mlflow:5000``, ``sqlite:////srv/mlflow.db``,
    ``databricks``). A host without a scheme gets the scheme ``http`` or, if the connection's schema is ``https``, the
    scheme ``https``. A schema other than ``http`` and ``https`` is appended to an HTTP address as a path. The port is
    added if the host has none. Login and password are used for basic authentication. A password without a login is used
    as a bearer token.

    :param target: MLflow server and experiment
    :param connection: function that returns an Airflow connection by its id

    :raises SpecError: the connection has no valid host
    :raises RegistryUnavailableError: the server does not respond
    :raises RegistryError: the server is not an MLflow server, or refuses the credentials
    """
    info = connection(target.conn_id)
    uri = tracking_uri(info)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    _use_credentials(info)
    header = authorization(info)
    if uri.startswith(("http://", "https://")):
        _check_health(uri, target.conn_id)

    import mlflow

    # MLflow's plugin for Feast adds nothing to requests outside Feast, but importing it takes 4 s because it loads
    # torch.
    with without("feast"):
        importlib.import_module("mlflow.tracking.request_header.registry")
    # At level INFO, MLflow logs its own progress, and logs waits that do not happen.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    from airflow_mlops.registry.once import Client

    client = Client(uri)
    now = time.monotonic()
    if not uri.startswith(("http://", "https://")) or now - _accepted.get((uri, header), -inf) > _ACCEPTED_SECONDS:
        with registry_errors(f"MLflow at {without_credentials(uri)} (connection {target.conn_id!r}) cannot be used"):
            client.search_experiments(max_results=1)
        # Old entries are removed, so that renewed tokens do not fill the memory.
        for key in [key for key, then in _accepted.copy().items() if now - then > _ACCEPTED_SECONDS]:
            _accepted.pop(key, None)
        _accepted[uri, header] = now
    return client


def tracking_uri(info: ConnectionInfo) -> str:
    """Return the MLflow tracking URI of an Airflow connection of type ``mlflow``.

    :raises SpecError: the connection has no host
    """
    host = (info.host or "").rstrip("/")
    # Airflow parses the part of a connection URI after the host as the schema, so the schema is a scheme or a path.
    scheme, path = (info.schema_, "") if info.schema_ in ("http", "https") else ("http", info.schema_ or "")
    path = f"/{path.strip('/')}" if path else ""
    if not host:
        raise SpecError(
            f"Connection {info.conn_id!r} has no host. Set the host to the MLflow tracking URI, such as http://mlflow:5000."
        )
    if host == "databricks" or "://" in host:
        parts = urlsplit(host)
        if parts.scheme not in ("http", "https"):
            return host
        netloc = parts.netloc
        if info.port and ":" not in netloc.rpartition("@")[2].rpartition("]")[2]:
            netloc = f"{netloc}:{info.port}"
        return urlunsplit((parts.scheme, netloc, parts.path + path, parts.query, ""))
    return f"{scheme}://{host}{f':{info.port}' if info.port else ''}{path}"


def _use_credentials(info: ConnectionInfo) -> None:
    for name, value in _set_here.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    _set_here.clear()
    if info.login:
        _set_here.update(MLFLOW_TRACKING_USERNAME=info.login, MLFLOW_TRACKING_PASSWORD=info.secret or "")
    elif info.secret:
        _set_here.update(MLFLOW_TRACKING_TOKEN=info.secret)
    if _set_here:
        # A token in an environment variable would override the connection's login.
        for name in _CREDENTIALS:
            os.environ.pop(name, None)
        os.environ.update(_set_here)


def authorization(info: ConnectionInfo) -> str | None:
    """Return the header ``Authorization`` that MLflow's client sends after :func:`connect`; ``None`` if it sends none.

    Without a login and a password in the connection, the environment variables of MLflow's client apply, except those
    that :func:`connect` has set for another connection.

    :raises SpecError: the token contains a control character, such as a line break
    """
    login, password, token = info.login, info.secret, None if info.login else info.secret
    if not login and not token:
        login, password, token = (None if name in _set_here else os.environ.get(name) for name in _CREDENTIALS)
    # The libraries would refuse the header with an error that shows the token.
    if token and not token.isprintable():
        raise SpecError(
            f"The token for MLflow (password of connection {info.conn_id!r}, or MLFLOW_TRACKING_TOKEN) contains a line break or "
            "another control character. Remove it."
        )
    if login and password:
        return f"Basic {base64.b64encode(f'{login}:{password}'.encode()).decode()}"
    return f"Bearer {token}" if token else None


def _check_health(uri: str, conn_id: str) -> None:
    """Check that the server responds before MLflow is imported, because MLflow's own retries take minutes.

    :raises SpecError: the URI is invalid
    :raises RegistryError: the TLS certificate is not trusted
    :raises RegistryUnavailableError: the server does not respond
    """
    import requests

    for attempt in range(_ATTEMPTS):
        try:
            requests.get(f"{uri}/health", timeout=_TIMEOUT, allow_redirects=False, verify=verify())
            return
        except requests.exceptions.SSLError as error:
            raise RegistryError(
                f"The TLS certificate of MLflow at {without_credentials(uri)} (connection {conn_id!r}) is not trusted: "
                f"{error}. Set REQUESTS_CA_BUNDLE or MLFLOW_TRACKING_SERVER_CERT_PATH to the file of the CA certificate."
            ) from None
        except requests.exceptions.InvalidURL as error:
            raise SpecError(
                f"Connection {conn_id!r} has an invalid tracking URI, {without_credentials(uri)!r}: {error}. Set the host "
                "of the connection to a URI such as http://mlflow:5000."
            ) from None
        except requests.exceptions.RequestException as error:
            reason = error
        if attempt + 1 < _ATTEMPTS:
            time.sleep(_PAUSE)
    raise RegistryUnavailableError(
        f"MLflow at {without_credentials(uri)} (connection {conn_id!r}) does not respond: {_cause(reason)}. "
        "Check that the server is running and that the connection's host and port are correct."
    )


def verify() -> bool | str:
    """Return the parameter ``verify`` for the library requests, according to MLflow's environment variables."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True


def _cause(error: Exception) -> str:
    text = str(error).lower()
    if "refused" in text:
        return "connection refused"
    if "timed out" in text:
        return f"no response within {_TIMEOUT:g} s"
    if "resolve" in text or "name or service" in text:
        return "the host name cannot be resolved"
    return type(error).__name__


def without_credentials(uri: str) -> str:
    """Return the URI without login, password and query, for messages."""
    return mask_urls(uri)


# HTTP statuses.
_REFUSED, _OVERLOADED = (401, 403), (429, 502, 503, 504)


@contextmanager
def registry_errors(what: str) -> Iterator[None]:
    """Convert MLflow's exceptions inside the block to a :class:`RegistryError`.

    The error is a :class:`RegistryUnavailableError` if the server does not respond or is overloaded, so that a retry
    can succeed.

    :param what: the first words of the error message, such as ``Trial 3 cannot be written to MLflow``
    """
    try:
        yield
    except Exception as error:
        # The exceptions of a module can occur only if the module is imported, and importing MLflow takes seconds.
        if "mlflow" not in sys.modules and "requests" not in sys.modules:
            raise
        explained = _explain(what, error)
        if explained is None:
            raise
        raise explained from error


def _explain(what: str, error: Exception) -> RegistryError | None:
    """Convert an exception of MLflow or of the library requests; return ``None`` for any other exception."""
    from requests.exceptions import RequestException

    mlflow_errors = sys.modules.get("mlflow.exceptions")
    if mlflow_errors is not None and isinstance(error, mlflow_errors.MlflowException):
        message = mask(" ".join(str(error.message).split())[:500])
        status = error.get_http_status_code()
        if status in _REFUSED or " 401 " in message or " 403 " in message:
            return _refused(what)
        unavailable = status in _OVERLOADED or "Max retries exceeded" in message or "too many" in message
        kind = RegistryUnavailableError if unavailable else RegistryError
        return kind(f"{what}: {message.rstrip('.')}.")
    # If a file cannot be read, MLflow raises an error of the library requests instead of its own.
    return request_error(what, error) if isinstance(error, RequestException) else None


def request_error(what: str, error: RequestException) -> RegistryError:
    """Return the error for a request that has failed.

    :param what: the first words of the error message, such as ``The champion cannot be looked up``
    """
    answer = error.response.status_code if error.response is not None else None
    if answer in _REFUSED:
        return _refused(what)
    # A status from 500 on can come from the object store behind the server, and a retry can succeed.
    if answer is not None and answer < 500 and answer not in _OVERLOADED:
        return RegistryError(f"{what}: MLflow answers with the status {answer}.")
    reason = _cause(error) if answer is None else f"MLflow answers with the status {answer}"
    return RegistryUnavailableError(f"{what}: {reason}.")


def _refused(what: str) -> RegistryError:
    return RegistryError(
        f"{what}, because MLflow refuses the credentials. Check login and password of the Airflow connection."
    )


def is_missing(error: Exception) -> bool:
    """Return whether an error was raised because something does not exist in MLflow.

    :param error: MLflow's exception, or the error of :func:`registry_errors`
    """
    cause = error.__cause__ if isinstance(error, RegistryError) else error
    return getattr(cause, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


@contextmanager
def unless_missing() -> Iterator[None]:
    """Ignore MLflow's error that something does not exist. The rest of the block is then skipped."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if not is_missing(error):
            raise


def quoted(text: str) -> str:
    """Return ``text`` as a string in a filter of MLflow.

    :raises RegistryError: the text contains both kinds of quotes, and MLflow's filters have no escape character
    """
    if "'" in text and '"' in text:
        raise RegistryError(
            f"MLflow cannot search for {text!r}, because its filters cannot express text with both ' and \": use a name "
            "with at most one of the two."
        )
    return f'"{text}"' if "'" in text else f"'{text}'"
