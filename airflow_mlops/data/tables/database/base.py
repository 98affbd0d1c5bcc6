"""The base class of tables of databases, in which a part is replaced with rows in one transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import TableError, TableUnavailableError
from airflow_mlops.data.databases.connections import driver_message
from airflow_mlops.data.databases.failures import is_final
from airflow_mlops.data.tables.database.column_types import fits, longest_text, new_type, writable, writable_type
from airflow_mlops.data.tables.parts import Part, kept_errors

# PostgreSQL locks a part of a table until the transaction ends, so other parts can be written at the same time. In
# MySQL, a deletion without an index locks rows of other parts, and two tasks would deadlock. Therefore the whole table
# is locked.
POSTGRES_LOCK = """
    SELECT pg_advisory_xact_lock(
        hashtextextended(concat(CAST(to_regclass(CAST(:name AS text)) AS oid), ' ', CAST(:part AS text)), 0)
    )
"""
# A role or a database may have another default isolation level. With a stricter one, a task that has waited for the lock
# would not see the rows that another task has written in the meantime, and would not delete them.
POSTGRES_ISOLATION = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
# Queries for the columns of a table: name, type and whether every insert must have a value. The result is empty if the
# table does not exist.
COLUMNS = {
    "postgresql": """
        SELECT attname::text, format_type(atttypid, atttypmod), attnotnull AND NOT (atthasdef OR attidentity <> '')
        FROM pg_catalog.pg_attribute
        WHERE attrelid = to_regclass(CAST(:name AS text)) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
    """,
    "mysql": """
        SELECT column_name, column_type, is_nullable = 'NO' AND column_default IS NULL
            AND extra NOT LIKE '%auto_increment%' AND extra NOT LIKE '%GENERATED%'
        FROM information_schema.columns
        WHERE table_name = :name AND table_schema = coalesce(:schema, database()) ORDER BY ordinal_position
    """,
    "sqlite": """
        SELECT name, type, "notnull" AND dflt_value IS NULL AND NOT pk
        FROM pragma_table_info(:name, coalesce(:schema, 'main'))
    """,
}


class Found(NamedTuple):
    """A column of an existing table.

    :param name: name of the column
    :param type: database type of the column
    :param required: whether every insert must have a value for the column
    """

    name: str
    type: str
    required: bool


class Table(ABC):
    """A table of the database of an Airflow connection. Each subclass uses one driver.

    :param info: the connection
    :param name: name of the table, or ``SCHEMA.TABLE``
    :param database: kind of the database, one of :data:`~airflow_mlops.data.tables.database.column_types.DATABASES`
    """

    quote = '"'

    def __init__(self, info: ConnectionInfo, name: str, database: str) -> None:
        self.info = info
        self.name = name
        self.database = database
        self.schema, _, self.table = name.rpartition(".")
        if database == "mysql":
            self.quote = "`"

    @property
    def where(self) -> str:
        """Return the description of the table in error messages."""
        return f"Table {self.name!r} of connection {self.info.conn_id!r}"

    @property
    def quoted_name(self) -> str:
        """Return the name of the table for SQL."""
        return ".".join(map(self.quoted, filter(None, (self.schema, self.table))))

    def quoted(self, identifier: str) -> str:
        """Return an identifier, quoted for SQL."""
        return f"{self.quote}{identifier.replace(self.quote, 2 * self.quote)}{self.quote}"

    def replace(self, schema: pa.Schema, part: Part, batches: Iterable[pa.RecordBatch]) -> int:
        """Replace the rows of ``part`` with ``batches``, in one transaction. If it fails, the table is unchanged.

        The table is created before the transaction if it does not exist. If two tasks replace the same part at the same
        time, the second waits for the first.

        :param schema: columns of the rows
        :param part: columns and values that select the replaced rows. All rows of ``batches`` have these values
        :param batches: the new rows
        :return: number of rows written
        :raises TableError: the table cannot hold the rows, or the database rejects them
        :raises TableUnavailableError: the database cannot be reached, or fails for another reason that may pass
        """
        schema = pa.schema([(field.name, writable_type(field.type, self.database)) for field in schema])
        self._check_names(schema)
        failed: list[BaseException] = []
        with self._errors(failed), self._connect():
            found = self._columns()
            if not found:
                self._create(schema)
                found = self._columns()
            self._check(schema, found)
            limits = {self._folded(column.name): longest_text(column.type) for column in found}
            return self._replace(schema, part, kept_errors(self._checked(batches, limits), failed))

    @abstractmethod
    @contextmanager
    def _connect(self) -> Iterator[None]:
        """Connect to the database."""
        yield

    @abstractmethod
    def _columns(self) -> list[Found]:
        """Return the columns of the table; empty if the table does not exist."""

    @abstractmethod
    def _execute(self, statement: str) -> None:
        """Run a statement in a separate transaction."""

    @abstractmethod
    def _replace(self, schema: pa.Schema, part: Part, batches: Iterator[pa.RecordBatch]) -> int:
        """Delete and insert the rows in one transaction, and return the number of inserted rows."""

    @contextmanager
    def _errors(self, failed: list[BaseException]) -> Iterator[None]:
        """Convert a driver's exceptions to errors of this package.

        :param failed: the exception that was raised while the rows were read, if any. This exception is raised
            unchanged
        :raises TableError: the database rejected the rows
        :raises TableUnavailableError: the database cannot be reached, or fails for another reason that may pass
        """
        kinds: tuple[type[BaseException], ...] = (TableError, *self._driver_errors())
        try:
            yield
        except kinds as error:
            if failed:
                raise failed[0] from None
            if isinstance(error, TableError):
                raise
            cause = getattr(error, "orig", None) or error
            message = driver_message(error, self.info)
            if is_final(cause, self.database):
                raise TableError(
                    f"{self.where} was not changed, because the database rejected the rows: {message}. Correct the "
                    "table, the rights of the connection's user or the data."
                ) from None
            raise TableUnavailableError(
                f"{self.where} could not be written: {message}. A retry writes all rows again. Check that the "
                "database can be reached where the step runs."
            ) from None

    @abstractmethod
    def _driver_errors(self) -> tuple[type[BaseException], ...]: ...

    def _folded(self, name: str) -> str:
        """Return the name of a column in the form in which the database compares names."""
        return name if self.database == "postgresql" else name.casefold()

    def _check_names(self, schema: pa.Schema) -> None:
        seen: dict[str, str] = {}
        for field in schema:
            folded = self._folded(field.name)
            if folded in seen:
                raise TableError(
                    f"{self.where} cannot have both the column {seen[folded]!r} and the column {field.name!r}, "
                    "because the names differ only by letter case. Rename one of them where the data is ingested."
                )
            seen[folded] = field.name
            if new_type(field.type, self.database) is None:
                raise TableError(
                    f"{self.where} cannot hold column {field.name!r}, because the type {field.type} has no database "
                    "type. Choose another key, or convert the column where the data is ingested."
                )

    def _create(self, schema: pa.Schema) -> None:
        columns = ", ".join(f"{self.quoted(field.name)} {new_type(field.type, self.database)}" for field in schema)
        # Without a binary collation, the names of models would be compared without case.
        options = " ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if self.database == "mysql" else ""
        try:
            self._execute(f"CREATE TABLE {self.quoted_name} ({columns}){options}")
        except self._driver_errors():
            # Another task may have created the table at the same moment.
            if not self._columns():
                raise

    def _check(self, schema: pa.Schema, found: list[Found]) -> None:
        known = {self._folded(column.name): column for column in found}
        for field in schema:
            wanted = new_type(field.type, self.database)
            column = known.pop(self._folded(field.name), None)
            if column is None:
                raise TableError(f"{self.where} has no column {field.name!r}. Add it with the type {wanted}.")
            if not fits(field.type, column.type, self.database):
                raise TableError(
                    f"Column {field.name!r} of table {self.name!r} of connection {self.info.conn_id!r} has the type "
                    f"{column.type}, which cannot hold every {field.type}. Change it to {wanted}, or write to another "
                    "table."
                )
        if missing := [column.name for column in known.values() if column.required]:
            raise TableError(
                f"{self.where} has the column {missing[0]!r}, which allows no null and has no default, so no row can be "
                "inserted. Give it a default."
            )

    def _checked(self, batches: Iterable[pa.RecordBatch], limits: Mapping[str, int | None]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if self.database != "postgresql":
                self._require_finite(batch)
            # SQLite does not enforce the declared lengths.
            if self.database != "sqlite":
                self._require_short(batch, limits)
            columns = [writable(column, self.database) for column in batch.columns]
            yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

    def _require_short(self, batch: pa.RecordBatch, limits: Mapping[str, int | None]) -> None:
        for field, values in zip(batch.schema, batch.columns, strict=True):
            limit = limits.get(self._folded(field.name)) if pa.types.is_string(field.type) else None
            if limit is not None and (pc.max(pc.utf8_length(values)).as_py() or 0) > limit:
                raise TableError(
                    f"{self.where} was not changed, because a text for column {field.name!r} has more than {limit} characters, the limit "
                    "of the column. Change the type of the column to a longer text, or write to another table."
                )

    def _require_finite(self, batch: pa.RecordBatch) -> None:
        """Refuse NaN and infinity. SQLite would store NaN as null, and MySQL has neither."""
        for field, values in zip(batch.schema, batch.columns, strict=True):
            if pa.types.is_floating(field.type) and pc.all(pc.is_finite(values)).as_py() is False:
                raise TableError(
                    f"{self.where} was not changed, because column {field.name!r} contains NaN or infinity, which only "
                    "PostgreSQL can store. Correct the model, or write to a table of PostgreSQL."
                )
