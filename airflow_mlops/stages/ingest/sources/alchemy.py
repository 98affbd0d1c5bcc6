"""Reads databases that have an SQLAlchemy dialect through a server-side cursor, and converts the rows to Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from airflow_mlops.core.connections import sqlalchemy_url
from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.data.moments import is_time
from airflow_mlops.stages.ingest.sources.sql import QuerySource
from airflow_mlops.stages.ingest.sources.sqlite import database_path, sqlite_text
from airflow_mlops.stages.ingest.spec import bind_placeholders

if TYPE_CHECKING:
    from sqlalchemy import URL

    from airflow_mlops.stages.ingest.sources.types import ColumnTypes

BATCH_ROWS = 16_384


class AlchemySource(QuerySource):
    """A query that SQLAlchemy runs."""

    engine = "SQLAlchemy"

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        try:
            from sqlalchemy import create_engine, exc, text
        except ImportError:
            raise SpecError(
                f"Connection {self.info.conn_id!r} has the type {self.info.conn_type!r}, which needs SQLAlchemy. Where "
                "the step runs, install SQLAlchemy and the database's dialect or, for SQLite and PostgreSQL, "
                "airflow-mlops[adbc]."
            ) from None
        try:
            engine = create_engine(self._url())
        except (exc.ArgumentError, ImportError) as error:
            raise SpecError(
                f"The SQLAlchemy dialect or the driver for connection {self.info.conn_id!r} (type "
                f"{self.info.conn_type!r}) is not installed where the step runs: {self.driver_message(error)}. Install "
                "both, or choose an installed driver in the Extra field of the connection, for example "
                '{"sqlalchemy_scheme": "mysql+pymysql"}.'
            ) from None
        # SQLAlchemy reads :name as a parameter, so all colons except those of the placeholders are escaped.
        marked = (
            bind_placeholders(self.sql, {"start": "\0start", "end": "\0end"}).replace(":", "\\:").replace("\0", ":")
        )
        try:
            with engine.connect() as connection:
                if engine.dialect.name == "postgresql":
                    connection.execute(text("SET synchronize_seqscans = off"))
                    connection.execute(text("SET TIME ZONE 'UTC'"))
                streamed = {"stream_results": True, "max_row_buffer": BATCH_ROWS}
                parameters = self._parameters(engine.dialect.name)
                result = connection.execute(text(marked), parameters, execution_options=streamed)
                names = list(result.keys())
                self.check_names(pa.schema([(name, pa.null()) for name in names]))
                yield from _batches(names, result.partitions(BATCH_ROWS), types)
        except (exc.ProgrammingError, exc.ResourceClosedError) as error:
            raise self.query_error(error) from None
        except exc.SQLAlchemyError as error:
            raise self.read_error(error) from None
        finally:
            engine.dispose()

    def _url(self) -> URL:
        from sqlalchemy import URL

        info = self.info
        if info.conn_type == "sqlite":
            return URL.create("sqlite", database=f"file:{database_path(info)}", query={"mode": "ro", "uri": "true"})
        return sqlalchemy_url(info)

    def _parameters(self, dialect: str) -> dict[str, Any]:
        if self.window is None:
            return {}
        return {"start": _bound(self.window.start, dialect), "end": _bound(self.window.end, dialect)}


def _bound(instant: datetime, dialect: str) -> Any:
    if dialect == "sqlite":
        return sqlite_text(instant)
    # Most databases store UTC timestamps without a time zone. PostgreSQL accepts a time zone in any case.
    return instant if dialect == "postgresql" else instant.astimezone(timezone.utc).replace(tzinfo=None)


def _batches(names: Sequence[str], chunks: Iterator[Sequence[Any]], types: ColumnTypes) -> Iterator[pa.RecordBatch]:
    kinds: dict[str, pa.DataType | None] = {name: types.get(name) for name in names}
    for rows in chunks:
        arrays = []
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            array = _array(name, [_plain(value) for value in values], kinds[name], types)
            kinds[name] = array.type
            arrays.append(array)
        yield pa.RecordBatch.from_arrays(arrays, names=list(names))


def _array(name: str, values: list[Any], kind: pa.DataType | None, types: ColumnTypes) -> pa.Array:
    if name in types.declared and is_time(types.declared[name]):
        # Times are read as text, which is converted to the declared type later.
        values, kind = [value.isoformat() if isinstance(value, date) else value for value in values], None
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        if kind is None:
            raise SchemaError(
                f"Column {name!r} contains values of several types: {error}. Declare its type with types={{{name!r}: ...}}."
            ) from None
    try:
        # Decimals are read as text, and converted to the declared type later.
        found = pa.array(values)
    except pa.ArrowInvalid:
        found = None
    if found is not None and name in types.declared:
        return found
    raise types.mismatch(name, kind, "values of several types" if found is None else f"{found.type} values")


def _plain(value: Any) -> Any:
    """Convert a value for Arrow. Decimals, UUIDs and JSON become text, as the ADBC drivers return them."""
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, memoryview):
        return bytes(value)
    return json.dumps(value) if isinstance(value, dict) else value
