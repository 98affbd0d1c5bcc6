"""Looks up Airflow connections for steps."""

from __future__ import annotations

from typing import Any

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import ConnectionNotFoundError


def airflow_connection(conn_id: str) -> ConnectionInfo:
    """Look up a connection in Airflow, including its secrets backends.

    :raises ConnectionNotFoundError: Airflow has no such connection
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowException

    try:
        return connection_info(conn_id, BaseHook.get_connection(conn_id))
    except AirflowException:
        raise undefined(conn_id) from None


def undefined(conn_id: str) -> ConnectionNotFoundError:
    """Return the error for a connection that is not defined in Airflow."""
    return ConnectionNotFoundError(
        f"Connection {conn_id!r} is not defined in Airflow: add it under Admin, Connections, "
        f"with `airflow connections add {conn_id}`, or as AIRFLOW_CONN_{conn_id.upper()}."
    )


def connection_info(conn_id: str, found: Any) -> ConnectionInfo:
    """Convert Airflow's ``Connection`` to the type that steps use."""
    return ConnectionInfo(
        conn_id=conn_id,
        conn_type=found.conn_type or "",
        host=found.host,
        login=found.login,
        password=found.password,
        schema=found.schema,
        port=found.port,
        extra=found.extra_dejson,
    )
