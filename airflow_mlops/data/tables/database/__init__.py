"""Tables of the databases of Airflow connections. A part of a table is replaced with rows in one transaction."""

from __future__ import annotations

from importlib.util import find_spec

from airflow_mlops.core.connections import ConnectionInfo, sqlalchemy_url
from airflow_mlops.core.errors import TableError
from airflow_mlops.data.databases.connections import check_type
from airflow_mlops.data.tables.database.alchemy import AlchemyTable
from airflow_mlops.data.tables.database.base import Table
from airflow_mlops.data.tables.database.column_types import DATABASES
from airflow_mlops.data.tables.database.postgres import PostgresTable


def open_table(info: ConnectionInfo, name: str) -> Table:
    """Return the table of a connection, without connecting. ADBC is used for PostgreSQL if its driver is installed.

    :param info: the connection
    :param name: name of the table, or ``SCHEMA.TABLE``
    :raises SpecError: the type of the connection names no database, or its driver is not installed
    :raises TableError: rows cannot be written to this kind of database
    """
    check_type(info)
    database = "sqlite" if info.conn_type == "sqlite" else sqlalchemy_url(info).get_backend_name()
    database = "mysql" if database == "mariadb" else database
    if database not in DATABASES or info.conn_type == "redshift":
        raise TableError(
            f"Connection {info.conn_id!r} has the type {info.conn_type!r}, but predictions can be written to tables of "
            "PostgreSQL, MySQL, MariaDB and SQLite only. Choose a connection to one of them."
        )
    if database == "postgresql" and info.conn_type == "postgres" and find_spec("adbc_driver_postgresql"):
        return PostgresTable(info, name, database)
    return AlchemyTable(info, name, database)
