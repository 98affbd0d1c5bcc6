"""Columns of points in time."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.moments import parse_instant
from airflow_mlops.data.moments import UTC, as_type, as_utc, ranks

NOON = datetime(2013, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([NOON], pa.timestamp("s", "UTC")),
        pa.array([NOON], pa.timestamp("us", "Asia/Tokyo")),
        pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")),
        pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")),
        pa.array(["2013-01-01T12:00:00Z"]),
        pa.array(["2013-01-01 12:00"], pa.large_string()),
        pa.array(["2013-01-01T21:00:00+09:00"]),
    ],
)
def test_all_kinds_of_time_become_utc_with_microseconds(values):
    for column in (values, pa.chunked_array([values])):
        found = as_utc(column, "The time")
        assert found.type == UTC
        assert found.to_pylist() == [NOON]


def test_a_date_is_its_first_moment():
    assert as_utc(pa.array([NOON.date()]), "The time").to_pylist() == [NOON - timedelta(hours=12)]


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_nanoseconds_are_rounded_down_or_up(zone):
    values = pa.array([1001, 1000, -1, -1000, None], pa.int64()).cast(pa.timestamp("ns", zone))
    assert as_utc(values, "The time").cast(pa.int64()).to_pylist() == [1, 1, -1, -1, None]
    assert as_utc(values, "The time", round_up=True).cast(pa.int64()).to_pylist() == [2, 1, 0, -1, None]


def test_values_with_and_without_a_zone_and_of_any_form_may_be_mixed():
    texts = [
        "2024-03-05",
        "2024-03-05 06:30:00+00",
        "2024-03-05T06:30:00.5",
        None,
        "20240305T0630",
        "2024-03-05 12:00+0530",
    ]
    found = as_utc(pa.array(texts), "The time").to_pylist()
    midnight, morning = datetime(2024, 3, 5, tzinfo=timezone.utc), datetime(2024, 3, 5, 6, 30, tzinfo=timezone.utc)
    assert found == [midnight, morning, morning + timedelta(seconds=0.5), None, morning, morning]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_all_kinds_of_text_are_read(kind):
    assert as_utc(pa.array(["2013-01-01T12", None]).cast(kind), "The time").to_pylist() == [NOON, None]


_MICROS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
_OFFSETS = st.sampled_from(["", "Z", "+00", "-0330", "+05:45", " UTC", " -0330"])


@given(st.lists(st.tuples(st.datetimes(), st.integers(0, 10**9 - 1), st.integers(0, 9), _OFFSETS), max_size=5))
def test_arrow_and_python_read_the_same_from_text(parts):
    texts = []
    for moment, fraction, digits, offset in parts:
        text = moment.isoformat("T", "seconds") + (f".{fraction:09}"[: digits + 1] if digits else "") + offset
        if 1 < moment.year < 9999:
            texts.append(text)
    expected = [parse_instant(text) for text in texts]
    # The second column has a value that only Python reads.
    for column in (texts, [*texts, "2024-W10-2"]):
        array = pa.array(column, pa.string())
        down = as_utc(array, "The time").cast(pa.int64()).to_pylist()
        up = as_utc(array, "The time", round_up=True).cast(pa.int64()).to_pylist()
        assert down[: len(texts)] == [item.micros for item in expected]
        assert up[: len(texts)] == [item.micros + (item.nanos > 0) for item in expected]


@given(st.lists(_MICROS, max_size=5), st.sampled_from(["s", "ms", "us"]), st.sampled_from([None, "UTC", "Asia/Tokyo"]))
def test_every_moment_of_the_years_1_to_9999_is_kept_in_every_unit(micros, unit, zone):
    per_tick = {"s": 1_000_000, "ms": 1_000, "us": 1}[unit]
    ticks = pa.array([value // per_tick for value in micros], pa.int64()).cast(pa.timestamp(unit, zone))
    found = as_utc(ticks, "The time")
    assert found.cast(pa.int64()).to_pylist() == [value // per_tick * per_tick for value in micros]
    assert as_type(found, ticks.type, "The time").equals(ticks)


def test_timestamps_as_pandas_makes_them():
    times = pd.date_range("1970-01-01", "2024-01-01", periods=8)
    assert (times.as_unit("us") != times).any()
    assert as_utc(pa.array(times), "The time").to_pylist() == list(times.floor("us").tz_localize("UTC").to_pydatetime())


@pytest.mark.parametrize("ticks", [-(2**63), 2**63 - 1])
def test_rounding_does_not_wrap_around(ticks):
    values = pa.array([ticks], pa.int64()).cast(pa.timestamp("ns"))
    assert as_utc(values, "The time").cast(pa.int64()).to_pylist() == [ticks // 1000]
    assert as_utc(values, "The time", round_up=True).cast(pa.int64()).to_pylist() == [ticks // 1000 + 1]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([None, "noon"]),
        pa.array([None, "9/30/2024"]),
        pa.array([None, "9999-12-31T23:59:59-05"]),
        pa.array([None, "0000-01-01"]),
        pa.array([None, 2**62], pa.int64()).cast(pa.timestamp("s")),
        pa.array([None, -(2**62)], pa.int64()).cast(pa.timestamp("us", "UTC")),
        pa.array([None, 2**31 - 1], pa.int32()).cast(pa.date32()),
    ],
)
def test_a_value_that_is_not_a_time_is_an_error_that_names_its_row(values):
    for column in (values, pa.chunked_array([values.slice(0, 1), values.slice(1)])):
        with pytest.raises(SchemaError, match=r"The time of flights .*row 12\b"):
            as_utc(column, "The time of flights", first_row=10)


@pytest.mark.parametrize("values", [pa.array([1]), pa.array([1.5]), pa.array([b"x"]), pa.array([True])])
def test_other_types_are_refused(values):
    with pytest.raises(SchemaError, match="The time of flights"):
        as_utc(values, "The time of flights")


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.date32(), pa.date64(), UTC])
def test_no_rows_and_nulls_have_no_moment(kind):
    for values in (pa.array([], pa.string()), pa.array([None, None], pa.string()), pa.nulls(2)):
        assert as_type(values, kind, "The time").equals(pa.nulls(len(values), kind))


def test_nanoseconds_are_kept_in_nanoseconds():
    values = pa.array(["1600-01-01T00:00:00.123456789Z", "2024-03-05T06:30:00.123456789Z"])
    found = as_type(values.slice(1), pa.timestamp("ns", "UTC"), "The time")
    assert found.cast(pa.int64()).to_pylist() == [1_709_620_200_123_456_789]
    with pytest.raises(SchemaError, match=r"1600.*timestamp\[us\]"):
        as_type(values, pa.timestamp("ns", "UTC"), "The time")


def test_a_type_that_would_lose_something_is_refused():
    values = pa.array(["2024-03-05T06:30:00.5Z"])
    for kind in (pa.timestamp("s"), pa.date32()):
        with pytest.raises(SchemaError, match="would lose"):
            as_type(values, kind, "The time")
    assert as_type(pa.array(["2024-03-05 00:00:00"]), pa.date32(), "The time").to_pylist() == [date(2024, 3, 5)]


def test_values_without_a_zone_are_local_times_of_a_declared_zone():
    texts = ["2024-07-01 12:00", "2024-01-01 12:00", "2024-01-01 12:00Z", "2024-10-27 02:30", None]
    utc = ["2024-07-01T10:00Z", "2024-01-01T11:00Z", "2024-01-01T12:00Z", "2024-10-27T00:30Z", None]
    found = as_type(pa.array(texts), pa.timestamp("us", "Europe/Berlin"), "The time")
    assert found.cast(UTC).equals(as_utc(pa.array(utc), "The time"))
    naive = as_type(pa.array(texts[:1]), pa.timestamp("us"), "The time")
    assert as_type(naive, pa.timestamp("us", "Europe/Berlin"), "The time").equals(found.slice(0, 1))
    with pytest.raises(SchemaError, match="summer time begins"):
        as_type(pa.array(["2024-03-31 02:30"]), pa.timestamp("us", "Europe/Berlin"), "The time")
    with pytest.raises(SchemaError, match="Europe/Atlantis"):
        as_type(naive, pa.timestamp("us", "Europe/Atlantis"), "The time")


def test_equal_times_have_the_same_rank_and_nulls_come_first():
    texts = pa.chunked_array([["2024-01-02", None], ["2024-01-02T00:00:00.000000001Z", "2024-01-01T23:00:00-01:00"]])
    assert ranks(texts, "it").to_pylist() == [1, 0, 2, 1]
    stamps = pa.array([3, 1, None, 3], pa.timestamp("ns"))
    assert ranks(stamps, "it").to_pylist() == [2, 1, 0, 2]
    with pytest.raises(SchemaError, match="^it contains '10'"):
        ranks(pa.array(["2024-01-02", "10"]), "it")
