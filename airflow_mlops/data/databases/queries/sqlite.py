"""Read the result of an SQLite query with ADBC.

In SQLite, values have a type but columns do not. The driver therefore infers column types from the first rows: a column
that starts with nulls becomes ``int64``, and text in a later row is an error. To avoid this error, a first row with
values of the expected types is added to the result of the query. The expected types come from the parameter ``types``,
from the definition of the table, or from a neighbouring window of the dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa

from airflow_mlops.data.databases.bounds import bind_placeholders, sqlite_text
from airflow_mlops.data.databases.connections import database_path
from airflow_mlops.data.databases.queries.base import Query

if TYPE_CHECKING:
    from airflow_mlops.data.incoming.types import ColumnTypes

BATCH_ROWS = 16_384
_MISMATCH = re.compile(r"Type mismatch in column (\d+): expected (\w+) but got ([\w/]+)")
_VALUES = {"int64": "0", "double": "0.5", "string": "''", "binary": "x''"}


class SQLiteQuery(Query):
    """A query on an SQLite database file, which is opened read-only."""

    engine = "ADBC"
    _guessed: frozenset[str] = frozenset()

    def is_settled(self) -> bool:
        """Return whether the types of all columns are known.

        In a column whose type is not known, later rows can have values of any type.
        """
        return not self._guessed

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        import adbc_driver_sqlite.dbapi as driver

        uri = f"file:{quote(str(database_path(self.info)))}?mode=ro"
        with self.adbc_errors(), driver.connect(uri) as connection, connection.cursor() as cursor:
            sql = bind_placeholders(self.sql, {"start": "?1", "end": "?2"})
            # Errors in the query are raised here, before the query becomes part of a larger query.
            cursor.adbc_prepare(sql)
            names, expected = self._expected(cursor, types)
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": BATCH_ROWS})
            first = ", ".join(_VALUES[str(expected[name])] if name in expected else "NULL" for name in names)
            cursor.execute(f"SELECT {first} UNION ALL SELECT * FROM (\n{sql}\n)", self._parameters())  # noqa: S608
            reader = cursor.fetch_record_batch()
            self._check_first(reader.schema, names, expected, types)
            self._guessed = frozenset(names) - frozenset(expected)
            added_rows = 1
            try:
                for batch in reader:
                    yield self._without_guesses(batch.slice(added_rows).rename_columns(names))
                    added_rows = 0
            except OSError as error:
                found = _MISMATCH.search(str(error))
                if found is None:
                    raise
                name = names[int(found[1])]
                raise types.mismatch(name, reader.schema.types[int(found[1])], f"a {found[3]} value") from None

    def cancel(self) -> bool:
        """Return ``False``, because the driver cannot cancel a query. The query ends when the process ends."""
        return False

    def _expected(self, cursor: Any, types: ColumnTypes) -> tuple[list[str], dict[str, pa.DataType]]:
        """Return the column names of the result, and the column types that are known before rows are read, by name."""
        # A view cannot have parameters. The columns do not depend on the values of the parameters, so NULL is used for
        # each.
        cursor.execute(
            f"CREATE TEMP VIEW mlops_columns AS\n{bind_placeholders(self.sql, {'start': 'NULL', 'end': 'NULL'})}"
        )
        cursor.execute("SELECT name, type FROM pragma_table_info('mlops_columns')")
        columns = cursor.fetchall()
        cursor.execute("DROP VIEW mlops_columns")
        # SQLite renames the second of two columns NAME to NAME:1.
        self.check_names(pa.schema([(re.sub(r":\d+$", "", name), pa.null()) for name, _ in columns]))
        known = {
            name: _storage(types.declared.get(name)) or _affinity(declared) or _storage(types.earlier.get(name))
            for name, declared in columns
        }
        return [name for name, _ in columns], {name: kind for name, kind in known.items() if kind is not None}

    def _without_guesses(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch in which columns of unknown type have the type ``null`` if they contain only nulls."""
        arrays = [
            pa.nulls(len(array)) if name in self._guessed and array.null_count == len(array) else array
            for name, array in zip(batch.schema.names, batch.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)

    def _check_first(
        self, found: pa.Schema, names: list[str], expected: dict[str, pa.DataType], types: ColumnTypes
    ) -> None:
        for name, field in zip(names, found, strict=True):
            # The types of these columns are known from a neighbouring window. A later check compares the rows with that
            # window.
            guessed = name in types.earlier and name not in types.declared
            if name in expected and not guessed and field.type != expected[name]:
                raise types.mismatch(name, types.declared.get(name, expected[name]), f"{field.type} values")

    def _parameters(self) -> list[str] | None:
        return [sqlite_text(self.window.start), sqlite_text(self.window.end)] if self.window else None


def _storage(wanted: pa.DataType | None) -> pa.DataType | None:
    """Return the type in which SQLite stores values of the Arrow type ``wanted``; ``None`` if it is not known."""
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
    """Return the type that SQLite's column affinity implies; ``None`` if the column can contain values of any type.

    Columns with numeric affinity (``DATE``, ``BOOLEAN``, ...) can contain any value. Columns without a declared type
    have the affinity ``BLOB``.

    :param declared: declared type of the column, such as ``VARCHAR(10)``; empty if there is none
    """
    declared = declared.upper()
    if "INT" in declared:
        return pa.int64()
    if any(part in declared for part in ("CHAR", "CLOB", "TEXT")):
        return pa.string()
    if any(part in declared for part in ("REAL", "FLOA", "DOUB")):
        return pa.float64()
    return None
