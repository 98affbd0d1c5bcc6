"""Read the result of a PostgreSQL query with ADBC, which streams the rows in the binary format of COPY."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.data.databases.bounds import bind_placeholders
from airflow_mlops.data.databases.connections import postgres_uri
from airflow_mlops.data.databases.queries.base import Query
from airflow_mlops.data.databases.queries.postgres_types import PostgresColumn, PostgresColumns, numeric_modifier
from airflow_mlops.data.databases.sessions import NOTICE_LOST_CLIENT, POSTGRES_SETTINGS

if TYPE_CHECKING:
    from airflow_mlops.data.incoming.types import ColumnTypes

BATCH_BYTES = 4 << 20


class PostgresQuery(Query):
    """A query on a PostgreSQL database, which the ADBC driver runs in a read-only transaction."""

    engine = "ADBC"
    _connection: Any = None
    _columns: PostgresColumns | None = None

    def is_settled(self) -> bool:
        """Return whether all column types are known. The scale of ``numeric`` without a declared scale is not known."""
        return self._columns is not None and self._columns.is_settled()

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        import adbc_driver_postgresql.dbapi as driver

        with (
            self.adbc_errors(),
            driver.connect(postgres_uri(self.info), autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            self._connection = connection
            for statement in POSTGRES_SETTINGS:
                cursor.execute(statement)
            with suppress(driver.Error):
                cursor.execute(NOTICE_LOST_CLIENT)
                cursor.fetchall()
            # Only the transaction is read-only. A connection pooler such as PgBouncer would pass a read-only session on
            # to other clients.
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            if self.window:
                # COPY does not support parameters, so the bounds are passed as settings of the session.
                cursor.execute(
                    "SELECT set_config('mlops.start', $1, false), set_config('mlops.end', $2, false)",
                    [self.window.start.isoformat(), self.window.end.isoformat()],
                )
                cursor.fetchall()
            sql = bind_placeholders(
                self.sql, {name: f"(current_setting('mlops.{name}')::timestamptz)" for name in ("start", "end")}
            )
            schema = cursor.adbc_execute_schema(sql)
            self.check_names(schema)
            self._columns = columns = PostgresColumns([result_column(field) for field in schema], types.declared)
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": BATCH_BYTES})
            cursor.execute(columns.query(sql))
            # fetch_record_batch() would return a reader whose errors have no SQLSTATE.
            results: Any = cursor._results
            for batch in results.reader:
                yield columns.convert(batch)

    def cancel(self) -> bool:
        if self._connection is None:
            return False
        self._connection.adbc_cancel()
        return True


def result_column(field: pa.Field) -> PostgresColumn:
    """Return the PostgreSQL type of a result column, from the metadata that the driver adds to the Arrow field."""
    metadata = field.metadata or {}
    kind = metadata.get(b"POSTGRESQL:type", b"unknown").decode()
    if pa.types.is_list(field.type):
        return PostgresColumn(field.name, kind.removeprefix("_"), is_array=True)
    precision, scale = numeric_modifier(int(metadata.get(b"POSTGRESQL:typmod", -1)) if kind == "numeric" else -1)
    return PostgresColumn(field.name, kind, precision=precision, scale=scale)
