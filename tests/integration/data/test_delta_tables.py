"""Delta tables in a folder and in S3 in which a part is replaced: any order of writes, conflicts, types, refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timezone
from decimal import Decimal
from math import inf, isnan, nan

import fsspec
import pyarrow as pa
import pytest

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SpecError, TableError, TableUnavailableError
from airflow_mlops.data.tables.delta import table as delta
from airflow_mlops.data.tables.delta.storage import s3_options
from airflow_mlops.data.tables.delta.table import DeltaTable
from tests.support import object_stores
from tests.support.lake_tables import ROWS, Batches, any_order, in_order, part, replace

deltalake = pytest.importorskip("deltalake")

UTC = pa.timestamp("us", "UTC")
SECRET = "geheim-4711"


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch):
    monkeypatch.setattr(delta, "_PAUSE", 0.001)


@pytest.fixture
def table(tmp_path):
    return DeltaTable(str(tmp_path / "bi ü's 1" / "predictions"))


@pytest.fixture(scope="module")
def in_s3():
    with object_stores.s3() as url:
        endpoint = fsspec.config.conf["s3"]["client_kwargs"]["endpoint_url"]
        info = ConnectionInfo.of(
            "lake", conn_type="aws", login="a", password=SECRET, extra={"endpoint_url": endpoint, "region_name": "eu-central-1"}
        )  # fmt: skip
        yield url, s3_options(info)


def opened(table):
    return deltalake.DeltaTable(table.url, storage_options=table._options)


def content(table):
    rows = opened(table).to_pyarrow_table().to_pylist()
    return in_order(rows)


def beside(function):
    """Run a function in another thread, because deltalake cannot write while its own thread reads rows."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_the_table_is_the_union_of_the_newest_rows_of_each_part(table):
    any_order(table, content, 60, seed=1, compact=lambda: opened(table).optimize.compact())


def test_the_same_in_s3(in_s3):
    url, options = in_s3
    table = DeltaTable(f"{url}/any_order", options)
    any_order(table, content, 8, seed=2, compact=lambda: opened(table).optimize.compact())


def test_tasks_that_write_at_the_same_time(in_s3):
    url, options = in_s3
    both = DeltaTable(f"{url}/same_time", options)
    # The tasks also compete to create the table. Each part is written by two tasks.
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda number: replace(both, [1, 2], month=1 + number // 2), range(6)))
    assert written == [2] * 6
    assert content(both) == [(month, "delays", 1, number) for month in (1, 2, 3) for number in (1, 2)]


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("month", [4, 5])
def test_the_rows_are_written_again_after_a_conflict(table, month, compacted):
    replace(table, [1], month=4)
    replace(table, [2], month=5)
    if compacted:
        opened(table).optimize.compact()
    calls = []

    def other():
        calls.append(1)
        if len(calls) == 1:
            beside(lambda: replace(table, [3, 4], month=month))

    assert replace(table, [7, 8, 9], at_end=other) == 3
    # Writes of different parts conflict only if one file has rows of both.
    assert len(calls) == (2 if month == 4 or compacted else 1)
    kept = [(5, "delays", 1, number) for number in ((2,) if month == 4 else (3, 4))]
    assert content(table) == [*((4, "delays", 1, number) for number in (7, 8, 9)), *kept]


def test_the_number_of_attempts_is_limited(table, monkeypatch):
    monkeypatch.setattr(delta, "ATTEMPTS", 3)
    replace(table, [1])
    calls = []

    def other():
        calls.append(1)
        beside(lambda: DeltaTable(table.url).replace(ROWS, part(), Batches([len(calls)], part())))

    with pytest.raises(TableUnavailableError, match="3 attempts") as caught:
        replace(table, [9], at_end=other)
    assert caught.value.retryable
    assert content(table) == [(4, "delays", 1, 3)]


TYPES = {
    "flag": (pa.bool_(), [True, None], "boolean"), "int": (pa.int64(), [-(2**63), 2**63 - 1], "long"),
    "big": (pa.uint64(), [2**64 - 1, None], "decimal(20,0)"), "double": (pa.float64(), [inf, nan], "double"),
    "money": (pa.decimal128(38, 10), [Decimal("1234567890123456789012345678.0123456789"), None], "decimal(38,10)"),
    "text": (pa.string(), ["Zürich \0 😀", None], "string"), "bytes": (pa.binary(), [b"\xff\0", None], "binary"),
    "day": (pa.date32(), [date(1, 1, 1), date(9999, 12, 31)], "date"),
    "time": (UTC, [datetime(1, 1, 1, tzinfo=timezone.utc), datetime(9999, 12, 31, 23, 59, 59, 999999, timezone.utc)], "timestamp"),
}  # fmt: skip
ALL = pa.schema([("v", pa.int64()), *((name, kind) for name, (kind, _, _) in TYPES.items())])


def all_types():
    return pa.RecordBatch.from_arrays(
        [pa.array([1, 1]), *(pa.array(values, kind) for kind, values, _ in TYPES.values())], schema=ALL
    )


def types(table):
    return {field.name: field.type.type for field in opened(table).schema().fields}


def test_no_value_is_changed(table):
    assert table.replace(ALL, {"v": 1}, [all_types()]) == 2
    assert types(table) == {"v": "long", **{name: kind for name, (_, _, kind) in TYPES.items()}}
    found = opened(table).to_pyarrow_table().to_pydict()
    assert isnan(found["double"].pop())
    assert found.pop("v") == [1, 1]
    assert found == {name: values[:1] if name == "double" else values for name, (_, values, _) in TYPES.items()}
    for name in ("big", "money"):
        # Readers skip files whose statistics exclude a value.
        value = TYPES[name][1][0]
        expression = pa.compute.field(name) == pa.scalar(
            Decimal(value), ALL.field(name).type if name == "money" else pa.decimal128(20, 0)
        )
        assert opened(table).to_pyarrow_dataset().to_table(filter=expression).num_rows == 1


def own(table, fields, **settings):
    deltalake.DeltaTable.create(table.url, deltalake.Schema.from_arrow(pa.schema(fields)), **settings)
    return table


def test_a_table_of_the_user(table):
    twice = pa.field("twice", pa.int64(), metadata={"delta.generationExpression": "version * 2"})
    own(table, [("note", pa.string()), *reversed(list(ROWS)), twice], partition_by=["model"])
    for _ in range(2):
        assert replace(table, [1, 2], model="a/b ü") == 2
    assert replace(table, [3]) == 1
    rows = opened(table).to_pyarrow_table().sort_by("id").to_pylist()
    assert [(row["id"], row["model"], row["note"], row["twice"]) for row in rows] == [
        (1, "a/b ü", None, 2), (2, "a/b ü", None, 2), (3, "delays", None, 2)
    ]  # fmt: skip


def test_decimals_of_a_table_of_the_user_have_no_inexact_statistics(table):
    rows = pa.record_batch({"v": [1], "big": pa.array([2**64 - 1], pa.uint64())})
    fields = [("v", pa.int64()), ("big", pa.decimal128(30, 2))]
    with pytest.raises(TableError, match=r"'big' .* decimal\(30,2\).* delta.dataSkippingStatsColumns"):
        own(table, fields).replace(rows.schema, {"v": 1}, [rows])
    chosen = DeltaTable(f"{table.url}_chosen")
    own(chosen, fields, configuration={"delta.dataSkippingStatsColumns": "`v`"})
    assert chosen.replace(rows.schema, {"v": 1}, [rows]) == 1
    found = opened(chosen).to_pyarrow_dataset().to_table(filter=pa.compute.field("big") > pa.scalar(Decimal(2**64 - 2)))
    assert found["big"].to_pylist() == [Decimal(2**64 - 1)]
    # The statistics of other columns of a rewritten file are written again, too. Small decimals would be written with
    # an exponent.
    for kind in (pa.decimal128(30, 2), pa.decimal128(15, 8)):
        other = own(DeltaTable(f"{table.url}_{kind.scale}"), [*fields[:1], ("other", kind)])
        with pytest.raises(TableError, match="'other' .* delta.dataSkippingStatsColumns"):
            other.replace(rows.schema.remove(1), {"v": 1}, [rows.select(["v"])])
    short = pa.record_batch({"v": [1], "big": pa.array([Decimal("0.1")], pa.decimal128(15, 2))})
    assert DeltaTable(f"{table.url}_short").replace(short.schema, {"v": 1}, [short]) == 1


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (pa.array([1.0, float("inf")]), {}, "'x' contains infinity"),
        (pa.array(["a", ""]), {"partition_by": ["x"]}, "'x', which contains an empty text"),
        (pa.array([Decimal("-1.10"), None]), {"partition_by": ["x"]}, "partitioned by column 'x' of the type decimal"),
    ],
    ids=["infinity", "empty", "decimal"],
)
def test_values_that_would_be_changed_or_hide_other_rows_are_refused(values, settings, message, table):
    rows = pa.record_batch({"v": [1, 1], "x": values})
    own(table, list(rows.schema), **settings)
    with pytest.raises(TableError, match=message):
        table.replace(rows.schema, {"v": 1}, [rows])
    assert opened(table).to_pyarrow_table().num_rows == 0


def test_columns_of_one_name_are_refused(table):
    schema = pa.schema([("v", pa.int64()), ("x", pa.int64()), ("x", pa.string())])
    with pytest.raises(TableError, match="'x' and the column 'x'"):
        table.replace(schema, {"v": 1}, [])


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        (list(ROWS)[:3], {}, "has no column 'version'. Add it with the type long"),
        ([("id", pa.int32()), *list(ROWS)[1:]], {}, "'id' of .* has the type integer"),
        ([("id", pa.string()), *list(ROWS)[1:]], {}, "'id' of .* has the type string"),
        ([("id", pa.list_(pa.int64())), *list(ROWS)[1:]], {}, "'id' of .* has the type array"),
        ([ROWS.field(0), ("window_start", pa.timestamp("us")), *list(ROWS)[2:]], {}, "timestamp_ntz"),
        ([*ROWS, pa.field("owner", pa.string(), nullable=False)], {}, "'owner', which allows no null"),
        (ROWS, {"configuration": {"delta.columnMapping.mode": "name"}}, "column mapping"),
        (ROWS, {"configuration": {"delta.appendOnly": "true"}}, "only appends"),
        (ROWS, {"configuration": {"delta.enableDeletionVectors": "true"}}, "deletion vectors"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_refused(table, fields, settings, message):
    own(table, fields, **settings)
    with pytest.raises(TableError, match=message) as caught:
        replace(table, [1])
    assert not caught.value.retryable


def test_a_constraint_of_the_table_is_respected_and_no_value_is_shown(table):
    replace(table, [1])
    opened(table).alter.add_constraint({"small": "id < 1000"})
    with pytest.raises(TableError, match="was not changed") as caught:
        replace(table, [2, 987654321])
    assert not caught.value.retryable
    assert "987654321" not in str(caught.value)
    assert content(table) == [(4, "delays", 1, 1)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("a", pa.int64()), ("A", pa.int64())], "both the column 'a' and the column 'A'"),
        ([("a b", pa.int64())], "'a b', because Delta allows no ' '"),
        ([("a", pa.list_(pa.int64()))], "'a', because predictions with a column of the type list"),
        ([("a", pa.null())], "'a'"),
        ([("a", pa.decimal128(5, -2))], "'a'"),
    ],
)  # fmt: skip
def test_columns_that_no_table_can_have(table, fields, message):
    with pytest.raises(TableError, match=message):
        table.replace(pa.schema(fields), {"a": 1}, [])


def test_a_store_that_does_not_answer(in_s3):
    _, options = in_s3
    with pytest.raises(TableUnavailableError, match="Delta table 's3://nobody/x' could not be written") as caught:
        replace(DeltaTable("s3://nobody/x", options), [1])
    assert caught.value.retryable
    assert SECRET not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_without_deltalake_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    with pytest.raises(SpecError, match=r"airflow-mlops\[delta\]"):
        DeltaTable("/x")


def test_options_of_a_connection():
    def options(**parts):
        return s3_options(ConnectionInfo.of("lake", **{"conn_type": "aws", **parts}))

    assert options() == {}
    extra = {
        "region_name": "eu-west-1",
        "aws_session_token": "t",
        "service_config": {"s3": {"endpoint_url": "http://h:9000"}},
    }
    assert options(login="a", password=SECRET, extra=extra) == {
        "aws_access_key_id": "a", "aws_secret_access_key": SECRET, "aws_session_token": "t", "aws_region": "eu-west-1",
        "aws_endpoint_url": "http://h:9000", "aws_allow_http": "true",
    }  # fmt: skip
    for wrong in ({"conn_type": "generic"}, {"login": "a"}, {"extra": {"role_arn": "arn:aws:iam::1:role/x"}}):
        with pytest.raises(SpecError, match="'lake'"):
            options(**wrong)
