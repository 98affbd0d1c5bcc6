"""Queries on the databases of Airflow connections. A query streams its result as Arrow batches."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.windows import Window
from airflow_mlops.data.databases.connections import check_type

if TYPE_CHECKING:
    from airflow_mlops.data.databases.queries.base import Query


def open_query(sql: str, window: Window | None, info: ConnectionInfo) -> Query:
    """Create a query, without connecting. It uses an ADBC driver if the driver is installed, and otherwise SQLAlchemy.

    :param sql: the query, which has the placeholders ``:start`` and ``:end`` if ``window`` is set
    :param window: the time window of the rows
    :param info: the connection
    :raises SpecError: the type of the connection names no database
    """
    check_type(info)
    if info.conn_type == "sqlite" and find_spec("adbc_driver_sqlite"):
        from airflow_mlops.data.databases.queries.sqlite import SQLiteQuery

        return SQLiteQuery(sql, window, info)
    if info.conn_type in ("postgres", "postgresql") and find_spec("adbc_driver_postgresql"):
        from airflow_mlops.data.databases.queries.postgres import PostgresQuery

        return PostgresQuery(sql, window, info)
    from airflow_mlops.data.databases.queries.alchemy import AlchemyQuery

    return AlchemyQuery(sql, window, info)
