"""Write to a PostgreSQL table with ADBC, which streams the rows in the binary format of COPY."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from airflow_mlops.data.databases.connections import postgres_uri
from airflow_mlops.data.tables.database.base import COLUMNS, POSTGRES_ISOLATION, POSTGRES_LOCK, Found, Table
from airflow_mlops.data.tables.parts import Part, part_hash


class PostgresTable(Table):
    """A PostgreSQL table, to which the ADBC driver streams the rows in the binary format of COPY."""

    _connection: Any = None

    @contextmanager
    def _connect(self) -> Iterator[None]:
        import adbc_driver_postgresql.dbapi as driver

        # Closing the connection rolls back what is not committed.
        with driver.connect(postgres_uri(self.info)) as self._connection:
            yield

    def _driver_errors(self) -> tuple[type[BaseException], ...]:
        import adbc_driver_manager

        return (adbc_driver_manager.Error, OSError, pa.ArrowException)

    def _columns(self) -> list[Found]:
        with self._connection.cursor() as cursor:
            cursor.execute(COLUMNS["postgresql"].replace(":name", "$1"), [self.quoted_name])
            rows = cursor.fetchall()
        self._connection.rollback()
        return [Found(*row) for row in rows]

    def _execute(self, statement: str) -> None:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement)
            self._connection.commit()
        except self._driver_errors():
            self._connection.rollback()
            raise

    def _replace(self, schema: pa.Schema, part: Part, batches: Iterator[pa.RecordBatch]) -> int:
        conditions = " AND ".join(f"{self.quoted(name)} = ${place}" for place, name in enumerate(part, 1))
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        with self._connection.cursor() as cursor:
            cursor.execute(POSTGRES_ISOLATION)
            cursor.execute(
                POSTGRES_LOCK.replace(":name", "$1").replace(":part", "$2"), [self.quoted_name, part_hash(part)]
            )
            cursor.fetchall()
            cursor.execute(f"DELETE FROM {self.quoted_name} WHERE {conditions}", list(part.values()))  # noqa: S608
            schema_name = {"db_schema_name": self.schema} if self.schema else {}
            written = cursor.adbc_ingest(self.table, reader, mode="append", **schema_name)
        self._connection.commit()
        return int(written)
