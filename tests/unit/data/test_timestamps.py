"""Columns of points in time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.timestamps import UTC, as_utc

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


@pytest.mark.parametrize("values", [pa.array(["noon"]), pa.array([1])])
def test_other_values_are_refused(values):
    with pytest.raises(SchemaError, match="The time of flights"):
        as_utc(values, "The time of flights")
