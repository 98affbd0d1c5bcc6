"""Tables of real databases in which a part is replaced: types, transactions, names, and tables that do not fit."""

from __future__ import annotations

import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timezone
from decimal import Decimal
from math import inf, isnan, nan

import pyarrow as pa
import pytest
import sqlalchemy as sa

from airflow_mlops.core.connections import ConnectionInfo, sqlalchemy_url
from airflow_mlops.core.errors import SourceError, SpecError, TableError, TableUnavailableError
from airflow_mlops.data.tables.database import AlchemyTable, PostgresTable, open_table
from tests.support.mariadb import PASSWORD, mariadb  # noqa: F401 - a fixture
from tests.support.postgres import postgres  # noqa: F401 - a fixture

UTC = pa.timestamp("us", "UTC")
START = datetime(2013, 4, 1, tzinfo=timezone.utc)
ROWS = pa.schema([("id", pa.int64()), ("window_start", UTC), ("model", pa.string()), ("version", pa.int64())])


class Database:
    def __init__(self, kind, info):
        self.kind, self.info = kind, info
        is_file = info.conn_type == "sqlite"
        url = f"sqlite:///{info.host}" if is_file else sqlalchemy_url(info)
        self.engine = sa.create_engine(url)

    def execute(self, *statements):
        with self.engine.begin() as connection:
            for statement in statements:
                result = connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            return [tuple(row) for row in result] if result.returns_rows else []

    @property
    def quote(self):
        return "`" if self.info.conn_type == "mysql" else '"'

    def table(self, name="predictions"):
        return open_table(self.info, name)


@pytest.fixture(params=["sqlite", "mariadb", "postgres", "postgres without ADBC"])
def database(request, tmp_path, monkeypatch):
    if request.param == "sqlite":
        file = tmp_path / "bi.db"
        sqlite3.connect(file).close()
        found = Database("sqlite", ConnectionInfo.of("bi", conn_type="sqlite", host=str(file)))
    elif request.param == "mariadb":
        server = request.getfixturevalue("mariadb")
        server.execute("DROP DATABASE shop", "CREATE DATABASE shop")
        found = Database("mysql", ConnectionInfo.of("bi", **server.connection()))
    else:
        server = request.getfixturevalue("postgres")
        server.execute(
            "DROP SCHEMA IF EXISTS bi CASCADE", "CREATE SCHEMA bi AUTHORIZATION ingest",
            "ALTER ROLE ingest SET search_path = bi", "ALTER ROLE ingest SET timezone = 'America/New_York'",
            "ALTER ROLE ingest SET default_transaction_isolation = 'repeatable read'",
        )  # fmt: skip
        found = Database("postgresql", ConnectionInfo.of("bi", **server.connection()))
        if request.param != "postgres":
            monkeypatch.setattr("airflow_mlops.data.tables.database.find_spec", lambda name: None)
            monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
        assert isinstance(found.table(), PostgresTable if request.param == "postgres" else AlchemyTable)
    yield found
    found.engine.dispose()


def part(model="delays", version=1):
    return {"window_start": START, "model": model, "version": version}


def batches(ids, model="delays", version=1):
    for start in range(0, len(ids), 2):
        some = ids[start : start + 2]
        columns = [some, [START] * len(some), [model] * len(some), [version] * len(some)]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, ROWS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=ROWS)


def replace(database, ids, model="delays", version=1, name="predictions"):
    return database.table(name).replace(ROWS, part(model, version), batches(ids, model, version))


def content(database, name="predictions"):
    return database.execute(f"SELECT model, version, id FROM {name} ORDER BY model, version, id")


def test_a_part_is_replaced_and_others_stay(database):
    assert replace(database, [1, 2, 3]) == 3
    assert replace(database, [1, 2], version=2) == 2
    assert replace(database, [9], model="Delays") == 1
    assert replace(database, [1, 4]) == 2
    found = content(database)
    assert sorted(found) == [("Delays", 1, 9), ("delays", 1, 1), ("delays", 1, 4), ("delays", 2, 1), ("delays", 2, 2)]
    assert replace(database, []) == 0
    assert sorted(content(database)) == [("Delays", 1, 9), ("delays", 2, 1), ("delays", 2, 2)]


def test_a_failure_while_rows_are_written_leaves_the_table_as_it_was(database):
    replace(database, [1, 2, 3])

    def broken():
        yield from batches([7, 8, 9])
        raise SpecError("The dataset is damaged.")

    with pytest.raises(SpecError, match="The dataset is damaged"):
        database.table().replace(ROWS, part(), broken())
    assert content(database) == [("delays", 1, 1), ("delays", 1, 2), ("delays", 1, 3)]
    database.execute("CREATE UNIQUE INDEX one ON predictions (id)")
    with pytest.raises(TableError, match="Table 'predictions' of connection 'bi' was not changed") as caught:
        replace(database, [4, 5, 4])
    assert not caught.value.retryable
    assert PASSWORD not in str(caught.value)
    assert content(database) == [("delays", 1, 1), ("delays", 1, 2), ("delays", 1, 3)]


def test_tasks_that_write_at_the_same_time_duplicate_no_row(database):
    # The table does not exist yet, and each version is written twice, as by a task and its retry.
    with ThreadPoolExecutor(4) as threads:
        written = threads.map(lambda version: replace(database, list(range(50)), version=version), (1, 2, 1, 2))
        assert list(written) == [50] * 4
    assert content(database) == [("delays", version, row) for version in (1, 2) for row in range(50)]


VALUES = {
    "flag": (pa.bool_(), [True, False, None]),
    "whole": (pa.int64(), [2**63 - 1, -(2**63), None]),
    "large": (pa.uint64(), [2**64 - 1, 0, None]),
    "number": (pa.float64(), [0.1 + 0.2, -1.7976931348623157e308, 5e-324]),
    "price": (pa.decimal128(38, 9), [Decimal("12345678901234567890123456789.123456789"), Decimal("-0.000000001"), None]),
    "words": (pa.string(), ["Zürich 🛫 'x' \"y\" \\ % :a ?", "", None]),
    "bytes": (pa.binary(), [b"\x00\xff'", b"", None]),
    "day": (pa.date32(), [date(1000, 1, 1), date(9999, 12, 31), None]),
    "moment": (UTC, [datetime(2013, 4, 1, 6, 30, 0, 1, timezone.utc), datetime(9999, 12, 31, 23, 59, tzinfo=timezone.utc), None]),
    "odd \"`'%:;name": (pa.int64(), [1, 2, 3]),
}  # fmt: skip


def plain(value, kind, database):
    """The value as the drivers that read the table return it."""
    if isinstance(value, memoryview):
        return bytes(value)
    if pa.types.is_timestamp(kind) and value is not None:
        value = datetime.fromisoformat(value) if isinstance(value, str) else value
        return value.astimezone(timezone.utc) if value.tzinfo else value.replace(tzinfo=timezone.utc)
    if pa.types.is_date32(kind) and isinstance(value, str):
        return date.fromisoformat(value)
    if (pa.types.is_decimal(kind) or pa.types.is_uint64(kind)) and value is not None:
        return Decimal(value)
    return bool(value) if pa.types.is_boolean(kind) and value is not None else value


def test_values_of_all_types_are_written_unchanged(database):
    schema = pa.schema([(name, kind) for name, (kind, _) in VALUES.items()])
    rows = pa.RecordBatch.from_arrays([pa.array(values, kind) for kind, values in VALUES.values()], schema=schema)
    name = "odd \"`'%:;name"
    written = database.table(name)
    for _ in range(2):
        assert written.replace(schema, {"odd \"`'%:;name": 1}, [rows.slice(0, 1)]) == 1
    assert written.replace(schema, {"odd \"`'%:;name": 2}, [rows.slice(1)]) == 2
    quoted = database.quote + name.replace(database.quote, 2 * database.quote) + database.quote
    found = database.execute(f"SELECT * FROM {quoted} ORDER BY {quoted}")
    for place, (kind, values) in enumerate(VALUES.values()):
        assert [plain(row[place], kind, database) for row in found] == values


def test_nan_and_infinity_are_stored_by_postgresql_and_refused_by_others(database):
    schema = pa.schema([("version", pa.int64()), ("score", pa.float64())])
    rows = pa.record_batch([pa.array([1, 1]), pa.array([nan, -inf])], schema=schema)
    if database.kind == "postgresql":
        database.table("scores").replace(schema, {"version": 1}, [rows])
        (one,), (other,) = database.execute("SELECT score FROM scores")
        assert isnan(one)
        assert other == -inf
    else:
        with pytest.raises(TableError, match="not changed, because column 'score' contains NaN or infinity"):
            database.table("scores").replace(schema, {"version": 1}, [rows])
        assert database.execute("SELECT * FROM scores") == []


def test_own_columns_of_the_user_stay_and_tables_that_do_not_fit_are_refused(database):
    replace(database, [1])
    database.execute("ALTER TABLE predictions ADD COLUMN note VARCHAR(9) DEFAULT 'new'")
    replace(database, [2], version=2)
    assert database.execute("SELECT id, note FROM predictions WHERE version = 2") == [(2, "new")]
    columns = {"id": "BIGINT", "window_start": "DATETIME(6)" if database.quote == "`" else "TIMESTAMP", "model": "VARCHAR(50)", "version": "BIGINT"}  # fmt: skip
    if database.kind == "postgresql":
        columns["window_start"] = "TIMESTAMPTZ"

    def made(name, **changes):
        kinds = {**columns, **changes}
        database.execute(f"CREATE TABLE {name} ({', '.join(f'{key} {kind}' for key, kind in kinds.items() if kind)})")

    made("exact")
    assert replace(database, [1], name="exact") == 1
    made("narrow", version="SMALLINT")
    with pytest.raises(
        TableError, match="Column 'version' of table 'narrow' of connection 'bi' has the type (?i:smallint)"
    ):
        replace(database, [1], name="narrow")
    made("lacking", id=None)
    with pytest.raises(TableError, match="Table 'lacking' of connection 'bi' has no column 'id'. Add it with the type"):
        replace(database, [1], name="lacking")
    made("strict", reason="VARCHAR(9) NOT NULL")
    with pytest.raises(TableError, match="has the column 'reason', which allows no null and has no default"):
        replace(database, [1], name="strict")
    made("short", model="VARCHAR(6)")
    if database.kind == "sqlite":
        replace(database, [1], model="delays  ", name="short")
        assert content(database, "short") == [("delays  ", 1, 1)]
    else:
        # The database would cut off the spaces.
        with pytest.raises(TableError, match="'model' has more than 6 characters"):
            replace(database, [1], model="delays  ", name="short")
    listed = pa.schema([("tags", pa.list_(pa.int64()))])
    with pytest.raises(TableError, match="cannot hold column 'tags', because the type list"):
        database.table("listed").replace(listed, {}, [])


def test_a_table_may_have_a_schema(request, database):
    schema = {"sqlite": "main", "mysql": "shop", "postgresql": "Other"}[database.kind]
    if database.kind == "postgresql":
        server = request.getfixturevalue("postgres")
        server.execute('DROP SCHEMA IF EXISTS "Other" CASCADE', 'CREATE SCHEMA "Other" AUTHORIZATION ingest')
    for _ in range(2):
        assert replace(database, [1, 2], name=f"{schema}.scores") == 2
    quoted = f"{database.quote}{schema}{database.quote}.scores"
    assert content(database, quoted) == [("delays", 1, 1), ("delays", 1, 2)]


def test_the_error_names_a_database_that_cannot_be_reached(tmp_path):
    with pytest.raises(SourceError, match="'bi' refers to the SQLite file .*gone.db, which does not exist"):
        replace(Database("sqlite", ConnectionInfo.of("bi", conn_type="sqlite", host=str(tmp_path / "gone.db"))), [1])
    lost = ConnectionInfo.of("bi", conn_type="postgres", host="127.0.0.1", port=1, login="me", password=PASSWORD)
    with pytest.raises(
        TableUnavailableError, match="Table 'predictions' of connection 'bi' could not be written"
    ) as caught:
        open_table(lost, "predictions").replace(ROWS, part(), batches([1]))
    assert caught.value.retryable
    assert PASSWORD not in str(caught.value)
    with pytest.raises(TableError, match="type 'mssql', but predictions can be written to tables of PostgreSQL"):
        open_table(ConnectionInfo.of("bi", conn_type="mssql", host="db"), "predictions")
