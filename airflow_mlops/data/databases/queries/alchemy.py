"""Read the result of a query with SQLAlchemy through a server-side cursor, and convert the rows to Arrow batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.databases.bounds import as_parameter, bind_placeholders
from airflow_mlops.data.databases.connections import create_engine
from airflow_mlops.data.databases.failures import is_final
from airflow_mlops.data.databases.queries.base import Query
from airflow_mlops.data.databases.queries.postgres_types import PostgresColumn, PostgresColumns
from airflow_mlops.data.databases.sessions import MYSQL_SETTINGS, NOTICE_LOST_CLIENT, POSTGRES_SETTINGS, cancellation
from airflow_mlops.data.moments import is_text, is_time
from airflow_mlops.data.types import DECIMAL_DIGITS

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause

    from airflow_mlops.data.incoming.types import ColumnTypes

BATCH_ROWS = 16_384
# The transaction is read-only, so that the database refuses a query that writes.
_MYSQL_SESSION = (*MYSQL_SETTINGS, "START TRANSACTION READ ONLY")
_SESSION = {
    "postgresql": (*POSTGRES_SETTINGS, "SET TRANSACTION READ ONLY"),
    "mysql": _MYSQL_SESSION,
    "mariadb": _MYSQL_SESSION,
}
_POSTGRES_TYPES = """
    SELECT t.oid, coalesce(e.typname, t.typname), e.oid IS NOT NULL
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
"""


class AlchemyQuery(Query):
    """A query on any database with an SQLAlchemy dialect."""

    engine = "SQLAlchemy"
    _cancel: Callable[[], object] | None = None

    def is_settled(self) -> bool:
        """Return ``False``, because the column types are inferred from the Python values of each batch."""
        return False

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        engine = create_engine(self.info, read_only=True)
        from sqlalchemy import exc, text

        dialect = engine.dialect.name
        try:
            with engine.connect() as connection:
                self._cancel = cancellation(connection, engine)
                for statement in _SESSION.get(dialect, ()):
                    connection.execute(text(statement))
                if dialect == "postgresql":
                    with suppress(exc.SQLAlchemyError), connection.begin_nested():
                        connection.execute(text(NOTICE_LOST_CLIENT))
                yield from self.read(connection, types)
        except exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            # ResourceClosedError: the statement returns no rows.
            final = isinstance(error, exc.ResourceClosedError) or is_final(cause, dialect)
            raise (self.query_error(error) if final else self.read_error(error)) from None
        finally:
            engine.dispose()

    def read(self, connection: Connection, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        """Stream the rows of the query's result over an open connection. Errors of the driver are not converted."""
        dialect = connection.dialect.name
        parameters = self._parameters(dialect)
        sql, postgres = self.sql, None
        if dialect == "postgresql":
            postgres = self._postgres_columns(connection, parameters, types)
            sql = postgres.query(sql)
        streamed = {"stream_results": True, "max_row_buffer": BATCH_ROWS}
        result = connection.execute(clause(sql), parameters, execution_options=streamed)
        names = list(result.keys())
        self.check_names(pa.schema([(name, pa.null()) for name in names]))
        # In SQLite, values have types, but columns do not.
        earlier = types.earlier if dialect == "sqlite" else {}
        for rows in result.partitions(BATCH_ROWS):
            if postgres:
                postgres.require_one_dimension(list(zip(*rows, strict=True))[postgres.width :])
            batch = _batch(names, rows, types, earlier)
            yield postgres.convert(batch) if postgres else batch

    def _postgres_columns(
        self, connection: Connection, parameters: Mapping[str, Any], types: ColumnTypes
    ) -> PostgresColumns:
        """Return the PostgreSQL types of the result's columns, without reading rows of the query."""
        description = f"SELECT * FROM (\n{self.sql}\n) AS mlops_query LIMIT 0"  # noqa: S608
        described = connection.execute(clause(description), parameters)
        columns: Sequence[Any] = described.cursor.description
        self.check_names(pa.schema([(column[0], pa.null()) for column in columns]))
        described.close()
        oids = sorted({int(column[1]) for column in columns})
        found = connection.execute(clause(f"{_POSTGRES_TYPES} WHERE t.oid IN ({', '.join(map(str, oids))})"))
        known = {oid: (name, is_array) for oid, name, is_array in found}
        return PostgresColumns([_postgres_column(column, known) for column in columns], types.declared, True)

    def cancel(self) -> bool:
        if self._cancel is None:
            return False
        self._cancel()
        return True

    def _parameters(self, dialect: str) -> dict[str, Any]:
        if self.window is None:
            return {}
        return {"start": as_parameter(self.window.start, dialect), "end": as_parameter(self.window.end, dialect)}


def clause(sql: str) -> TextClause:
    """Convert a query with the placeholders ``:start`` and ``:end`` to an SQLAlchemy text clause with these parameters.

    SQLAlchemy reads ``:name`` as a parameter, so all colons except those of the placeholders are escaped.
    """
    from sqlalchemy import text

    marked = bind_placeholders(sql, {"start": "\0start", "end": "\0end"})
    return text(marked.replace(":", "\\:").replace("\0", ":"))


def _postgres_column(described: Sequence[Any], known: Mapping[int, tuple[str, bool]]) -> PostgresColumn:
    name, oid, _, _, precision, scale = described[:6]
    kind, is_array = known.get(int(oid), ("unknown", False))
    # psycopg2 returns 65535 for a numeric without a declared scale.
    if kind != "numeric" or is_array or precision is None or scale is None or precision > 1000:
        precision = scale = None
    return PostgresColumn(name, kind, is_array, precision, scale)


def _batch(
    names: Sequence[str], rows: Sequence[Any], types: ColumnTypes, earlier: Mapping[str, pa.DataType]
) -> pa.RecordBatch:
    columns = zip(names, zip(*rows, strict=True), strict=True)
    arrays = [_array(name, [_plain(value) for value in values], types, earlier.get(name)) for name, values in columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def _array(name: str, values: list[Any], types: ColumnTypes, earlier: pa.DataType | None) -> pa.Array:
    """Convert values to an Arrow array.

    Arrow infers the type from the values. If the column has another numeric type in a neighbouring window
    (``earlier``), the array is then converted to that type, unless a number would change. ``earlier`` is not passed to
    ``pa.array``, which would truncate 1.5 to 1.

    :param types: the declared column types
    :param earlier: type of the column in a neighbouring window; ``None`` if unknown
    :raises SchemaError: the values have several types
    """
    declared = types.declared.get(name)
    if declared is not None and is_time(declared):
        # Times are read as text, which is converted to the declared type later.
        values = [value.isoformat() if isinstance(value, date) else value for value in values]
    try:
        found = pa.array(values)
    except OverflowError:
        try:
            found = _large_integers(values)
        except pa.ArrowInvalid:
            return _long_decimals(name, values, declared)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        if all(value is None or isinstance(value, Decimal) for value in values):
            return _long_decimals(name, values, declared)
        if declared is None or not is_text(declared):
            raise _several_types(name, values) from None
        found = pa.array([None if value is None else str(value) for value in values])
    if pa.types.is_decimal(found.type):
        # Use the largest precision, because the precision that Arrow infers depends on the values of the batch.
        try:
            return found.cast(pa.decimal128(DECIMAL_DIGITS, found.type.scale))
        except pa.ArrowInvalid:
            return _long_decimals(name, values, declared)
    if earlier is not None and _are_numbers(found.type, earlier):
        try:
            return found.cast(earlier)
        except pa.ArrowInvalid:
            pass
    return found


def _long_decimals(name: str, values: list[Any], declared: pa.DataType | None) -> pa.Array:
    """Convert numbers of more than 38 digits to text, if the column is declared as text.

    :raises SchemaError: the column is not declared as text
    """
    if declared is None or not is_text(declared):
        raise SchemaError(
            f"Column {name!r} contains numbers that a decimal of {DECIMAL_DIGITS} digits cannot hold. Read the column as "
            f"text with types={{{name!r}: 'string'}}, or round the numbers in `sql`."
        ) from None
    return pa.array([None if value is None else f"{Decimal(value):f}" for value in values], pa.string())


def _are_numbers(*kinds: pa.DataType) -> bool:
    return all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)


def _several_types(name: str, values: list[Any]) -> SchemaError:
    examples = {type(value).__name__: value for value in reversed(values) if value is not None}
    kinds = " and ".join(f"{kind} ({value!r})" for kind, value in sorted(examples.items()))
    return SchemaError(
        f"Column {name!r} contains values of several types: {kinds}. Convert them in `sql`, or read the column as text "
        f"with types={{{name!r}: 'string'}}."
    )


def _large_integers(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.uint64())
    except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else Decimal(value) for value in values])


def _plain(value: Any) -> Any:
    """Convert a value of a database driver to a value that Arrow accepts. UUIDs and JSON objects become text."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, memoryview):
        return bytes(value)
    return json.dumps(value) if isinstance(value, dict) else value
