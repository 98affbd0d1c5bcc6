"""Reads PostgreSQL through ADBC, which streams the result as binary COPY."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import pyarrow as pa

from airflow_mlops.stages.ingest.sources.sql import QuerySource
from airflow_mlops.stages.ingest.spec import bind_placeholders

if TYPE_CHECKING:
    from airflow_mlops.stages.ingest.sources.types import ColumnTypes

BATCH_BYTES = 4 << 20
# Extra fields of a connection that are libpq parameters. Other fields are options of Airflow's own hook.
_LIBPQ = (
    "application_name", "channel_binding", "connect_timeout", "gssencmode", "hostaddr", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "options", "sslcert", "sslcrl", "sslkey", "sslmode",
    "sslpassword", "sslrootcert", "target_session_attrs", "tcp_user_timeout",
)  # fmt: skip
# Detect a lost server within two minutes; libpq's default takes two hours.
_DEFAULTS = {"connect_timeout": 30, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 6}
_SETUP = (
    # With this setting on, scans of a large table may start at different rows, so the order of rows would vary.
    "SET synchronize_seqscans = off",
    "SET TIME ZONE 'UTC'",
)


class PostgresSource(QuerySource):
    """A query on PostgreSQL."""

    engine = "ADBC"

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        import adbc_driver_postgresql.dbapi as driver

        with (
            self.adbc_errors(),
            driver.connect(self._uri(), autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in _SETUP:
                cursor.execute(statement)
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
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": BATCH_BYTES})
            # The line break ends a comment that the last line of the query may contain.
            cursor.execute(_unsupported_as_text(f"{sql}\n", schema))
            yield from cursor.fetch_record_batch()

    def _uri(self) -> str:
        info = self.info
        user = quote(info.login or "", safe="") + (f":{quote(info.secret, safe='')}" if info.secret else "")
        # The host may be the folder of a Unix socket.
        host = quote(info.host or "", safe=":[]") + (f":{info.port}" if info.port else "")
        extra = {key: value for key, value in info.extra.items() if key in _LIBPQ}
        options = urlencode({**_DEFAULTS, **extra}, quote_via=quote)
        return f"postgresql://{user}@{host}/{quote(info.schema_ or '', safe='')}?{options}"


def _unsupported_as_text(sql: str, schema: pa.Schema) -> str:
    """Cast columns to text in the query if Arrow has no equivalent type (``uuid``, ``inet``, ``interval``, ...)."""
    if not any(map(_unsupported, schema)):
        return sql
    columns = []
    for field in schema:
        name = '"' + field.name.replace('"', '""') + '"'
        columns.append(f"{name}::text AS {name}" if _unsupported(field) else name)
    return f"SELECT {', '.join(columns)} FROM (\n{sql}) AS mlops_query"  # noqa: S608


def _unsupported(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_list(kind):
        return isinstance(kind.value_type, pa.BaseExtensionType)
    if isinstance(kind, pa.BaseExtensionType):
        return not pa.types.is_string(kind.storage_type)
    return bool(pa.types.is_interval(kind))
