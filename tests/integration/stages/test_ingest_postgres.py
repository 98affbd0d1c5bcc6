"""Ingestion from a real PostgreSQL server: types, windows, and a server that goes down while it is read."""

from __future__ import annotations

import json
import math
import struct
import sys
import threading
import time
from datetime import date, datetime, timezone
from decimal import Decimal
from urllib.parse import quote

import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SchemaError, SourceError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run
from tests.support.postgres import PASSWORD, Postgres, postgres  # noqa: F401 - a fixture

# Sends 200,000 rows and then hangs until it is terminated.
HANGS = """SELECT g, repeat('x', 100) AS s, CASE WHEN g = 200000 THEN pg_sleep(60)::text END AS z
FROM generate_series(1, 300000) g"""


@pytest.fixture
def context(tmp_path):
    return StepContext(ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def ingest(postgres, context, monkeypatch):  # noqa: F811
    def ingest(sql, connection=None, **options):
        monkeypatch.setenv("AIRFLOW_CONN_PG", json.dumps(postgres.connection(**connection or {})))
        return run(parse(IngestSpec, {"name": "raw", "conn_id": "pg", "sql": sql, **options}, "Step 'ingest'"), context)

    return ingest


@pytest.fixture(params=["ADBC", "SQLAlchemy"])
def engine(request, monkeypatch):
    """Both engines; the second one as if the ADBC driver were not installed."""
    if request.param == "SQLAlchemy":
        monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    return request.param


def table(context, result):
    return open_dataset(context.store, result.dataset).table()


def store_is_empty(context):
    return context.store.fs.find(context.store.root) == []


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_the_window_is_half_open_and_in_utc_for_every_kind_of_time(kind, postgres, ingest, context, engine):  # noqa: F811
    postgres.execute(
        "DROP TABLE IF EXISTS times",
        f"CREATE TABLE times (t {kind}, month int)",
        "SET TIME ZONE 'UTC'",
        "INSERT INTO times SELECT make_date(2013, m, 1), m FROM generate_series(3, 5) m",
        # The time zone of the server must not matter.
        "ALTER ROLE ingest SET timezone = 'America/New_York'",
    )
    result = ingest("SELECT * FROM times WHERE t >= :start AND t < :end -- ':end'\n;", window="2013-04")
    assert table(context, result)["month"].to_pylist() == [4]
    assert open_dataset(context.store, result.dataset).manifest.source["engine"] == engine
    assert ingest("SELECT * FROM times WHERE t >= :start AND t < :end -- ':end'\n;", window="2013-04").unchanged


def test_values_of_all_types_are_ingested_unchanged(ingest, context, engine):
    result = ingest(
        """SELECT 1::int8 AS i, 1.5::float8 AS f, 'NaN'::float8 AS nan, '-inf'::float8 AS inf, 'ü'::text AS s,
        true AS b,
        '2013-04-01 10:00+02'::timestamptz AS tz, NULL::int8 AS n, '\\x00ff'::bytea AS by, ARRAY[1, 2]::int8[] AS a,
        12.30::numeric AS price, '0b5e7a9e-3c1f-4c55-8c1d-2f6f0a5b7c3d'::uuid AS u -- the end"""
    )
    (row,) = table(context, result).to_pylist()
    assert math.isnan(row.pop("nan"))
    assert row == {
        "i": 1, "f": 1.5, "inf": -math.inf, "s": "ü", "b": True, "tz": datetime(2013, 4, 1, 8, tzinfo=timezone.utc),
        "n": None, "by": b"\x00\xff", "a": [1, 2], "price": Decimal("12.30"), "u": "0b5e7a9e-3c1f-4c55-8c1d-2f6f0a5b7c3d",
    }  # fmt: skip


def test_types_without_an_arrow_equivalent_are_ingested_as_text_in_the_querys_order(postgres, ingest, context, engine):  # noqa: F811
    postgres.execute("DROP TYPE IF EXISTS mood", "CREATE TYPE mood AS ENUM ('low', 'high')")
    result = ingest(
        '''SELECT g AS "the ""n""", 'high'::mood AS m, '127.0.0.1'::inet AS ip, '1 day'::interval AS iv,
        ARRAY['low']::mood[] AS moods, '{"a": 1}'::jsonb AS j FROM generate_series(1, 3) g ORDER BY g DESC'''
    )
    rows = table(context, result).to_pylist()
    assert [row.pop('the "n"') for row in rows] == [3, 2, 1]
    assert rows[0] == {"m": "high", "ip": "127.0.0.1/32", "iv": "1 day", "moods": ["low"], "j": '{"a": 1}'}


def test_numbers_are_exact(ingest, context, engine):
    found = table(
        context,
        ingest(
            """SELECT sum(g) AS total, (g / 4.0)::numeric(10, 2) AS price, max(g) * 12.5::money AS fee,
            CASE WHEN g = 40000 THEN 0.125 ELSE g END AS late, '18446744073709551615'::numeric AS id,
            0.1::float4 AS single, ARRAY[0.1::float4] AS singles, 4294967295::oid AS o
            FROM generate_series(1::bigint, 40000) g GROUP BY g ORDER BY g"""
        ),
    )
    kinds = {field.name: str(field.type) for field in found.schema}
    assert kinds == {
        "total": "decimal128(38, 0)", "price": "decimal128(10, 2)", "fee": "decimal128(38, 2)",
        "late": "decimal128(38, 3)", "id": "decimal128(38, 0)", "single": "double", "singles": "list<element: double>",
        "o": "int64",
    }  # fmt: skip
    single = struct.unpack("f", struct.pack("f", 0.1))[0]
    assert found.slice(0, 1).to_pylist() == [
        {
            "total": 1, "price": Decimal("0.25"), "fee": Decimal("12.50"), "late": 1, "id": 18446744073709551615,
            "single": single, "singles": [single], "o": 4294967295,
        }
    ]  # fmt: skip
    assert found["late"][-1].as_py() == Decimal("0.125")


@pytest.mark.parametrize(("value", "kind"), [("NaN", "numeric"), ("NaN", "numeric(4, 2)"), ("1e39", "numeric")])
def test_numbers_that_decimals_cannot_hold_are_refused(value, kind, ingest, context, engine):
    with pytest.raises(SchemaError, match=r"'n' .*types=\{'n': 'float64'\}"):
        ingest(f"SELECT '{value}'::{kind} AS n")
    assert store_is_empty(context)
    assert table(context, ingest(f"SELECT '{value}'::{kind} AS n", types={"n": "string"}))["n"].null_count == 0


@pytest.mark.parametrize(
    "value",
    [
        "'infinity'::timestamptz",
        "'-infinity'::timestamp",
        "'infinity'::date",
        "'0044-03-15 BC'::date",
        "'20000-01-01'::date",
    ],
)
def test_times_outside_of_the_calendar_are_refused(value, ingest, context, engine):
    with pytest.raises(SchemaError, match=r"'valid_to' contains infinity.*NULLIF"):
        ingest(f"SELECT {value} AS valid_to")
    assert store_is_empty(context)
    assert table(context, ingest(f"SELECT NULLIF({value}, {value}) AS valid_to"))["valid_to"].to_pylist() == [None]
    text = table(context, ingest(f"SELECT {value} AS valid_to", types={"valid_to": "string"}))["valid_to"][0].as_py()
    assert text.removeprefix("-") in value


def test_the_first_and_the_last_day_are_kept(ingest, context, engine):
    result = ingest(
        "SELECT '0001-01-01'::date AS a, '9999-12-31'::date AS b, '9999-12-31 23:59:59.999999+00'::timestamptz AS c,"
        " '0001-01-01'::timestamp AS d"
    )
    (row,) = table(context, result).to_pylist()
    last = datetime(9999, 12, 31, 23, 59, 59, 999999, timezone.utc)
    first = datetime(1, 1, 1, tzinfo=timezone.utc)
    assert row == {"a": date(1, 1, 1), "b": date(9999, 12, 31), "c": last, "d": first}


def test_arrays_of_two_dimensions_are_refused_or_read_as_text(ingest, context, engine):
    with pytest.raises(SchemaError, match="'a' contains an array of 2 dimensions"):
        ingest("SELECT ARRAY[[1, 2], [3, 4]] AS a UNION ALL SELECT ARRAY[1]")
    found = table(context, ingest("SELECT ARRAY[[1, 2], [3, 4]] AS a", types={"a": "string"}))
    assert found["a"].to_pylist() == ["{{1,2},{3,4}}"]
    found = table(context, ingest("SELECT ARRAY[1, NULL] AS a, ARRAY[1.50]::numeric[] AS n, ARRAY['x'] AS s", name="b"))
    assert found.to_pylist() == [{"a": [1, None], "n": ["1.50"], "s": ["x"]}]


def test_both_drivers_give_the_same_dataset(postgres, ingest, monkeypatch):  # noqa: F811
    postgres.execute("DROP DOMAIN IF EXISTS price", "CREATE DOMAIN price AS numeric(8, 3)")
    sql = """SELECT 1::int2 AS a, 1::int4 AS b, 1.5::float4 AS c, 'x'::char(3) AS d, 'n'::name AS e, 12.5::money AS f,
        2.5::price AS g, avg(i) AS h, '10:30:00.50'::time AS j, '10:30+02'::timetz AS k, '1 mon 2 days'::interval AS l,
        '{"a": 1.10}'::json AS m, '[1.10]'::jsonb AS n, row(1, 'a') AS o, int4range(1, 5) AS p, B'101' AS q,
        '1.2.3.4'::inet AS r, NULL AS s, ARRAY['2013-04-01'::date] AS t, ARRAY['\\x00'::bytea] AS u, ARRAY[true, NULL] AS v,
        '2013-04-01 10:00:00.5+02'::timestamptz AS w, xmlcomment('x') AS x, ARRAY[12.5::money] AS y, NULL::int AS z
        FROM generate_series(1, 3) i"""
    by_adbc = ingest(sql)
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    by_sqlalchemy = ingest(sql)
    assert by_sqlalchemy.unchanged
    assert by_sqlalchemy.dataset == by_adbc.dataset


def test_decimals_are_converted_to_declared_floats(ingest, context, engine):
    result = ingest("SELECT 12.30::numeric AS p UNION ALL SELECT 'NaN'", types={"p": "float64"})
    first, second = table(context, result)["p"].to_pylist()
    assert first == 12.3
    assert math.isnan(second)


def test_an_unordered_query_has_the_same_order_while_others_read_the_table(postgres, ingest):  # noqa: F811
    import psycopg2

    postgres.execute(
        "DROP TABLE IF EXISTS big",
        "CREATE TABLE big AS SELECT g, repeat('x', 200) AS s FROM generate_series(1, 40000) g",
    )
    first = ingest("SELECT * FROM big")
    other = psycopg2.connect(postgres.admin)
    try:
        with other.cursor("half") as cursor:
            cursor.itersize = 1000
            cursor.execute("SELECT * FROM big")
            cursor.fetchmany(20_000)
            again = ingest("SELECT * FROM big")
    finally:
        other.close()
    assert again.unchanged
    assert again.dataset == first.dataset


@pytest.mark.parametrize("how", ["backend", "server"])
def test_a_server_that_goes_down_while_it_is_read_leaves_nothing_and_a_retry_succeeds(how, postgres, ingest, context):  # noqa: F811
    def end():
        waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        while not (found := postgres.execute(waits)):
            time.sleep(0.05)
        # Rows are already being written at this point.
        assert context.store.fs.find(context.store.root) != []
        if how == "server":
            postgres.stop()
        else:
            postgres.execute(f"SELECT pg_terminate_backend({found[0][0]})")

    thread = threading.Thread(target=end)
    thread.start()
    try:
        with pytest.raises(SourceError, match=r"'pg' \(postgres\)") as raised:
            ingest(HANGS)
    finally:
        thread.join()
        if how == "server":
            postgres.start()
    assert raised.value.retryable
    assert PASSWORD not in str(raised.value)
    assert store_is_empty(context)
    assert ingest(HANGS.replace("60", "0")).dataset.rows == 300_000


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ({"port": 1}, "Connection refused"),
        ({"password": "geheim%1"}, "password authentication failed"),
        ({"schema": "nowhere"}, 'database "nowhere" does not exist'),
        ({"extra": {"sslmode": "require"}}, "SSL"),
    ],
)
def test_an_unreachable_database_is_named_without_the_password(connection, message, ingest, context, engine):
    if engine == "SQLAlchemy" and "extra" in connection:
        connection = {"extra": {"sqlalchemy_query": connection["extra"]}}
    with pytest.raises(SourceError, match=f"'pg' .postgres. .*{message}") as raised:
        ingest("SELECT 1", connection)
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "geheim"):
        assert secret not in str(raised.value)
    assert store_is_empty(context)


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        ("SELECT * FROM nowhere", SpecError, "'pg' .*relation .nowhere. does not exist"),
        ("SELEC", SpecError, "syntax error at or near"),
        ("CREATE TABLE made_by_ingest (a int)", SpecError, "'pg'"),
        ("SELECT 1 AS a, 2 AS a", SchemaError, "the column 'a' more than once"),
    ],
)
def test_an_invalid_query_is_refused_and_changes_nothing(sql, error, message, postgres, ingest, context):  # noqa: F811
    with pytest.raises(error, match=message):
        ingest(sql)
    assert store_is_empty(context)
    assert postgres.execute("SELECT to_regclass('made_by_ingest')") == [(None,)]


def test_a_column_whose_type_changes_is_named(postgres, ingest):  # noqa: F811
    query = "SELECT * FROM changing WHERE t >= :start AND t < :end"
    postgres.execute(
        "DROP TABLE IF EXISTS changing",
        """CREATE TABLE changing AS
        SELECT d AS t, 1 AS n FROM generate_series('2013-03-01'::date, '2013-05-01', '1 day') d""",
    )
    ingest(query, window="2013-03")
    postgres.execute("ALTER TABLE changing ALTER n TYPE text")
    with pytest.raises(SchemaError, match=r"'n' is string, .* int64.*types=\{'n': 'string'\}"):
        ingest(query, window="2013-04")
    postgres.execute("ALTER TABLE changing DROP n")
    with pytest.raises(SchemaError, match="2013-03 has the column 'n'"):
        ingest(query, window="2013-04")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 / 0 AS a",
        # Fails after 60,000 rows were sent.
        "SELECT 1 / (60000 - g) AS a FROM generate_series(1, 100000) g",
        "SELECT 'x'::int AS a",
        "SELECT nope",
        "SELECT (SELECT g FROM generate_series(1, 2) g) AS a",
        "SELECT pg_read_file('/etc/passwd') AS a",
    ],
)
def test_a_query_that_fails_on_its_text_or_its_data_is_not_retried(sql, ingest, context, engine):
    with pytest.raises(SpecError, match="'pg' rejected the query: .*Correct `sql`, or the data") as raised:
        ingest(sql)
    assert not raised.value.retryable
    assert "Traceback" not in str(raised.value)
    assert store_is_empty(context)


def test_a_query_that_writes_is_refused_and_writes_nothing(postgres, ingest, context, engine):  # noqa: F811
    postgres.execute(
        "CREATE TABLE IF NOT EXISTS readers (at timestamptz)",
        "TRUNCATE readers",
        """CREATE OR REPLACE FUNCTION counted_read() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO readers VALUES (now()); RETURN 1; END $$""",
        "GRANT ALL ON readers TO public",
    )
    with pytest.raises(SpecError, match="read-only transaction") as raised:
        ingest("SELECT counted_read() AS n")
    assert not raised.value.retryable
    assert store_is_empty(context)
    assert table(context, ingest("SELECT count(*) AS n FROM readers"))["n"].to_pylist() == [0]


def test_a_cancelled_query_is_retried(postgres, ingest, engine):  # noqa: F811
    postgres.execute("ALTER ROLE ingest SET statement_timeout = '300ms'")
    try:
        with pytest.raises(SourceError, match="statement timeout") as raised:
            ingest("SELECT pg_sleep(60)::text AS a")
    finally:
        postgres.execute("ALTER ROLE ingest RESET statement_timeout")
    assert raised.value.retryable
