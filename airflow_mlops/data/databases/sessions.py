"""The sessions in which queries run: their settings in each database, and how a running query is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

POSTGRES_SETTINGS = (
    # With this setting on, scans of a large table may start at different rows, so the order of rows would vary.
    "SET synchronize_seqscans = off",
    "SET TIME ZONE 'UTC'",
    # Values that are returned as text do not depend on the settings of the server.
    "SET DateStyle = 'ISO'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 3",
)
"""SQL statements to run at the start of a session of PostgreSQL."""

NOTICE_LOST_CLIENT = (
    "SELECT set_config(name, '5s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'"
)
"""SQL statement with which PostgreSQL 14 and newer cancels a query a few seconds after the client was killed.

The statement fails on operating systems that do not report closed connections.
"""

MYSQL_SETTINGS = (
    # Otherwise, MySQL returns columns of the type TIMESTAMP in the time zone of the server.
    "SET time_zone = '+00:00'",
)
"""SQL statements to run at the start of a session of MySQL or MariaDB."""


def cancellation(connection: Connection, engine: Engine) -> Callable[[], object] | None:
    """Return a function that cancels the running query of a connection from a different thread.

    :param engine: engine that opens a second connection, if the driver needs one
    :return: the function; ``None`` if the driver has no such function. The query then runs until the database notices
        that the client has disconnected
    """
    from sqlalchemy import text

    if engine.dialect.name in ("mysql", "mariadb"):
        session = int(connection.scalar(text("SELECT CONNECTION_ID()")))

        def kill() -> None:
            with engine.connect() as other:
                other.execute(text(f"KILL QUERY {session}"))

        return kill
    driver = connection.connection.dbapi_connection
    # psycopg, psycopg2 and oracledb have cancel(), sqlite3 and DuckDB have interrupt().
    return getattr(driver, "cancel", None) or getattr(driver, "interrupt", None)
