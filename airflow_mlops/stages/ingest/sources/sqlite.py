"""SQLite by ADBC.

SQLite has no column types, only values, and the driver takes the types from the first rows it sees: a column
whose first rows are null is ``int64`` to it, and text in it later an error. So the query is asked to return one
row of our own first, which shows the types that the table declares, that the user declares, or that an earlier
window has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SourceError
from airflow_mlops.stages.ingest.sources.sql import QuerySource
from airflow_mlops.stages.ingest.spec import bind

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_mlops.stages.ingest.sources.types import Types

BATCH_ROWS = 16_384
_MISMATCH = re.compile(r"Type mismatch in column (\d+): expected (\w+) but got ([\w/]+)")
_VALUES = {"int64": "0", "double": "0.5", "string": "''", "binary": "x''"}


def database_path(info: ConnectionInfo) -> Path:
    """The file of an SQLite connection: its host, or the path of its URI, as Airflow's hook reads them.

    :raises SourceError: it is not there; SQLite would make an empty one
    """
    parts = [part for part in (info.host, info.schema_) if part]
    path = Path("/".join(parts) if info.host else "/" + "".join(parts).lstrip("/"))
    if not path.is_file():
        raise SourceError(f"Connection {info.conn_id!r} names the SQLite file {path}, which is not there.")
    return path


class SQLiteSource(QuerySource):
    """A query on an SQLite file, which is opened for reading only."""

    engine = "ADBC"

    def batches(self, types: Types) -> Iterator[pa.RecordBatch]:
        import adbc_driver_sqlite.dbapi as driver

        uri = f"file:{quote(str(database_path(self.info)))}?mode=ro"
        with self.adbc_errors(), driver.connect(uri) as connection, connection.cursor() as cursor:
            sql = bind(self.sql, {"start": "?1", "end": "?2"})
            # A query that cannot run is said to be one here, before it is wrapped.
            cursor.adbc_prepare(sql)
            names, expected = self._expected(cursor, types)
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": BATCH_ROWS})
            first = ", ".join(_VALUES[str(expected[name])] if name in expected else "NULL" for name in names)
            cursor.execute(f"SELECT {first} UNION ALL SELECT * FROM (\n{sql}\n)", self._parameters())  # noqa: S608
            reader = cursor.fetch_record_batch()
            self._check_first(reader.schema, names, expected, types)
            ours = 1
            try:
                for batch in reader:
                    yield batch.slice(ours).rename_columns(names)
                    ours = 0
            except OSError as error:
                found = _MISMATCH.search(str(error))
                if found is None:
                    raise
                name = names[int(found[1])]
                raise types.conflict(name, reader.schema.types[int(found[1])], f"a {found[3]} value") from None

    def _expected(self, cursor: Any, types: Types) -> tuple[list[str], dict[str, pa.DataType]]:
        """The result's column names, and the storage type of those where it is known before they are read."""
        # A view may not have parameters, and needs none to have columns.
        cursor.execute(f"CREATE TEMP VIEW mlops_columns AS\n{bind(self.sql, {'start': 'NULL', 'end': 'NULL'})}")
        cursor.execute("SELECT name, type FROM pragma_table_info('mlops_columns')")
        columns = cursor.fetchall()
        cursor.execute("DROP VIEW mlops_columns")
        # What SQLite calls a second column of the same name.
        self.check_names(pa.schema([(re.sub(r":\d+$", "", name), pa.null()) for name, _ in columns]))
        known = {
            name: _storage(types.declared.get(name)) or _affinity(declared) or _storage(types.earlier.get(name))
            for name, declared in columns
        }
        return [name for name, _ in columns], {name: kind for name, kind in known.items() if kind is not None}

    def _check_first(self, found: pa.Schema, names: list[str], expected: dict[str, pa.DataType], types: Types) -> None:
        for name, field in zip(names, found, strict=True):
            # A column that an earlier window has as well is compared with that window later.
            guessed = name in types.earlier and name not in types.declared
            if name in expected and not guessed and field.type != expected[name]:
                raise types.conflict(name, types.declared.get(name, expected[name]), f"{field.type} values")

    def _parameters(self) -> list[str] | None:
        return [sqlite_text(self.window.start), sqlite_text(self.window.end)] if self.window else None


def sqlite_text(instant: datetime) -> str:
    """An instant as SQLite's own functions write it; midnight as the date alone, which sorts before all of its day."""
    text = instant.strftime("%Y-%m-%d %H:%M:%S")
    return text.removesuffix(" 00:00:00")


def _storage(wanted: pa.DataType | None) -> pa.DataType | None:
    """What SQLite stores values of a type as; they are converted afterwards."""
    if wanted is None or pa.types.is_null(wanted):
        return None
    if pa.types.is_integer(wanted) or pa.types.is_boolean(wanted):
        return pa.int64()
    if pa.types.is_floating(wanted):
        return pa.float64()
    if pa.types.is_binary(wanted) or pa.types.is_large_binary(wanted):
        return pa.binary()
    return pa.string()


def _affinity(declared: str) -> pa.DataType | None:
    """Column affinity by SQLite's own rules, where it settles the type of the values.

    Columns of numeric affinity (``DATE``, ``BOOLEAN``, ...) may hold anything, and SQLite calls a column ``BLOB`` that
    is declared as nothing at all.
    """
    declared = declared.upper()
    if "INT" in declared:
        return pa.int64()
    if any(part in declared for part in ("CHAR", "CLOB", "TEXT")):
        return pa.string()
    if any(part in declared for part in ("REAL", "FLOA", "DOUB")):
        return pa.float64()
    return None
