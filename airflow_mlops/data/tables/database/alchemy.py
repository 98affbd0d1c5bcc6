"""Write to a table of any supported database with SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from airflow_mlops.core.errors import TableError, TableUnavailableError
from airflow_mlops.data.databases.connections import create_engine
from airflow_mlops.data.tables.database.base import COLUMNS, POSTGRES_ISOLATION, POSTGRES_LOCK, Found, Table
from airflow_mlops.data.tables.parts import Part, part_hash

_BATCH_ROWS = 5_000
_SECONDS = 3_600
_MYSQL_LOCK = "SELECT GET_LOCK(concat('mlops-', md5(concat(coalesce(:schema, database()), '.', :name))), :seconds)"


class AlchemyTable(Table):
    """A table of any supported database, into which SQLAlchemy inserts the rows in batches."""

    _connection: Any = None

    @contextmanager
    def _connect(self) -> Iterator[None]:
        from sqlalchemy import text

        engine = create_engine(self.info)
        try:
            with engine.connect() as self._connection:
                if self.database == "mysql":
                    # In another mode, long text could be cut off, and large numbers replaced, without an error.
                    self._connection.execute(text("SET SESSION sql_mode = 'STRICT_ALL_TABLES'"))
                    lock = {"schema": self.schema or None, "name": self.table, "seconds": _SECONDS}
                    if self._connection.scalar(text(_MYSQL_LOCK), lock) != 1:
                        raise TableUnavailableError(
                            f"{self.where} has been locked by another task for an hour. A retry waits again."
                        )
                    self._connection.rollback()
                yield
        finally:
            engine.dispose()

    def _driver_errors(self) -> tuple[type[BaseException], ...]:
        from sqlalchemy import exc

        return (exc.SQLAlchemyError,)

    def _columns(self) -> list[Found]:
        from sqlalchemy import text

        name = self.quoted_name if self.database == "postgresql" else self.table
        rows = self._connection.execute(text(COLUMNS[self.database]), {"name": name, "schema": self.schema or None})
        found = [Found(column, kind, bool(required)) for column, kind, required in rows]
        if found and self.database == "mysql":
            self._require_transactions()
        self._connection.rollback()
        return found

    def _require_transactions(self) -> None:
        from sqlalchemy import text

        engine = self._connection.scalar(
            text(
                "SELECT engine FROM information_schema.tables WHERE table_name = :name "
                "AND table_schema = coalesce(:schema, database())"
            ),
            {"name": self.table, "schema": self.schema or None},
        )
        if engine != "InnoDB":
            raise TableError(
                f"{self.where} has the storage engine {engine}, which may have no transactions. Convert it to InnoDB."
            )

    def _execute(self, statement: str) -> None:
        try:
            # The statement has no parameters, so that a driver does not look for placeholders in the names.
            self._connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            self._connection.commit()
        except self._driver_errors():
            self._connection.rollback()
            raise

    def _replace(self, schema: pa.Schema, part: Part, batches: Iterator[pa.RecordBatch]) -> int:
        import sqlalchemy as sa

        columns = {field.name: sa.column(field.name, _alchemy_type(field.type)) for field in schema}
        for column in columns.values():
            column.name = sa.quoted_name(column.name, quote=True)
        name = sa.quoted_name(self.table, quote=True)
        target = sa.table(name, *columns.values(), schema=sa.quoted_name(self.schema, True) if self.schema else None)
        connection = self._connection
        if self.database == "postgresql":
            connection.execute(sa.text(POSTGRES_ISOLATION))
            connection.execute(sa.text("SET TIME ZONE 'UTC'"))
            connection.execute(sa.text(POSTGRES_LOCK), {"name": self.quoted_name, "part": part_hash(part)})
        connection.execute(sa.delete(target).where(*(self._equals(columns[key], part[key]) for key in part)))
        keys = [f"c{place}" for place in range(len(columns))]
        bound = [sa.bindparam(key, type_=column.type) for key, column in zip(keys, columns.values(), strict=True)]
        insert = sa.insert(target).values(dict(zip(columns.values(), bound, strict=True)))
        written = 0
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                chunk = batch.slice(start, _BATCH_ROWS)
                values = [self._plain(column) for column in chunk.columns]
                connection.execute(insert, [dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True)])
                written += chunk.num_rows
        connection.commit()
        return written

    def _equals(self, column: Any, value: Any) -> Any:
        import sqlalchemy as sa

        bound = sa.literal(self._without_zone(value), column.type)
        # The collation of a column that the user has created may ignore case.
        is_text = self.database == "mysql" and isinstance(value, str)
        return column == (sa.collate(bound, "utf8mb4_bin") if is_text else bound)

    def _plain(self, column: pa.Array) -> list[Any]:
        values: list[Any] = column.to_pylist()
        return [self._without_zone(value) for value in values] if pa.types.is_timestamp(column.type) else values

    def _without_zone(self, value: Any) -> Any:
        """For MySQL and SQLite, remove the time zone UTC from a point in time. Return all other values unchanged."""
        has_zone = getattr(value, "tzinfo", None) is not None
        return value.replace(tzinfo=None) if has_zone and self.database != "postgresql" else value


def _alchemy_type(kind: pa.DataType) -> Any:
    import sqlalchemy as sa

    if pa.types.is_boolean(kind):
        return sa.Boolean()
    if pa.types.is_int64(kind):
        return sa.BigInteger()
    if pa.types.is_float64(kind):
        return sa.Double()
    if pa.types.is_decimal(kind):
        return sa.Numeric(kind.precision, kind.scale)
    if pa.types.is_binary(kind):
        return sa.LargeBinary()
    if pa.types.is_date32(kind):
        return sa.Date()
    return sa.DateTime(timezone=True) if pa.types.is_timestamp(kind) else sa.Text()
