"""Look up Airflow connections for steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from airflow_mlops.core.connections import ConnectionInfo, malformed
from airflow_mlops.core.errors import (
    ConnectionNotFoundError,
    ConnectionUnavailableError,
    MLOpsError,
    SpecError,
    one_line,
)

# Maximum length of a backend's error in a message, in characters.
_MOST = 300


def airflow_connection(conn_id: str) -> ConnectionInfo:
    """Look up a connection in Airflow, including Airflow's secrets backends.

    :raises ConnectionNotFoundError: Airflow has no connection with this id, or the task has no access to the connection
    :raises ConnectionUnavailableError: a secrets backend or Airflow's API server does not answer
    :raises SpecError: the connection is defined, but invalid
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

    return look_up(conn_id, BaseHook.get_connection, ensure_secrets_backend_loaded)


def look_up(conn_id: str, get: Callable[[str], Any], backends: Callable[[], Iterable[Any]]) -> ConnectionInfo:
    """Look up a connection. If Airflow does not find the connection, raise an error that names the cause.

    Airflow 3.3 reports a connection as undefined if a secrets backend raises an exception. Therefore this function asks
    each backend again.

    :param conn_id: id of the connection
    :param get: function of Airflow that looks up a connection
    :param backends: function of Airflow that returns the secrets backends that ``get`` queries
    :raises MLOpsError: see :func:`airflow_connection`
    """
    found = _get(conn_id, get)
    if found is None:
        holder = _holder(conn_id, backends)
        if holder is None:
            raise undefined(conn_id)
        found = _get(conn_id, get)
        if found is None:
            raise malformed(conn_id, f"The secrets backend {holder}")
    return ConnectionInfo.of(
        conn_id,
        conn_type=found.conn_type,
        host=found.host,
        login=found.login,
        password=found.password,
        schema=found.schema,
        port=found.port,
        extra=found.extra,
    )


def _get(conn_id: str, get: Callable[[str], Any]) -> Any:
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return get(conn_id)
    except AirflowNotFoundException:
        return None
    # AirflowSecretsBackendAccessDenied is a PermissionError.
    except PermissionError:
        raise _denied(conn_id) from None
    except Exception as error:  # noqa: BLE001 - the constructor of a backend of any vendor
        raise _unavailable(conn_id, "Airflow", error) from None


def _holder(conn_id: str, load: Callable[[], Iterable[Any]]) -> str | None:
    """Return the name of the secrets backend that has a value for the connection; ``None`` if no backend has one.

    :raises ConnectionUnavailableError: a backend does not respond
    """
    try:
        backends = load()
    except Exception as error:  # noqa: BLE001 - the constructor of a backend of any vendor
        raise _unavailable(conn_id, "[secrets] backend", error) from None
    for backend in backends:
        name = type(backend).__name__
        try:
            if _value(backend, conn_id):
                return name
        except PermissionError:
            raise _denied(conn_id) from None
        except Exception as error:  # noqa: BLE001 - a backend of any vendor
            raise _unavailable(conn_id, name, error) from None
    return None


def _value(backend: Any, conn_id: str) -> Any:
    """Return the value that the backend stores for the connection; empty if the backend stores none."""
    from airflow.sdk.execution_time.secrets.execution_api import ExecutionAPISecretsBackend

    if isinstance(backend, ExecutionAPISecretsBackend):
        return _from_api(conn_id)
    if type(backend).get_connection.__qualname__.startswith("BaseSecretsBackend."):
        # The value is not parsed: a backend that returns an invalid value is still available.
        return backend.get_conn_value(conn_id)
    return backend.get_connection(conn_id)


def _from_api(conn_id: str) -> Any:
    # ExecutionAPISecretsBackend returns None if the API server does not answer.
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse, GetConnection
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    found: Any = SUPERVISOR_COMMS.send(GetConnection(conn_id=conn_id))
    if not isinstance(found, ErrorResponse):
        return found
    if found.error == ErrorType.CONNECTION_NOT_FOUND:
        return None
    if found.error == ErrorType.PERMISSION_DENIED:
        raise PermissionError(conn_id)
    raise AirflowRuntimeError(found)


def undefined(conn_id: str) -> ConnectionNotFoundError:
    """Return the error for a connection that is not defined in Airflow."""
    return ConnectionNotFoundError(
        f"Connection {conn_id!r} is not defined in Airflow. Add it under Admin, Connections, "
        f"with `airflow connections add {conn_id}`, or as AIRFLOW_CONN_{conn_id.upper()}."
    )


def _denied(conn_id: str) -> ConnectionNotFoundError:
    return ConnectionNotFoundError(
        f"Airflow does not give this task the connection {conn_id!r}. Grant the task access to it, or name a connection "
        "that it may use."
    )


def _unavailable(conn_id: str, where: str, error: Exception) -> MLOpsError:
    # Airflow has two classes with this name.
    if type(error).__name__ == "AirflowConfigException" or isinstance(error, ImportError):
        return SpecError(
            f"Connection {conn_id!r} cannot be looked up, because the secrets backend cannot be loaded "
            f"({one_line(error, _MOST)}). Correct the section [secrets] or [workers] of Airflow's configuration."
        )
    return ConnectionUnavailableError(
        f"Connection {conn_id!r} cannot be looked up, because {where} does not answer ({one_line(error, _MOST)}). Check "
        "that the worker can reach it."
    )
