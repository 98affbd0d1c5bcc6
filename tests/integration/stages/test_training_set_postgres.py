"""Features of Feast's PostgreSQL offline store: the results of file sources, streamed, with no table left behind."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import FeatureStoreError, LeakageError, OfflineStoreError
from airflow_mlops.data.feast import join as feast_join
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast import request as feast_request
from airflow_mlops.data.spool import spooled
from tests.support.feature_repo import FEATURE_STORE
from tests.support.postgres import PASSWORD, Postgres, postgres  # noqa: F401 - a fixture

pytest.importorskip("psycopg_pool", reason="Feast's PostgreSQL offline store needs psycopg[pool]")

START = datetime(2013, 1, 1, tzinfo=timezone.utc)
UTC = pa.timestamp("us", "UTC")

OFFLINE_STORE = """
offline_store:
  type: postgres
  host: 127.0.0.1
  port: {port}
  database: postgres
  db_schema: features
  user: ingest
  password: "{password}"
  sslmode: disable
"""

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
pair = Entity(name="pair", join_keys=["number"], value_type=ValueType.INT64)
SOURCE
schema = [Field(name="place", dtype=String), Field(name="value", dtype=Int64), Field(name="word", dtype=String)]
fresh = FeatureView(name="fresh", entities=[place], ttl=timedelta(minutes=150), schema=schema, source=hourly)
lasting = FeatureView(name="lasting", entities=[place], schema=schema, source=hourly)
"""

FILES = """
from feast import FileSource
hourly = FileSource(name="hourly", path="hourly.parquet", timestamp_field="at", created_timestamp_column="created",
                    field_mapping={"v": "value"})
"""

TABLES = """
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
hourly = PostgreSQLSource(name="hourly", table="hourly", timestamp_field="at", created_timestamp_column="created",
                          field_mapping={"v": "value"})
"""

MORE = """
twofold = FeatureView(
    name="twofold", entities=[place, pair],
    source=PostgreSQLSource(name="twofold", query="SELECT * FROM twofold", timestamp_field="at"),
    schema=[Field(name="place", dtype=String), Field(name="number", dtype=Int64), Field(name="size", dtype=Float64)],
)
typed = FeatureView(
    name="typed_view_with_a_name_that_is_longer_than_sixty_bytes_in_sql", entities=[pair],
    source=PostgreSQLSource(name="typed", table="typed", timestamp_field="at"),
    schema=[Field(name="number", dtype=Int64), Field(name="whole", dtype=Int64), Field(name="small", dtype=Int32),
            Field(name="exact", dtype=Float64), Field(name="half", dtype=Float32), Field(name="yes", dtype=Bool),
            Field(name="moment", dtype=UnixTimestamp), Field(name="local", dtype=UnixTimestamp),
            Field(name="many", dtype=Array(Int64)), Field(name="words", dtype=Array(String)),
            Field(name="Capital Word", dtype=String)],
)
everywhere = FeatureView(
    name="everywhere", entities=[], schema=[Field(name="rate", dtype=Float64)],
    source=PostgreSQLSource(name="everywhere", table="everywhere", timestamp_field="at"),
)
numbers = FeatureView(
    name="numbers", entities=[pair], schema=[Field(name="number", dtype=Int64), Field(name="size", dtype=Int64)],
    source=PostgreSQLSource(name="numbers", table="numbers", timestamp_field="at"),
)
brief = FeatureView(
    name="brief", entities=[place], ttl=timedelta(seconds=1.5),
    schema=[Field(name="place", dtype=String), Field(name="word", dtype=String)], source=hourly,
)
slow = FeatureView(
    name="slow", entities=[place], schema=[Field(name="place", dtype=String), Field(name="never", dtype=String)],
    source=PostgreSQLSource(name="slow", timestamp_field="at",
                            query="SELECT place, at, pg_sleep(600)::text AS never FROM features.hourly"),
)
denied = FeatureView(
    name="denied", entities=[place], schema=[Field(name="place", dtype=String), Field(name="secret", dtype=Int64)],
    source=PostgreSQLSource(name="denied", query="SELECT * FROM features.denied_function()", timestamp_field="at"),
)
"""

TABLE_OF = {
    "hourly": "place text, at timestamptz, created timestamptz, v bigint, word text",
    "twofold": "place text, number bigint, at timestamptz, size double precision",
    "typed": "number int, at timestamp, whole bigint, small smallint, exact numeric, half real, yes boolean, "
    'moment timestamptz, local timestamp, many int[], words text[], "Capital Word" varchar(9)',
    "numbers": "number bigint, at timestamptz, size bigint",
    "everywhere": "at date, rate double precision",
}


def open_repo(folder, definitions, offline_store=""):
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(FEATURE_STORE + offline_store)
    (folder / "definitions.py").write_text(textwrap.dedent(definitions))
    store = feast_repo.open_store(str(folder))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    return store


@pytest.fixture(scope="module")
def tables(tmp_path_factory, postgres):  # noqa: F811
    """The repository whose sources are tables. The time zone of the server is not UTC."""
    postgres.execute(
        "ALTER DATABASE postgres SET timezone = 'America/New_York'",
        "CREATE SCHEMA features",
        "GRANT USAGE ON SCHEMA features TO ingest",
        *(f"CREATE TABLE features.{name} ({columns})" for name, columns in TABLE_OF.items()),
        "CREATE FUNCTION features.denied_function() RETURNS TABLE (place text, at timestamptz, secret bigint) "
        "LANGUAGE sql AS 'SELECT NULL::text, now(), 1::bigint'",
        "REVOKE EXECUTE ON FUNCTION features.denied_function() FROM PUBLIC",
    )
    offline_store = OFFLINE_STORE.format(port=postgres.port, password=PASSWORD)
    definitions = DEFINITIONS.replace("SOURCE", TABLES) + MORE
    yield open_repo(
        tmp_path_factory.mktemp("pg") / "tables", definitions.replace('table="', 'table="features.'), offline_store
    )
    postgres.execute("ALTER DATABASE postgres RESET timezone", "DROP SCHEMA features CASCADE")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "files"
    pq.write_table(hourly([("EWR", 0, 0, 1, "a")]), folder.parent / "hourly.parquet")
    return open_repo(folder, DEFINITIONS.replace("SOURCE", FILES).replace("hourly.parquet", "../hourly.parquet"))


def at(minute):
    return START + timedelta(minutes=minute)


def hourly(rows):
    """Rows of place, minute, minute of creation (or none), value and word."""
    places, times, created, numbers, words = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 5
    return pa.table(
        {
            "place": pa.array(places, pa.string()),
            "at": pa.array([at(time) for time in times], UTC),
            "created": pa.array([None if time is None else at(time) for time in created], UTC),
            "v": pa.array(numbers, pa.int64()),
            "word": pa.array(words, pa.string()),
        }
    )


def fill(server, name, rows):
    import psycopg2

    connection = psycopg2.connect(server.admin)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SET TIME ZONE 'UTC'; TRUNCATE features.{name}")
        for row in rows:
            cursor.execute(f"INSERT INTO features.{name} VALUES ({', '.join(['%s'] * len(row))})", row)
    connection.close()


def look_up(store, features, events):
    request = feast_request.resolve(store, None, features)
    with spooled([events]) as rows:
        return pa.concat_tables(feast_join.join(store, request, rows, "time"))


def temporary_tables(server):
    found = "SELECT count(*) FROM pg_class WHERE relname ~ 'mlops|feast' AND relkind = 'r'"
    return server.execute(found)[0][0]


# A place, a minute, a minute of creation, a value and a word. Times are coarse, so that some are equal.
minutes = st.integers(0, 20).map(lambda number: 30 * number)
places = st.sampled_from(["EWR", "JFK"])
numbers = st.one_of(st.none(), st.integers(2**53, 2**53 + 9))
rows = st.tuples(places, minutes, st.one_of(st.none(), st.integers(0, 3)), numbers, st.text("xyz", max_size=2))
events = st.tuples(st.one_of(st.none(), places, st.just("BOS")), minutes)


@settings(
    max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@example([("EWR", 0, 1, 7, "a"), ("EWR", 0, None, 8, "z"), ("EWR", 0, 2, 6, "b")], [("EWR", 0)])
@example([("EWR", 0, 0, 1, "a"), ("EWR", 30, None, 2, "b")], [("EWR", 30), ("EWR", 180), ("EWR", 181), ("EWR", 30)])
# Rows with equal times and times of creation have an order in a file, but none in a table.
@given(st.lists(rows, max_size=30, unique_by=lambda row: row[:3]), st.lists(events, min_size=1, max_size=30))
def test_a_table_gives_the_features_of_a_file(tables, files, postgres, rows, events):  # noqa: F811
    pq.write_table(hourly(rows), files.repo_path.parent / "hourly.parquet")
    fill(postgres, "hourly", [(p, at(t), None if c is None else at(c), v, w) for p, t, c, v, w in rows])
    table = pa.table(
        {"place": pa.array([p for p, _ in events], pa.string()), "time": pa.array([at(t) for _, t in events], UTC)}
    )
    wanted = ["fresh:value", "fresh:word", "lasting:value"]
    assert look_up(tables, wanted, table).equals(look_up(files, wanted, table))


def test_types_and_names_are_kept(tables, postgres):  # noqa: F811
    moment = datetime(2013, 6, 1, 12, 0, 0, 1, tzinfo=timezone.utc)
    values = [2**53 + 1, 7, "0.1", 0.5, True, moment, datetime(2013, 6, 1, 12), [1, None], ["a", ""], "c"]
    fill(postgres, "typed", [(1, START.replace(tzinfo=None), *values), (2, START.replace(tzinfo=None), *[None] * 10)])
    fill(postgres, "everywhere", [(START.date(), 0.25)])
    table = pa.table({"number": [1, 2, 3, None], "time": pa.array([START] * 4, UTC)})
    view = "typed_view_with_a_name_that_is_longer_than_sixty_bytes_in_sql"
    names = ["whole", "small", "exact", "half", "yes", "moment", "local", "many", "words", "Capital Word"]
    found = look_up(tables, [*(f"{view}:{name}" for name in names), "everywhere:rate"], table)
    assert found.schema.types == [
        pa.int64(), pa.int32(), pa.float64(), pa.float32(), pa.bool_(), UTC, UTC, pa.list_(pa.int64()),
        pa.list_(pa.string()), pa.string(), pa.float64(),
    ]  # fmt: skip
    values[2], values[6] = 0.1, datetime(2013, 6, 1, 12, tzinfo=timezone.utc)
    assert [list(row.values()) for row in found.to_pylist()] == [[*values, 0.25], *[[None] * 10 + [0.25]] * 3]


def test_unsigned_join_keys_are_exact(tables, postgres):  # noqa: F811
    fill(postgres, "numbers", [(-1, START, 9), (2**53 + 1, START, 7), (2**53, START, 8)])
    keys = pa.array([2**64 - 1, 2**53, None, 2**53 + 1], pa.uint64())
    table = pa.table({"number": keys, "time": pa.array([START] * 4, UTC)})
    assert look_up(tables, ["numbers:size"], table)["numbers:size"].to_pylist() == [None, 8, None, 7]


def test_join_keys_whose_texts_look_equal_one_after_the_other_are_not_confused(tables, postgres):  # noqa: F811
    fill(postgres, "twofold", [("a1", 12, START, 1.0), ("a11", 2, START, 2.0), ("a", 112, START, 3.0)])
    table = pa.table(
        {"place": ["a11", "a1", "a", "a1", None], "number": [2, 12, 112, 12, 1], "time": pa.array([START] * 5, UTC)}
    )
    assert look_up(tables, ["twofold:size"], table)["twofold:size"].to_pylist() == [2.0, 1.0, 3.0, 1.0, None]


def test_equal_rows_of_a_table_give_the_same_result_each_time(tables, postgres):  # noqa: F811
    made = [("EWR", START, START, value, word) for value, word in [(1, "a"), (2, "a"), (2, None), (None, "z")]]
    table = pa.table({"place": ["EWR"], "time": pa.array([START], UTC)})
    for some in (made, made[::-1]):
        fill(postgres, "hourly", some)
        assert look_up(tables, ["lasting:value", "lasting:word"], table).to_pylist() == [
            {"lasting:value": 2, "lasting:word": "a"}
        ]


def test_no_table_is_left_after_success_and_failure(tables, postgres, monkeypatch):  # noqa: F811
    from airflow_mlops.data.feast.warehouse import postgres as module

    fill(postgres, "hourly", [("EWR", START, START, 1, "a")])
    table = pa.table({"place": ["EWR"], "time": pa.array([START], UTC)})
    look_up(tables, ["lasting:value"], table)
    monkeypatch.setattr(
        module.PostgresColumns, "query", lambda *_: "SELECT 1 / count(*) FILTER (WHERE false) FROM mlops_events"
    )
    with pytest.raises(FeatureStoreError, match="division by zero"):
        look_up(tables, ["lasting:value"], table)
    assert temporary_tables(postgres) == 0


def test_a_timeout_ends_the_query_and_drops_the_events(tables, postgres):  # noqa: F811
    class Timeout(BaseException):
        pass

    def ring(*_):
        raise Timeout

    def queries():
        return postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")[0][0]

    def stop():
        deadline = time.monotonic() + 60
        while not queries() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGALRM)

    fill(postgres, "hourly", [("EWR", START, START, 1, "a")])
    before = signal.signal(signal.SIGALRM, ring)
    watch = threading.Thread(target=stop)
    watch.start()
    try:
        with pytest.raises(Timeout):
            look_up(tables, ["slow:never"], pa.table({"place": ["EWR"], "time": pa.array([START], UTC)}))
    finally:
        watch.join()
        signal.signal(signal.SIGALRM, before)
    deadline = time.monotonic() + 30
    while queries() or temporary_tables(postgres):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_row_newer_than_its_event_is_refused(tables, postgres, monkeypatch):  # noqa: F811
    from airflow_mlops.data.feast.warehouse import postgres as module

    fill(postgres, "hourly", [("EWR", at(1), START, 1, "a")])
    made = module.PostgresWarehouse._sql
    monkeypatch.setattr(
        module.PostgresWarehouse,
        "_sql",
        lambda *args: made(*args).replace("<=", "<> TIMESTAMP '1970-01-01' OR NULL <>"),
    )
    table = pa.table({"place": ["EWR"], "time": pa.array([START], UTC)})
    with pytest.raises(LeakageError):
        look_up(tables, ["lasting:value"], table)


def test_refused_logins_and_unreachable_servers_have_different_errors_without_the_password(tables, postgres):  # noqa: F811
    table = pa.table({"place": ["EWR"], "time": pa.array([START], UTC)})
    with pytest.raises(FeatureStoreError, match="Grant the user 'ingest'") as refused:
        look_up(tables, ["denied:secret"], table)
    postgres.stop()
    try:
        with pytest.raises(OfflineStoreError) as lost:
            look_up(tables, ["lasting:value"], table)
    finally:
        postgres.start()
    assert not refused.value.retryable
    assert lost.value.retryable
    assert PASSWORD not in f"{refused.value}{lost.value}"


def test_join_keys_of_another_type_are_an_error(tables):
    table = pa.table({"place": [1], "time": pa.array([START], UTC)})
    with pytest.raises(FeatureStoreError, match="types of the join keys"):
        look_up(tables, ["lasting:value"], table)


def test_names_that_feasts_sql_would_confuse_are_refused(tables):
    time = pa.array([START], UTC)
    with pytest.raises(FeatureStoreError, match="ttl of whole seconds"):
        look_up(tables, ["brief:word"], pa.table({"place": ["EWR"], "time": time}))
    with pytest.raises(FeatureStoreError, match="several join keys, and one of them has the type double"):
        look_up(tables, ["twofold:size"], pa.table({"place": ["EWR"], "number": [1.0], "time": time}))


def test_the_driver_is_required(tables, monkeypatch):
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql.dbapi", None)
    with pytest.raises(FeatureStoreError, match=r"airflow-mlops\[adbc\]"):
        look_up(tables, ["lasting:value"], pa.table({"place": ["EWR"], "time": pa.array([START], UTC)}))
