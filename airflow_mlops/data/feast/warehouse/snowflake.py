"""Join in Snowflake. The events are Parquet files in a temporary stage, and then a temporary table of the session.

The stage and the table are dropped at the end of the join. If the task is killed, Snowflake drops them with the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from airflow_mlops.core.errors import one_line
from airflow_mlops.data.databases.failures import is_final
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.feast.warehouse.base import Events, Warehouse, failure
from airflow_mlops.data.feast.warehouse.query import (
    CREATED,
    TIME,
    join_sql,
    keys_have_one_text,
    query_view,
    select,
    without_json,
)
from airflow_mlops.data.feast.warehouse.upload import parquet_files
from airflow_mlops.data.feast.warehouse.view import EVENT_TIME, SqlView

if TYPE_CHECKING:
    from snowflake.connector.cursor import SnowflakeCursor

_SETTINGS = (
    "ALTER SESSION SET TIMEZONE = 'UTC'",
    # Feast identifies events by the text of their keys and time. Snowflake's default has only milliseconds.
    "ALTER SESSION SET TIMESTAMP_NTZ_OUTPUT_FORMAT = 'YYYY-MM-DD HH24:MI:SS.FF9'",
    "ALTER SESSION SET DATE_OUTPUT_FORMAT = 'YYYY-MM-DD'",
)


class SnowflakeWarehouse(Warehouse):
    """Feast's offline store ``snowflake.offline``."""

    _abort: Callable[[], Any] | None = None

    def view(self, request: ViewRequest) -> SqlView:
        def query(table: str, columns: dict[str, str]) -> str:
            """Choose one of the rows of a time, because Snowflake's ASOF JOIN returns any of them."""
            columns = {name: _as_utc(sql) if name in (TIME, CREATED) else sql for name, sql in columns.items()}
            lists = {f"f{n}" for n, kind in enumerate(request.features.values()) if pa.types.is_list(kind)}
            group = [_quoted(name) for name in columns if name.startswith("k") or name == TIME]
            ties = [CREATED] if CREATED in columns else []
            ties += [name for name in columns if name.startswith("f")]
            order = ", ".join(f"{_quoted(n)}{'::VARCHAR' if n in lists else ''} DESC NULLS LAST" for n in ties)
            rows = select(table, {_quoted(name): sql for name, sql in columns.items()})
            return (
                f"SELECT * FROM ({rows}) AS mlops_rows WHERE {_quoted(TIME)} IS NOT NULL "  # noqa: S608
                f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {', '.join(group)} ORDER BY {order}) = 1"
            )

        return query_view(request, _quoted, query)

    def accepts(self, schema: pa.Schema) -> bool:
        return keys_have_one_text(schema)

    def join(self, view: SqlView, events: Events) -> Iterator[pa.RecordBatch]:
        from feast.infra.offline_stores import snowflake as feast_snowflake
        from feast.infra.utils.snowflake.snowflake_utils import GetSnowflakeConnection

        with self._errors(view):
            with feast_repo.quietly():
                # This is Feast's connection of the process, which also has its defaults.
                connection: Any = GetSnowflakeConnection(self._store.config.offline_store).__enter__()
            cursor = connection.cursor()
            for setting in _SETTINGS:
                cursor.execute(setting)
            name = f"mlops_events_{uuid4().hex}"
            try:
                _upload(cursor, name, events)
                sql = join_sql(
                    self._store,
                    view,
                    events,
                    name,
                    feast_snowflake.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN,
                    feast_snowflake._fix_entity_selections_identifiers,
                )
                query = cursor.execute_async(_result(sql, view))["queryId"]
                self._abort = lambda: connection.cursor().abort_query(query)
                cursor.get_results_from_sfqid(query)
                for table in cursor.fetch_arrow_batches():
                    for batch in table.to_batches():
                        yield without_json(_with_times(batch), view)
            finally:
                # If this fails, Snowflake drops both with the session. An error here must not hide an earlier error.
                with suppress(Exception):
                    cursor.execute(f'DROP TABLE IF EXISTS "{name}"')
                    cursor.execute(f"DROP STAGE IF EXISTS {name}")

    def cancel(self) -> bool:
        return self._abort is not None and bool(self._abort())

    @contextmanager
    def _errors(self, view: SqlView) -> Iterator[None]:
        from snowflake.connector.errors import Error

        try:
            yield
        except (Error, OSError, pa.ArrowException) as error:
            # Snowflake also uses the class 02 for objects that do not exist.
            final = is_final(error, "snowflake") or str(getattr(error, "sqlstate", "")).startswith("02")
            advice = (
                "Correct the source of the feature view, or the types of the join keys. The role of feature_store.yaml "
                "needs SELECT on the source, and CREATE STAGE and CREATE TABLE on the schema."
                if final
                else "Check that Snowflake can be reached where the step runs."
            )
            raise failure("Snowflake", view, one_line(error), advice, final=final) from None


def _upload(cursor: SnowflakeCursor, name: str, events: Events) -> None:
    cursor.execute(f"CREATE TEMPORARY STAGE {name}")
    schema = None
    # How Snowflake reads times in Parquet depends on file format options, so the files contain integers.
    for path, of_file in parquet_files(events, pa.int64()):
        cursor.execute(f"PUT 'file://{path}' @{name} AUTO_COMPRESS = FALSE")
        schema = of_file
    assert schema is not None  # there are events
    columns = ", ".join(f"{_quoted(f.name)} {_type(f)}" for f in schema)
    values = ", ".join(
        f"TO_TIMESTAMP_NTZ($1:{f.name}::NUMBER(38, 0), 6)" if f.name == EVENT_TIME else f"$1:{f.name}::{_type(f)}"
        for f in schema
    )
    cursor.execute(f'CREATE TEMPORARY TABLE "{name}" ({columns})')
    cursor.execute(
        f'COPY INTO "{name}" FROM (SELECT {values} FROM @{name}) FILE_FORMAT = (TYPE = PARQUET)'  # noqa: S608
    )


def _type(field: pa.Field) -> str:
    kind = field.type
    if field.name == EVENT_TIME:
        return "TIMESTAMP_NTZ(6)"
    if pa.types.is_integer(kind):
        return "NUMBER(38, 0)"
    if pa.types.is_decimal(kind):
        return f"NUMBER({kind.precision}, {kind.scale})"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    return "DATE" if pa.types.is_date(kind) else "VARCHAR"


def _result(sql: str, view: SqlView) -> str:
    """Select the result. Times are microseconds since 1970, because the driver's times end in the year 2262."""
    names = ", ".join(
        f"DATE_PART(EPOCH_MICROSECOND, {_quoted(n)}) AS {_quoted(n)}" if n in (TIME, CREATED) else _quoted(n)
        for n in view.result
    )
    return f"SELECT {names} FROM ({sql}) AS mlops_result"  # noqa: S608


def _with_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    for name in (TIME, CREATED):
        number = batch.schema.get_field_index(name)
        if number >= 0:
            times = batch.column(number).cast(pa.int64()).cast(pa.timestamp("us", "UTC"))
            batch = batch.set_column(number, name, times)
    return batch


def _as_utc(sql: str) -> str:
    """Return a time without a time zone. A time that has none is in UTC, the time zone of the session."""
    return f"{sql}::TIMESTAMP_LTZ::TIMESTAMP_NTZ"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
