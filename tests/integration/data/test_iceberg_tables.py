"""Iceberg tables in a SQL catalog in which a part is replaced: any order of writes, conflicts, types, refusals."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timezone
from decimal import Decimal
from math import inf, isnan, nan

import fsspec
import pyarrow as pa
import pytest

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SpecError, TableError, TableUnavailableError
from airflow_mlops.data.tables.iceberg import table as iceberg
from airflow_mlops.data.tables.iceberg.catalog import properties
from airflow_mlops.data.tables.iceberg.table import IcebergTable
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support import object_stores
from tests.support.deployed import flights, promote, scoring_set
from tests.support.lake_tables import any_order, in_order, replace

pyiceberg_catalog = pytest.importorskip("pyiceberg.catalog")
schemas = pytest.importorskip("pyiceberg.schema")
kinds = pytest.importorskip("pyiceberg.types")
SqlCatalog = pytest.importorskip("pyiceberg.catalog.sql").SqlCatalog
CommitFailedException = pytest.importorskip("pyiceberg.exceptions").CommitFailedException

UTC = pa.timestamp("us", "UTC")
SECRET = "geheim-4711"


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch):
    monkeypatch.setattr(iceberg, "_PAUSE", 0.001)


@pytest.fixture
def catalog(tmp_path):
    """Properties of a catalog with the namespace ``sales``."""
    found = {
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/catalog.db",
        "warehouse": f"file://{tmp_path}/warehouse",
    }
    pyiceberg_catalog.load_catalog("lake", **found).create_namespace("sales")
    return found


@pytest.fixture
def table(catalog):
    return IcebergTable("sales.predictions", "lake", catalog)


def opened(table):
    return table._load_catalog().load_table(table.name)


def content(table):
    rows = opened(table).scan().to_arrow().to_pylist()
    return in_order(rows)


def own(table, *fields, **settings):
    """Create the table as a user would, with columns of ``(name, type, required)``."""
    columns = [kinds.NestedField(n, *field) for n, field in enumerate(fields, 1)]
    return table._load_catalog().create_table(table.name, schemas.Schema(*columns), **settings)


def test_the_table_is_the_union_of_the_newest_rows_of_each_part(table):
    any_order(table, content, 25, seed=1)


def test_rows_of_other_parts_in_the_same_file_are_kept(table):
    replace(table, [1], month=4)
    replace(table, [2], month=5)
    # A compaction writes the rows of both months into one file.
    opened(table).overwrite(opened(table).scan().to_arrow())
    assert replace(table, [3, 4], month=5) == 2
    assert content(table) == [(4, "delays", 1, 1), (5, "delays", 1, 3), (5, "delays", 1, 4)]


def test_tasks_that_write_at_the_same_time(table):
    # The tasks also compete to create the table. Each part is written by two tasks.
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda number: replace(table, [1, 2], month=1 + number // 2), range(6)))
    assert written == [2] * 6
    assert content(table) == [(month, "delays", 1, number) for month in (1, 2, 3) for number in (1, 2)]


@pytest.mark.parametrize("month", [4, 5])
@pytest.mark.parametrize("exists", [True, False])
def test_the_rows_are_written_again_after_a_conflict(table, exists, month):
    replace(table, [], month=6)
    if exists:
        replace(table, [1], month=4)
        replace(table, [2], month=5)
    calls = []

    def other():
        calls.append(1)
        if len(calls) == 1:
            replace(table, [3, 4], month=month)

    assert replace(table, [7, 8, 9], at_end=other) == 3
    # PyIceberg commits again by itself if the other writer has changed other rows.
    assert len(calls) == (2 if month == 4 else 1)
    kept = {(True, 4): (2,), (False, 4): (), (True, 5): (3, 4), (False, 5): (3, 4)}[exists, month]
    assert content(table) == [
        *((4, "delays", 1, number) for number in (7, 8, 9)),
        *((5, "delays", 1, number) for number in kept),
    ]


def test_the_number_of_attempts_is_limited(table, monkeypatch):
    monkeypatch.setattr(iceberg, "ATTEMPTS", 3)
    replace(table, [1])
    calls = []

    def other():
        calls.append(1)
        replace(table, [len(calls)])

    with pytest.raises(TableUnavailableError, match="3 attempts") as caught:
        replace(table, [9], at_end=other)
    assert caught.value.retryable
    assert content(table) == [(4, "delays", 1, 3)]


def test_a_commit_that_is_reported_as_a_conflict_although_it_was_made(table, monkeypatch):
    replace(table, [1], month=5)
    calls = []
    commit = SqlCatalog.commit_table

    def repeated(self, *arguments):
        commit(self, *arguments)
        calls.append(1)
        # Simulates a client library that repeated a request because the response was lost.
        raise CommitFailedException("The table has been changed.")

    with monkeypatch.context() as patched:
        patched.setattr(SqlCatalog, "commit_table", repeated)
        assert replace(table, [2, 3]) == 2
    assert len(calls) == 1
    assert replace(table, [4]) == 1
    assert content(table) == [(4, "delays", 1, 4), (5, "delays", 1, 1)]


TYPES = {
    "flag": (pa.bool_(), [True, None], "boolean"), "int": (pa.int64(), [-(2**63), 2**63 - 1], "long"),
    "big": (pa.uint64(), [2**64 - 1, None], "decimal(20, 0)"), "double": (pa.float64(), [inf, nan], "double"),
    "money": (pa.decimal128(38, 10), [Decimal("1234567890123456789012345678.0123456789"), None], "decimal(38, 10)"),
    "text a.b": (pa.string(), ["Zürich \0 😀", None], "string"), "bytes": (pa.binary(), [b"\xff\0", None], "binary"),
    "day": (pa.date32(), [date(1, 1, 1), date(9999, 12, 31)], "date"),
    "time": (UTC, [datetime(1, 1, 1, tzinfo=timezone.utc), datetime(9999, 12, 31, 23, 59, 59, 999999, timezone.utc)], "timestamptz"),
}  # fmt: skip
ALL = pa.schema([("v", pa.int64()), *((name, kind) for name, (kind, _, _) in TYPES.items())])


def test_no_value_is_changed(table):
    columns = [pa.array([1, 1]), *(pa.array(values, kind) for kind, values, _ in TYPES.values())]
    assert table.replace(ALL, {"v": 1}, [pa.RecordBatch.from_arrays(columns, schema=ALL)]) == 2
    types = {field.name: str(field.field_type) for field in opened(table).schema().fields}
    assert types == {"v": "long", **{name: kind for name, (_, _, kind) in TYPES.items()}}
    found = opened(table).scan().to_arrow().to_pydict()
    assert isnan(found["double"].pop())
    assert found.pop("v") == [1, 1]
    assert found == {name: values[:1] if name == "double" else values for name, (_, values, _) in TYPES.items()}
    # Readers skip files whose statistics exclude a value.
    for condition in (f"big = {2**64 - 1}", "double > 99999999999.0", "int < -1"):
        assert opened(table).scan(condition).to_arrow().num_rows == 1


def test_a_table_of_the_user(table):
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.transforms import IdentityTransform

    own(
        table,
        ("note", kinds.StringType(), False), ("version", kinds.LongType(), True), ("model", kinds.StringType(), False),
        ("window_start", kinds.TimestamptzType(), False), ("id", kinds.LongType(), True),
        partition_spec=PartitionSpec(PartitionField(3, 1000, IdentityTransform(), "model")),
    )  # fmt: skip
    for _ in range(2):
        assert replace(table, [1, 2], model="a/b ü") == 2
    assert replace(table, [3]) == 1
    with pytest.raises(TableError, match="no null in column 'id'"):
        replace(table, [4, None])
    rows = sorted(opened(table).scan().to_arrow().to_pylist(), key=lambda row: row["id"])
    assert [(row["id"], row["model"], row["note"]) for row in rows] == [
        (1, "a/b ü", None), (2, "a/b ü", None), (3, "delays", None)
    ]  # fmt: skip


def test_a_partition_by_numbers_holds_each_row_once_and_no_nan(table):
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.transforms import IdentityTransform

    fields = ("v", kinds.LongType(), False), ("x", kinds.DoubleType(), False)
    own(table, *fields, partition_spec=PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "x")))
    schema = pa.schema([("v", pa.int64()), ("x", pa.float64())])

    def written(*values):
        batch = pa.RecordBatch.from_arrays([pa.array([1] * len(values)), pa.array(values, pa.float64())], schema=schema)
        return table.replace(schema, {"v": 1}, [batch])

    numbers = [-inf, 0.0, 0.0, 1.5, inf, None]
    assert written(inf, 0.0, -0.0, None, 1.5, -inf) == 6
    for _ in range(2):
        found = opened(table).scan().to_arrow()["x"].to_pylist()
        assert sorted(found, key=lambda x: (x is None, x or 0.0)) == numbers
        with pytest.raises(TableError, match="by column 'x', but a row has NaN") as caught:
            written(1.5, nan)
        assert not caught.value.retryable


def test_a_partition_by_days(table):
    pytest.importorskip("pyiceberg_core")
    replace(table, [1])
    with opened(table).update_spec() as partitions:
        partitions.add_field("window_start", "day")
    assert replace(table, [2, 3]) == 2
    assert replace(table, [4], month=5) == 1
    assert content(table) == [(4, "delays", 1, 2), (4, "delays", 1, 3), (5, "delays", 1, 4)]


LONG = ("id", kinds.LongType(), False)
REST = (
    ("window_start", kinds.TimestamptzType(), False),
    ("model", kinds.StringType(), False),
    ("version", kinds.LongType(), False),
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([LONG, *REST[:2]], "has no column 'version'. Add it with the type long"),
        ([("id", kinds.IntegerType(), False), *REST], "'id' of .* has the type int"),
        ([LONG, ("window_start", kinds.TimestampType(), False), *REST[1:]], "has the type timestamp, .* timestamptz"),
        ([LONG, *REST, ("owner", kinds.StringType(), True)], "'owner', which allows no null"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, fields, message):
    own(table, *fields)
    with pytest.raises(TableError, match=message) as caught:
        replace(table, [1])
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("a", pa.int64()), ("A", pa.int64())], "both the column 'a' and the column 'A'"),
        ([("a", pa.list_(pa.int64()))], "'a', because predictions with a column of the type list"),
    ],
)
def test_columns_that_no_table_can_have(table, fields, message):
    with pytest.raises(TableError, match=message):
        table.replace(pa.schema(fields), {"a": 1}, [])


def test_a_catalog_that_does_not_answer_and_a_namespace_that_does_not_exist(catalog):
    with pytest.raises(TableError, match="there is no namespace 'nobody'"):
        replace(IcebergTable("nobody.x", "lake", catalog), [1])
    gone = {"type": "rest", "uri": f"http://me:{SECRET}@127.0.0.1:9"}
    with pytest.raises(TableUnavailableError, match="'sales.x' of connection 'lake' could not be written") as caught:
        replace(IcebergTable("sales.x", "lake", gone), [1])
    assert caught.value.retryable
    assert SECRET not in str(caught.value)


def test_without_pyiceberg_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyiceberg", None)
    with pytest.raises(SpecError, match=r"airflow-mlops\[iceberg\]"):
        IcebergTable("a.b", "lake", {})


def test_a_package_for_the_partitions_of_a_table_is_named(table, monkeypatch):
    replace(table, [1])
    with opened(table).update_spec() as partitions:
        partitions.add_field("window_start", "day")
    monkeypatch.setitem(__import__("sys").modules, "pyiceberg_core", None)
    with pytest.raises(SpecError, match="pyiceberg.core"):
        replace(table, [1, 2])
    assert content(table) == [(4, "delays", 1, 1)]


def test_properties_of_a_connection():
    def found(**parts):
        return properties(ConnectionInfo.of("lake", **{"conn_type": "iceberg", **parts}))

    assert found(host="https://h/ws/", login="a", password=SECRET, extra={"warehouse": "w", "ssl": True, "n": 3}) == {
        "type": "rest", "uri": "https://h/ws", "credential": f"a:{SECRET}", "warehouse": "w", "ssl": "true", "n": "3",
    }  # fmt: skip
    assert found(extra={"type": "glue"}) == {"type": "glue"}
    for wrong in ({"conn_type": "aws"}, {"login": "a"}, {"extra": {"s3": {"region": "x"}}}):
        with pytest.raises(SpecError, match="'lake'"):
            found(**wrong)


def test_scoring_writes_into_a_table_in_s3(client, store, tmp_path, monkeypatch, caplog):
    champion = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")
    with object_stores.s3() as url:
        extra = {
            "type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": url,
            "s3.endpoint": fsspec.config.conf["s3"]["client_kwargs"]["endpoint_url"], "s3.region": "eu-central-1",
            "s3.access-key-id": "a", "s3.secret-access-key": SECRET,
        }  # fmt: skip
        monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps({"conn_type": "iceberg", "extra": extra}))
        catalog = pyiceberg_catalog.load_catalog("lake", **extra)
        catalog.create_namespace("sales")
        target = {"iceberg": "sales.predictions", "conn_id": "lake"}
        rows = scoring_set(store, flights(20), "2013-04")
        for _ in range(2):
            spec = ScoreSpec.model_validate({"model": champion.model, "dataset": rows, "write_to": target})
            result = score.run(spec, StepContext(store=store))
        assert result.written_to.model_dump() == {**target, "rows": 20}
        assert "Iceberg table 'sales.predictions'" in result.summary
        found = catalog.load_table("sales.predictions").scan().to_arrow()
    assert found.num_rows == 20
    assert set(found["dataset_id"].to_pylist()) == {result.dataset.id}
    assert SECRET not in result.model_dump_json() + caplog.text
