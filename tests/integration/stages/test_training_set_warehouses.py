"""Features of Feast's offline stores BigQuery, Redshift and Snowflake, on stand-ins (:mod:`tests.support.warehouses`).

The results are those of file sources, the events are uploaded with exact types, and nothing is left behind.
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import FeatureStoreError, LeakageError, OfflineStoreError
from airflow_mlops.data.feast import join as feast_join
from airflow_mlops.data.feast import offline_store, warehouse
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast import request as feast_request
from airflow_mlops.data.feast.warehouse import bigquery as bigquery_warehouse
from airflow_mlops.data.feast.warehouse import query, upload
from airflow_mlops.data.feast.warehouse.base import Events
from airflow_mlops.data.spool import spooled
from tests.support import object_stores
from tests.support.feature_repo import FEATURE_STORE
from tests.support.postgres import Postgres, postgres  # noqa: F401 - a fixture
from tests.support.warehouses import FakeBigQuery, FakeRedshift, FakeSnowflake

START = datetime(2013, 1, 1, tzinfo=timezone.utc)
UTC = pa.timestamp("us", "UTC")

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Bool, Float64, Int64, String, UnixTimestamp
{imports}

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
pair = Entity(name="pair", join_keys=["number"], value_type=ValueType.INT64)
schema = [Field(name="place", dtype=String), Field(name="value", dtype=Int64), Field(name="word", dtype=String)]
hourly = {hourly}, created_timestamp_column="created", field_mapping={{"v": "value"}})
fresh = FeatureView(name="fresh", entities=[place], ttl=timedelta(minutes=150), schema=schema, source=hourly)
lasting = FeatureView(name="lasting", entities=[place], schema=schema, source=hourly)
"""

MORE = """
pairs = {twofold})
twofold = FeatureView(
    name="twofold", entities=[place, pair], source=pairs,
    schema=[Field(name="place", dtype=String), Field(name="number", dtype=Int64), Field(name="size", dtype=Float64)],
)
typed = FeatureView(
    name="typed_view_with_a_name_that_is_longer_than_sixty_bytes_in_sql", entities=[pair], source={typed}),
    schema=[Field(name="number", dtype=Int64), Field(name="whole", dtype=Int64), Field(name="Half of", dtype=Float64),
            Field(name="moment", dtype=UnixTimestamp), Field(name="local", dtype=UnixTimestamp)],
)
size = Entity(name="size", join_keys=["size"], value_type=ValueType.DOUBLE)
measured = FeatureView(
    name="measured", entities=[size],
    source=pairs, schema=[Field(name="size", dtype=Float64), Field(name="number", dtype=Int64)],
)
everywhere = FeatureView(
    name="everywhere", entities=[], schema=[Field(name="rate", dtype=Float64)], source={everywhere}),
)
slow = FeatureView(
    name="slow", entities=[place], schema=[Field(name="place", dtype=String), Field(name="never", dtype=String)],
    source={slow},
)
absent = FeatureView(
    name="absent", entities=[place], schema=[Field(name="place", dtype=String), Field(name="none", dtype=Int64)],
    source=hourly,
)
"""

COLUMNS = {
    "hourly": {"place": "text", "at": "time", "created": "time", "v": "number", "word": "text"},
    "twofold": {"place": "text", "number": "number", "at": "time", "size": "float"},
    "typed": {
        "number": "number",
        "at": "naive",
        "whole": "number",
        "Half of": "float",
        "moment": "time",
        "local": "naive",
    },
    "everywhere": {"at": "date", "rate": "float"},
}


@contextmanager
def snowflake(_):
    pytest.importorskip("fakesnow", reason="The stand-in for Snowflake needs fakesnow and snowflake-connector-python<5")
    pytest.importorskip("snowflake.connector.converter")
    with FakeSnowflake.started() as place:
        yield place


@contextmanager
def bigquery(_):
    pytest.importorskip("google.cloud.bigquery", reason="Feast's BigQuery store needs google-cloud-bigquery")
    pytest.importorskip("sqlglot")
    from feast.infra.offline_stores import bigquery as module

    place = FakeBigQuery()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_get_bigquery_client", lambda **_: place)
        yield place


@contextmanager
def redshift(request):
    boto3 = pytest.importorskip("boto3")
    from feast.infra.utils import aws_utils

    server = request.getfixturevalue("postgres")
    with object_stores.s3() as url, pytest.MonkeyPatch.context() as patch:
        options = object_stores.fsspec.config.conf["s3"]
        client = options["client_kwargs"]
        s3 = boto3.resource("s3", aws_access_key_id=options["key"], aws_secret_access_key=options["secret"], **client)
        place = FakeRedshift(server.admin, s3, f"{url}/staging")
        server.execute("ALTER DATABASE postgres SET timezone = 'America/New_York'")
        patch.setattr(aws_utils, "get_redshift_data_client", lambda region: place)
        patch.setattr(aws_utils, "get_s3_resource", lambda region: s3)
        yield place
        server.execute("ALTER DATABASE postgres RESET timezone", "DROP SCHEMA IF EXISTS warehouse CASCADE")


@pytest.fixture(scope="module", params=[snowflake, redshift, bigquery], ids=lambda made: made.__name__)
def place(request):
    with request.param(request) as made:
        for name, columns in COLUMNS.items():
            made.create(name, columns)
        yield made


def open_repo(folder, definitions, **offline_store):
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(FEATURE_STORE + (yaml.safe_dump(offline_store) if offline_store else ""))
    (folder / "definitions.py").write_text(textwrap.dedent(definitions))
    store = feast_repo.open_store(str(folder))
    contents = feast_repo.parse_repo(store)
    with pytest.MonkeyPatch.context() as patch:
        # To learn the columns of a source, Feast sends requests that the stand-ins do not support. The views declare
        # their columns.
        patch.setattr(type(store.provider), "get_table_column_names_and_types_from_data_source", lambda *_, **__: [])
        for source in contents.data_sources:
            patch.setattr(type(source), "validate", lambda *_, **__: None)
        feast_repo.apply(store, contents)
    return store


@pytest.fixture(scope="module")
def tables(tmp_path_factory, place):
    sources = {name: place.source(name) for name in COLUMNS}
    sleep = "SELECT place, at, pg_sleep(600)::text AS never FROM warehouse.hourly"
    sources["slow"] = place.source("slow") + ")"
    if place.kind == "bigquery":
        sources["everywhere"] += ', timestamp_field_type="DATE"'
    if place.kind == "redshift":
        sources["slow"] = f'RedshiftSource(name="slow", query="{sleep}", timestamp_field="at")'
    definitions = (DEFINITIONS + MORE).format(imports=place.imports, **sources)
    return open_repo(tmp_path_factory.mktemp(place.kind) / "tables", definitions, offline_store=place.offline_store)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "files"
    pq.write_table(hourly([("EWR", 0, 0, 1, "a")]), folder.parent / "hourly.parquet")
    source = 'FileSource(name="hourly", path="../hourly.parquet", timestamp_field="at"'
    return open_repo(folder, DEFINITIONS.format(imports="from feast import FileSource", hourly=source))


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


def look_up(store, features, events):
    request = feast_request.resolve(store, None, features)
    with spooled([events]) as rows:
        return pa.concat_tables(feast_join.join(store, request, rows, "time"))


def one(**keys):
    return pa.table({**{name: [key] for name, key in keys.items()}, "time": pa.array([START], UTC)})


# A place, a minute, a minute of creation, a value and a word. Times are coarse, so that some are equal.
minutes = st.integers(0, 20).map(lambda number: 30 * number)
places = st.sampled_from(["EWR", "JFK"])
numbers = st.one_of(st.none(), st.integers(2**53, 2**53 + 9))
rows = st.tuples(places, minutes, st.one_of(st.none(), st.integers(0, 3)), numbers, st.text("xyz", max_size=2))
events = st.tuples(st.one_of(st.none(), places, st.just("BOS")), minutes)


@settings(
    max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@example([("EWR", 0, 1, 7, "a"), ("EWR", 0, None, 8, "z"), ("EWR", 0, 2, 6, "b")], [("EWR", 0)])
@example([("EWR", 0, 0, 1, "a"), ("EWR", 30, None, 2, "b")], [("EWR", 30), ("EWR", 180), ("EWR", 181), ("EWR", 30)])
# Rows with equal times and times of creation have an order in a file, but none in a table.
@given(st.lists(rows, max_size=30, unique_by=lambda row: row[:3]), st.lists(events, min_size=1, max_size=30))
def test_a_table_gives_the_features_of_a_file(place, tables, files, rows, events):
    pq.write_table(hourly(rows), files.repo_path.parent / "hourly.parquet")
    place.fill("hourly", [(p, at(t), None if c is None else at(c), v, w) for p, t, c, v, w in rows])
    table = pa.table(
        {"place": pa.array([p for p, _ in events], pa.string()), "time": pa.array([at(t) for _, t in events], UTC)}
    )
    wanted = ["fresh:value", "fresh:word", "lasting:value"]
    assert look_up(tables, wanted, table).equals(look_up(files, wanted, table))
    assert not place.leftovers()


def test_types_names_and_views_without_keys_are_kept(place, tables):
    moment = datetime(2013, 6, 1, 12, 0, 0, 1, tzinfo=timezone.utc)
    local = datetime(2013, 6, 1, 12)
    place.fill(
        "typed", [(1, datetime(2013, 1, 1), 2**53 + 1, 0.5, moment, local), (2, datetime(2013, 1, 1), *[None] * 4)]
    )
    place.fill("everywhere", [(date(2013, 1, 1), 0.25)])
    table = pa.table({"number": [1, 2, 3, None], "time": pa.array([START] * 4, UTC)})
    view = "typed_view_with_a_name_that_is_longer_than_sixty_bytes_in_sql"
    found = look_up(
        tables, [*(f"{view}:{n}" for n in ("whole", "Half of", "moment", "local")), "everywhere:rate"], table
    )
    assert found.schema.types == [pa.int64(), pa.float64(), UTC, UTC, pa.float64()]
    first = [2**53 + 1, 0.5, moment, local.replace(tzinfo=timezone.utc), 0.25]
    assert [list(row.values()) for row in found.to_pylist()] == [first, *[[None] * 4 + [0.25]] * 3]
    if place.kind == "bigquery":
        # BigQuery, unlike DuckDB, does not compare a date with a time.
        assert "TIMESTAMP(`at`, 'UTC') AS row_time" in place.queries[-1]


def test_unsigned_join_keys_are_exact(place, tables):
    place.fill("typed", [(n, datetime(2013, 1, 1), n, 0.0, None, None) for n in (-1, 2**53 + 1, 2**53)])
    keys = pa.array([2**64 - 1, 2**53, None, 2**53 + 1], pa.uint64())
    table = pa.table({"number": keys, "time": pa.array([START] * 4, UTC)})
    found = look_up(tables, ["typed_view_with_a_name_that_is_longer_than_sixty_bytes_in_sql:whole"], table)
    assert found.column(0).to_pylist() == [None, 2**53, None, 2**53 + 1]


def test_join_keys_whose_texts_look_equal_one_after_the_other_are_not_confused(place, tables):
    place.fill("twofold", [("a1", 12, START, 1.0), ("a11", 2, START, 2.0), ("a", 112, START, 3.0)])
    table = pa.table(
        {"place": ["a11", "a1", "a", "a1", None], "number": [2, 12, 112, 12, 1], "time": pa.array([START] * 5, UTC)}
    )
    assert look_up(tables, ["twofold:size"], table)["twofold:size"].to_pylist() == [2.0, 1.0, 3.0, 1.0, None]


def test_equal_rows_of_a_table_give_the_same_result_each_time(place, tables):
    made = [("EWR", START, START, value, word) for value, word in [(1, "a"), (2, "a"), (2, None), (None, "z")]]
    for some in (made, made[::-1]):
        place.fill("hourly", some)
        assert look_up(tables, ["lasting:value", "lasting:word"], one(place="EWR")).to_pylist() == [
            {"lasting:value": 2, "lasting:word": "a"}
        ]


def test_events_of_the_same_millisecond_get_their_own_rows(place, tables):
    times = [START + timedelta(microseconds=number) for number in range(3)]
    place.fill("hourly", [("EWR", moment, START, number, "a") for number, moment in enumerate(times)])
    table = pa.table({"place": ["EWR"] * 3, "time": pa.array(times, UTC)})
    assert look_up(tables, ["lasting:value"], table)["lasting:value"].to_pylist() == [0, 1, 2]
    if place.kind == "snowflake":
        # fakesnow ignores the format. Snowflake's default has milliseconds, with which these events would be confused.
        settings = [sql for sql in place.statements if sql.startswith("ALTER SESSION SET TIMESTAMP_NTZ_OUTPUT_FORMAT")]
        assert settings[-1].endswith("= 'YYYY-MM-DD HH24:MI:SS.FF9'")


def test_a_large_upload_has_several_files(place, tables, monkeypatch):
    monkeypatch.setattr(upload, "_FILE_ROWS", 2)
    monkeypatch.setattr(offline_store, "BATCH_ROWS", 2)
    place.fill("hourly", [("EWR", at(n), START, n, "a") for n in range(5)])
    table = pa.table({"place": ["EWR"] * 5, "time": pa.array([at(n) for n in range(5)], UTC)})
    assert look_up(tables, ["lasting:value"], table)["lasting:value"].to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keys", [[], [None, None]], ids=["no events", "no keys"])
def test_events_that_match_nothing_need_no_rows_of_the_store(place, tables, keys):
    events = pa.table({"size": pa.array(keys, pa.float64()), "time": pa.array([START] * len(keys), UTC)})
    found = look_up(tables, ["measured:number"], events)
    assert found.schema.types == [pa.int64()]
    assert found.column(0).to_pylist() == [None] * len(keys)


def test_nothing_is_left_after_a_failure(place, tables):
    with pytest.raises(FeatureStoreError, match=r"types of the join keys") as failed:
        look_up(tables, ["absent:none"], one(place="EWR"))
    assert not failed.value.retryable
    assert not place.leftovers()


def test_join_keys_that_feasts_sql_would_confuse_pass_through_pandas(place, tables, monkeypatch):
    passed = []
    monkeypatch.setattr(
        offline_store,
        "_by_pandas",
        lambda store, view, events, timestamp: passed.append(events) or pa.table({"measured:number": [1]}),
    )
    look_up(tables, ["measured:number"], one(size=0.5))
    assert [events["size"].to_pylist() for events in passed] == [[0.5]]


def test_a_row_newer_than_its_event_is_refused(place, tables, monkeypatch):
    module = sys.modules[f"airflow_mlops.data.feast.warehouse.{place.kind}"]
    made = module.join_sql
    condition = "<> TIMESTAMP '1970-01-01' OR NULL <>" if place.kind != "snowflake" else "<="
    monkeypatch.setattr(
        module,
        "join_sql",
        lambda *args: (
            made(*args).replace('e."entity_timestamp" >=', f'e."entity_timestamp" {condition}').replace("<=", condition)
        ),
    )
    place.fill("hourly", [("EWR", at(1), START, 1, "a")])
    with pytest.raises(LeakageError):
        look_up(tables, ["lasting:value"], one(place="EWR"))


class _TimeoutError(BaseException):
    pass


@contextmanager
def alarm_when(ready):
    """Raise an error in this thread, as a timeout of Airflow does, when ``ready()`` is true."""

    def ring(*_):
        raise _TimeoutError

    def stop():
        deadline = time.monotonic() + 60
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, ring)
    watch = threading.Thread(target=stop)
    watch.start()
    try:
        yield
    finally:
        watch.join()
        signal.signal(signal.SIGALRM, before)


# fakesnow cannot cancel a query.
@pytest.mark.parametrize("place", [redshift, bigquery], indirect=True, ids=["redshift", "bigquery"])
def test_a_timeout_cancels_the_query_and_deletes_the_events(place, tables, monkeypatch):
    place.fill("hourly", [("EWR", START, START, 1, "a")])
    waiting = threading.Event()
    if place.kind == "bigquery":
        from google.api_core.exceptions import GoogleAPICallError

        from tests.support import warehouses

        def result(job):
            waiting.set()
            assert job.client.cancelled.wait(30)
            raise GoogleAPICallError("cancelled")

        monkeypatch.setattr(warehouses._Job, "result", result)
        ready, view = waiting.is_set, "lasting:value"
    else:
        ready, view = place.sleeps, "slow:never"
    with pytest.raises(_TimeoutError), alarm_when(ready):
        look_up(tables, [view], one(place="EWR"))
    deadline = time.monotonic() + 20
    while place.leftovers() or (place.kind == "redshift" and place.sleeps()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert place.kind != "bigquery" or place.cancelled.is_set()


def test_errors_that_may_pass_are_retried(place, tables, monkeypatch):
    def fail(*_, **__):
        if place.kind == "snowflake":
            from snowflake.connector.errors import OperationalError

            raise OperationalError("the service is busy", sqlstate="08001")
        if place.kind == "bigquery":
            from google.api_core.exceptions import Forbidden

            raise Forbidden("too many tables", errors=[{"reason": "rateLimitExceeded"}])
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "ThrottlingException"}}, "ExecuteStatement")

    module = sys.modules[f"airflow_mlops.data.feast.warehouse.{place.kind}"]
    monkeypatch.setattr(module, "join_sql", fail)
    with pytest.raises(OfflineStoreError) as failed:
        look_up(tables, ["lasting:value"], one(place="EWR"))
    assert failed.value.retryable
    assert not place.leftovers()


def without_json(kind, texts):
    request = SimpleNamespace(features={"many": pa.list_(kind)}, view=SimpleNamespace(name="listed"))
    view = SimpleNamespace(request=request, features={"many": "f0"}, result=["mlops_event", "f0"])
    return query.without_json(pa.record_batch({"mlops_event": range(len(texts)), "f0": texts}), view)["f0"].to_pylist()


def test_the_result_of_a_join_with_lists_as_json_has_lists():
    assert without_json(pa.int64(), ["[1, 2]", None]) == [[1, 2], None]
    # Snowflake writes null in an array as a word.
    words = '["undefined", undefined, "a\\"undefined"]'
    assert without_json(pa.string(), [words]) == [["undefined", None, 'a"undefined']]
    with pytest.raises(FeatureStoreError, match="'many' of feature view 'listed' is declared as a list"):
        without_json(pa.string(), ["1;2"])


@pytest.mark.parametrize("time", [UTC, pa.timestamp("us"), pa.int64()], ids=str)
def test_uploaded_files_have_exact_types(time):
    moments = [datetime(1, 1, 1, tzinfo=timezone.utc), datetime(9999, 12, 31, 23, 59, 59, 999999, timezone.utc), START]
    columns = {
        "mlops_event": pa.array([0, 1, 2]),
        "k0": pa.array([Decimal(2**64 - 1), None, Decimal(0)], pa.decimal128(20, 0)),
        "k1": pa.array([65535, None, 0], pa.uint16()),
        "k2": pa.array([-(2**63), 2**63 - 1, None]),
        "k3": pa.array(["ä", "", None], pa.large_string()),
        "k4": pa.array([date(1, 1, 1), date(9999, 12, 31), None]),
        "k5": pa.array([True, False, None]),
        "event_timestamp": pa.array(moments, UTC),
    }
    batch = pa.record_batch(columns)
    events = Events(batch.schema, iter([batch]), moments[0], moments[1])
    found = [pq.read_table(path) for path, _ in upload.parquet_files(events, time)]
    assert len(found) == 1
    assert found[0].schema.types == [
        pa.int64(), pa.decimal128(20, 0), pa.int64(), pa.int64(), pa.string(), pa.date32(), pa.bool_(), time,
    ]  # fmt: skip
    assert [
        column.cast(columns[name].type).to_pylist() for name, column in zip(columns, found[0].columns, strict=True)
    ] == [column.to_pylist() for column in columns.values()]


def test_what_the_stores_are_asked_to_load(place, tables):
    place.fill("twofold", [])
    look_up(tables, ["twofold:size"], one(place="EWR", number=pa.scalar(1, pa.uint64())))
    if place.kind == "redshift":
        setting, create, copy, _, unload = place.batches[-1]
        assert setting == "SET timezone TO 'UTC'"
        assert create == (
            "CREATE TEMP TABLE mlops_events (mlops_event BIGINT, k0 VARCHAR(65535), k1 DECIMAL(20, 0), event_timestamp TIMESTAMP)"
        )
        assert copy.startswith(f"COPY mlops_events FROM '{place.url}/mlops_events_")
        assert unload.startswith("UNLOAD (")
    elif place.kind == "bigquery":
        table, config = place.loads[-1]
        assert table.schema.types == [pa.int64(), pa.string(), pa.decimal128(20, 0), UTC]
        assert [field.field_type for field in config.schema] == ["INT64", "STRING", "NUMERIC", "TIMESTAMP"]
        assert (config.source_format, config.create_disposition) == ("PARQUET", "CREATE_NEVER")
    else:
        sent = [sql for sql in place.statements if "mlops_events_" in sql]
        kinds = [sql.split()[0] for sql in sent]
        last = len(kinds) - kinds[::-1].index("PUT") - 1
        assert kinds[last : last + 6] == ["PUT", "CREATE", "COPY", "SELECT", "DROP", "DROP"]
        assert '"k1" NUMBER(20, 0), "event_timestamp" TIMESTAMP_NTZ(6))' in sent[last + 1]
        assert "TO_TIMESTAMP_NTZ($1:event_timestamp::NUMBER(38, 0), 6)" in sent[last + 2]


@pytest.mark.parametrize("place", [redshift], indirect=True, ids=["redshift"])
def test_join_keys_that_redshift_would_cut_are_refused(place, tables):
    with pytest.raises(FeatureStoreError, match="'place' of the events has values of 258 bytes"):
        look_up(tables, ["lasting:value"], one(place="ä" * 129))
    assert not place.leftovers()


@pytest.mark.parametrize("place", [redshift], indirect=True, ids=["redshift"])
def test_boolean_join_keys_which_redshift_cannot_cast_are_refused(place, tables):
    # PostgreSQL, which runs the SQL here, can cast them.
    with pytest.raises(FeatureStoreError, match="'place' of feature view 'lasting' is boolean"):
        look_up(tables, ["lasting:value"], one(place=True))
    assert not place.leftovers()


@pytest.mark.parametrize(
    ("kind", "sql"),
    [
        ("", "`at` AS row_time"),
        ("TIMESTAMP", "`at` AS row_time"),
        ("DATE", "TIMESTAMP(`at`, 'UTC') AS row_time"),
        ("DATETIME", "TIMESTAMP(`at`, 'UTC') AS row_time"),
        ("datetime", "TIMESTAMP(`at`, 'UTC') AS row_time"),
    ],
)
def test_times_without_a_time_zone_in_bigquery_are_utc(kind, sql):
    from feast import BigQuerySource, FeatureView
    from google.api_core.exceptions import BadRequest

    source = BigQuerySource(name="s", table="p.d.t", timestamp_field="at", timestamp_field_type=kind)
    request = feast_request.ViewRequest(FeatureView(name="v", source=source), "v", {}, {})
    place = bigquery_warehouse.BigQueryWarehouse(None)
    made = place.view(request)
    assert f"{sql} FROM" in made.view.batch_source.get_table_query_string()
    assert made.view.batch_source.timestamp_field_type == ""
    with pytest.raises(FeatureStoreError, match='set timestamp_field_type="DATETIME"'), place._errors(made):
        raise BadRequest("No matching signature for operator <= for argument types: DATETIME, TIMESTAMP")


@pytest.mark.parametrize("place", [redshift], indirect=True, ids=["redshift"])
def test_files_of_killed_tasks_are_deleted_after_a_week(place, tables):
    bucket, _, prefix = place.url.removeprefix("s3://").partition("/")
    for name in ("mlops_events_20200101T000000_a/events/0.parquet", "mlops_events_other/0.parquet", "else.parquet"):
        place.s3.Bucket(bucket).put_object(Key=f"{prefix}/{name}", Body=b"")
    place.fill("hourly", [])
    look_up(tables, ["lasting:value"], one(place="EWR"))
    assert sorted(key.removeprefix(f"{prefix}/") for key in place.leftovers()) == [
        "else.parquet",
        "mlops_events_other/0.parquet",
    ]
    place.s3.Bucket(bucket).objects.filter(Prefix=prefix).delete()


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "snowflake.connector", None)
    for name in [name for name in sys.modules if name.startswith("feast.infra") and "snowflake" in name]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "feature_store.yaml").write_text(
        FEATURE_STORE + "offline_store: {type: snowflake.offline, database: a}"
    )
    with pytest.raises(FeatureStoreError, match=r"feast\[snowflake\]"):
        feast_repo.open_store(str(tmp_path))


def test_other_stores_are_not_warehouses():
    for kind in ("dask", "duckdb", "trino", "athena", "mssql", "clickhouse", "couchbase.offline", "hybrid"):
        store = SimpleNamespace(config=SimpleNamespace(offline_store=SimpleNamespace(type=kind)))
        assert warehouse.find(store) is None
