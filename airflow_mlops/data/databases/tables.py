"""Replace a part of a database table with the rows of a dataset, in one transaction.

A part is all rows with the same values in some columns, such as the same window, model version and dataset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.connections import ConnectionInfo, sqlalchemy_url
from airflow_mlops.core.errors import TableError, TableUnavailableError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.data.databases.column_types import DATABASES, fits, new_type, writable, writable_type
from airflow_mlops.data.databases.connections import check_type, create_engine, driver_message, postgres_uri
from airflow_mlops.data.databases.failures import is_final

Part = Mapping[str, Any]
"""The values that select a part of a table, by column name. Exactly the rows with these values are in the part."""

_BATCH_ROWS = 5_000
_SECONDS = 3_600
# PostgreSQL locks a part of a table until the transaction ends, so other parts can be written at the same time. In
# MySQL, a deletion without an index locks rows of other parts, and two tasks would deadlock. Therefore the whole table
# is locked.
_POSTGRES_LOCK = """
    SELECT pg_advisory_xact_lock(
        hashtextextended(concat(CAST(to_regclass(CAST(:name AS text)) AS oid), ' ', CAST(:part AS text)), 0)
    )
"""
_MYSQL_LOCK = "SELECT GET_LOCK(concat('mlops-', md5(concat(coalesce(:schema, database()), '.', :name))), :seconds)"
# Queries for the columns of a table: name, type and whether every insert must have a value. The result is empty if the
# table does not exist.
_COLUMNS = {
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
    :param database: kind of the database, one of :data:`~airflow_mlops.data.databases.column_types.DATABASES`
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
            return self._replace(schema, part, kept_errors(self._checked(batches), failed))

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

    def _check_names(self, schema: pa.Schema) -> None:
        seen: dict[str, str] = {}
        for field in schema:
            folded = field.name if self.database == "postgresql" else field.name.casefold()
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
        fold: Callable[[str], str] = str if self.database == "postgresql" else str.casefold
        known = {fold(column.name): column for column in found}
        for field in schema:
            wanted = new_type(field.type, self.database)
            column = known.pop(fold(field.name), None)
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

    def _checked(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if self.database != "postgresql":
                self._require_finite(batch)
            columns = [writable(column, self.database) for column in batch.columns]
            yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

    def _require_finite(self, batch: pa.RecordBatch) -> None:
        """Refuse NaN and infinity. SQLite would store NaN as null, and MySQL has neither."""
        for field, values in zip(batch.schema, batch.columns, strict=True):
            if pa.types.is_floating(field.type) and pc.all(pc.is_finite(values)).as_py() is False:
                raise TableError(
                    f"{self.where} was not changed, because column {field.name!r} contains NaN or infinity, which only "
                    "PostgreSQL can store. Correct the model, or write to a table of PostgreSQL."
                )


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
            cursor.execute(_COLUMNS["postgresql"].replace(":name", "$1"), [self.quoted_name])
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
            cursor.execute(
                _POSTGRES_LOCK.replace(":name", "$1").replace(":part", "$2"), [self.quoted_name, part_hash(part)]
            )
            cursor.fetchall()
            cursor.execute(f"DELETE FROM {self.quoted_name} WHERE {conditions}", list(part.values()))  # noqa: S608
            schema_name = {"db_schema_name": self.schema} if self.schema else {}
            written = cursor.adbc_ingest(self.table, reader, mode="append", **schema_name)
        self._connection.commit()
        return int(written)


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
                    # Otherwise long text could be cut off, and large numbers replaced, without an error.
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
        rows = self._connection.execute(text(_COLUMNS[self.database]), {"name": name, "schema": self.schema or None})
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
            # Without parameters, so that a driver does not look for placeholders in the names.
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
            connection.execute(sa.text("SET TIME ZONE 'UTC'"))
            connection.execute(sa.text(_POSTGRES_LOCK), {"name": self.quoted_name, "part": part_hash(part)})
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


def kept_errors(batches: Iterator[pa.RecordBatch], failed: list[BaseException]) -> Iterator[pa.RecordBatch]:
    """Yield ``batches``. If this fails, append the exception to ``failed``, because Arrow keeps only its text."""
    try:
        yield from batches
    except BaseException as error:
        failed.append(error)
        raise


def part_hash(part: Part) -> str:
    """Return a hash of the values that select the rows of a part."""
    return fingerprint([f"{name}={value}" for name, value in part.items()])
