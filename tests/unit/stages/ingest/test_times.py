"""Ingestion of times: every form is read, nothing wraps around, and an error names the column, the file and the row."""

from __future__ import annotations

import json
import sqlite3
from datetime import date, datetime, timezone

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.databases.queries.alchemy import AlchemyQuery
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.incoming.types import ColumnTypes
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run
from tests.support.int96 import PLACEHOLDER, with_days

UTC = "timestamp[us, tz=UTC]"
MORNING = datetime(2024, 1, 5, 6, 30, tzinfo=timezone.utc)
# One column with every form of the same moment.
FORMS = [
    "2024-01-05 06:30:00+00", "2024-01-05T06:30:00Z", "2024-01-05 06:30", "2024-01-05T07:30:00+01:00", "20240105T063000Z",
    "2024-01-05 12:00:00+0530", "2024-01-05 06:30:00 UTC", *(f"2024-01-05T06:30:00.{'0' * digits}" for digits in range(1, 10)),
]  # fmt: skip


@pytest.fixture
def context(tmp_path):
    return StepContext(ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def ingest(context):
    def ingest(*files, **options):
        spec = parse(IngestSpec, {"name": "raw", "files": [str(file) for file in files], **options}, "The step")
        return open_dataset(context.store, run(spec, context).dataset).table()

    return ingest


def write(path, values):
    if path.suffix == ".csv":
        path.write_text("t,n\n" + "".join(f"{value},{n}\n" for n, value in enumerate(values)))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"t": value, "n": n}) + "\n" for n, value in enumerate(values)))
    else:
        pq.write_table(pa.table({"t": values, "n": range(len(values))}), path)
    return path


@pytest.fixture(params=["csv", "jsonl", "parquet"])
def file(request, tmp_path):
    return tmp_path / f"rows.{request.param}"


def test_every_form_of_text_selects_the_rows_of_the_window_and_is_archived_as_text(file, ingest):
    write(file, [*FORMS, "2024-01-06"])
    found = ingest(file, window="2024-01-05", time_column="t")
    assert found["t"].to_pylist() == FORMS


def test_every_form_of_text_has_the_declared_type(file, ingest):
    write(file, FORMS)
    assert ingest(file, types={"t": UTC})["t"].to_pylist() == [MORNING] * len(FORMS)
    assert ingest(file, types={"t": "timestamp[us]"}, name="b")["t"].to_pylist() == [
        MORNING.replace(tzinfo=None)
    ] * len(FORMS)


def test_declared_times_hold_for_every_block_and_every_file(tmp_path, ingest, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 200)
    for form in ("csv", "jsonl"):
        files = [write(tmp_path / f"{n}.{form}", [*["2024-01-05"] * 20, *FORMS]) for n in (1, 2)]
        found = ingest(*files, types={"t": UTC}, name=form)
        assert found.num_rows == 2 * (20 + len(FORMS))
        assert str(found.schema.field("t").type) == UTC


def test_a_field_that_only_later_lines_have_is_a_declared_time_too(tmp_path, ingest, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 100)
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"n": n}) + "\n" for n in range(50)) + json.dumps({"n": 50, "t": FORMS[0]}) + "\n"
    )
    assert ingest(path, types={"t": UTC})["t"].to_pylist() == [None] * 50 + [MORNING]


def test_digits_below_a_microsecond_are_rounded_down_unless_nanoseconds_are_declared(file, ingest):
    write(file, ["2024-01-05T06:30:00.123456789Z"])
    assert ingest(file, types={"t": UTC})["t"].to_pylist() == [MORNING.replace(microsecond=123456)]
    found = ingest(file, types={"t": "timestamp[ns, tz=UTC]"}, name="b")
    assert found["t"].cast(pa.int64()).to_pylist() == [1_704_436_200_123_456_789]


@pytest.mark.parametrize("value", ["1/5/2024", "2024-02-30", "infinity", "9999-12-31T23:59:59-01"])
@pytest.mark.parametrize("options", [{"types": {"t": UTC}}, {"time_column": "t", "window": "2024-01"}])
def test_other_text_is_an_error_that_names_column_file_and_row(file, ingest, value, options):
    write(file, ["2024-01-05", "2024-01-06", value])
    with pytest.raises(SchemaError, match=rf"'t' of .*{file.name}.*'{value}' in row 3\b"):
        ingest(file, **options)


def test_a_declared_type_that_would_lose_the_time_is_refused(file, ingest):
    write(file, ["2024-01-05", "2024-01-05 06:30"])
    with pytest.raises(SchemaError, match=r"2024-01-05 06:30' in row 2.*date32"):
        ingest(file, types={"t": "date32"})
    write(file, ["2024-01-05", "20240105"])
    assert ingest(file, types={"t": "date32"})["t"].to_pylist() == [date(2024, 1, 5)] * 2


def test_times_without_a_zone_are_local_times_of_the_declared_zone(file, ingest):
    write(file, ["2024-07-01 12:00", "2024-01-01 12:00", "2024-01-01 12:00Z"])
    found = ingest(file, types={"t": "timestamp[us, tz=Europe/Berlin]"})["t"]
    assert [f"{time:%H:%M}" for time in found.cast(pa.timestamp("us", "UTC")).to_pylist()] == [
        "10:00",
        "11:00",
        "12:00",
    ]


def test_the_years_1_to_9999_are_kept(file, ingest):
    times = ["0001-01-01T00:00:00", "1600-02-29T12:00:00", "9999-12-31T23:59:59.999999"]
    write(file, times)
    assert [time.isoformat() for time in ingest(file, types={"t": "timestamp[us]"})["t"].to_pylist()] == times
    assert ingest(file, time_column="t", window="1600-02-29", name="b")["n"].to_pylist() == [1]


def test_int96_keeps_the_years_1_to_9999(tmp_path, ingest):
    times = [datetime(1, 1, 1), datetime(1600, 5, 5, 5, 5, 5, 123456), datetime(2024, 1, 5), datetime(9999, 12, 31)]
    table = pa.table({"t": pa.array(times, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "spark.parquet", use_deprecated_int96_timestamps=True)
    times = [time.replace(tzinfo=timezone.utc) for time in times]
    assert ingest(tmp_path / "spark.parquet")["t"].to_pylist() == times
    found = ingest(tmp_path / "spark.parquet", time_column="t", window="2024-02-01T00:00Z/9999-12-31T23:59Z", name="b")
    assert found["t"].to_pylist() == times[3:]


def test_int96_of_the_year_586500_is_refused_and_not_read_as_2024(tmp_path, ingest):
    table = pa.table({"n": range(7), "t": pa.array([PLACEHOLDER] * 7, pa.timestamp("us"))})
    days = [19_000] * 5 + [213_523_710] + [19_000]
    (tmp_path / "spark.parquet").write_bytes(with_days(table, days, row_group_size=4))
    with pytest.raises(SchemaError, match=r"'t' of .*spark\.parquet .*row 6 .*18448448544000 seconds"):
        ingest(tmp_path / "spark.parquet")
    assert ingest(tmp_path / "spark.parquet", columns=["n"])["n"].to_pylist() == list(range(7))


def test_nanoseconds_as_pandas_makes_them_are_kept_and_select_rows(tmp_path, ingest):
    times = pd.date_range("2024-01-01", "2024-01-03", periods=8)
    pd.DataFrame({"t": times}).to_parquet(tmp_path / "rows.parquet")
    found = ingest(tmp_path / "rows.parquet", time_column="t", window="2024-01-01", types={"t": "timestamp[ns]"})
    assert found["t"].to_pandas().tolist() == [time for time in times if time.day == 1]
    found = ingest(tmp_path / "rows.parquet", time_column="t", window="2024-01-01", name="rounded")
    assert found["t"].to_pylist() == [time for time in times.floor("us").tz_localize("UTC") if time.day == 1]
    found = ingest(tmp_path / "rows.parquet", types={"t": UTC}, name="b")
    assert found["t"].to_pylist() == list(times.floor("us").tz_localize("UTC").to_pydatetime())


@pytest.mark.parametrize(
    ("unit", "number", "moment"),
    [("s", 1_704_436_200, MORNING), ("ms", 1_704_436_200_000, MORNING), ("ns", 1_704_436_200_000_000_000, MORNING)],
)
def test_integers_are_counts_of_the_declared_unit_since_1970(file, ingest, unit, number, moment):
    write(file, [number])
    assert ingest(file, types={"t": f"timestamp[{unit}, tz=UTC]"})["t"].to_pylist() == [moment]


@pytest.mark.parametrize("number", [1_704_436_200_000, 20240105, 2024])
def test_integers_that_are_not_counts_of_the_declared_unit_are_refused(file, ingest, number):
    write(file, [number])
    with pytest.raises(SchemaError, match=rf"'t' of .*{number}.* in row 1\b"):
        ingest(file, types={"t": "timestamp[s, tz=UTC]"})


@pytest.mark.parametrize("kind", ["date32", "date64"])
def test_integers_that_look_like_dates_are_dates_in_every_format(file, kind, ingest):
    write(file, [20240305, 19991231])
    with pytest.raises(
        SchemaError, match="looks like a date, not like a number of units since 1970. Declare it as date32"
    ):
        ingest(file, types={"t": UTC})
    assert ingest(file, types={"t": kind})["t"].to_pylist() == [date(2024, 3, 5), date(1999, 12, 31)]


@pytest.mark.parametrize("kind", ["timestamp[s]", "timestamp[ms]"])
@pytest.mark.parametrize("other", [1_704_436_200, 0])
def test_integers_of_which_only_some_look_like_dates_are_refused(file, kind, other, ingest):
    write(file, [other, 20240305])
    with pytest.raises(SchemaError, match="contains '20240305' in row 2, which looks like a date, but other values"):
        ingest(file, types={"t": kind})
    # Seconds of August 1970 have the form of a date by chance.
    write(file, [20000101, 20000199, 0])
    assert len(ingest(file, types={"t": "timestamp[s]"})["t"]) == 3


@pytest.mark.parametrize("kind", ["date32", "timestamp[s]", "list<item: date32>", "list<item: timestamp[s]>"])
@pytest.mark.parametrize("number", [2024, 20240305])
def test_integers_in_lists_are_read_as_integers_of_a_column(kind, number, tmp_path, ingest):
    nested = kind.startswith("list")
    path = write(tmp_path / "a.parquet", [[number], None] if nested else [number, None])
    if number == 20240305 and "date32" in kind:
        day = date(2024, 3, 5)
        assert ingest(path, types={"t": kind})["t"].to_pylist() == [[day] if nested else day, None]
    else:
        with pytest.raises(
            SchemaError, match=f"contains '{number}' in row 1, which looks like a (date|year), not like a number of"
        ):
            ingest(path, types={"t": kind})


def test_integers_of_a_date_count_days(tmp_path, ingest):
    path = write(tmp_path / "a.parquet", [19787, 2024])
    assert ingest(path, types={"t": "date32"})["t"].to_pylist() == [date(2024, 3, 5), date(1975, 7, 18)]
    with pytest.raises(SchemaError, match="contains '3000000' in row 2, which is after the year 9999"):
        ingest(write(tmp_path / "b.parquet", [1, 3_000_000]), types={"t": "date32"}, name="b")


def test_a_later_window_of_text_has_the_type_of_the_first(tmp_path, ingest):
    path = write(tmp_path / "rows.csv", ["2024-01-05", "2024-02-05 06:30+00"])
    for window in ("2024-01", "2024-02"):
        types = {"types": {"t": UTC}} if window == "2024-01" else {}
        found = ingest(path, time_column="t", window=window, **types)
        assert str(found.schema.field("t").type) == UTC


@pytest.mark.parametrize("declared", [UTC, "timestamp[us]"])
def test_text_and_times_of_sqlalchemy_have_the_declared_type(tmp_path, declared):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE orders (t)")
        database.executemany("INSERT INTO orders VALUES (?)", [(form,) for form in [*FORMS, None]])
    types = ColumnTypes(declared={"t": pa.timestamp("us", "UTC") if "UTC" in declared else pa.timestamp("us")})
    info = ConnectionInfo(conn_id="shop", conn_type="sqlite", host=str(tmp_path / "shop.db"))
    query = AlchemyQuery("SELECT t FROM orders", None, info)
    found = pa.Table.from_batches([types.convert(batch) for batch in query.batches(types)])["t"]
    assert str(found.type) == declared
    assert found.cast(pa.timestamp("us", "UTC")).to_pylist() == [*[MORNING] * len(FORMS), None]
