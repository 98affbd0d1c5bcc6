"""The calendar spans of the training data in which a numeric column is constant."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.profiles.spans import constant_shares, span_of


def hourly(days: int, start: str = "2013-01-01") -> np.ndarray:
    return np.datetime64(start, "us") + np.arange(24 * 4 * days) * np.timedelta64(15, "m")


def table(times: np.ndarray, **columns) -> pa.Table:
    return pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), **columns})


@pytest.mark.parametrize("rows", [7, 1_000, 100_000])
def test_the_shares_do_not_depend_on_batches(rows):
    times = hourly(365)
    day = (times - times[0]).astype("timedelta64[D]").astype(int)
    data = table(
        times, day=day, holiday=(day == 100).astype(float), noise=np.random.default_rng(0).normal(size=len(day))
    )
    batches = data.slice(0, 2_000).to_batches(rows) + data.slice(2_000).to_batches(100_000)
    found = constant_shares(batches, "at")
    assert found["day"] == {"hour": 1.0, "day": 1.0, "week": 0.0, "month": 0.0, "year": 0.0}
    assert found["holiday"]["month"] == pytest.approx(11 / 12)
    assert set(found["noise"].values()) == {0.0}


def test_days_are_counted_in_the_zone_of_the_data_also_when_the_clocks_change():
    times = hourly(300)
    local = (times - np.timedelta64(5, "h")).astype("datetime64[D]").astype(int)
    data = table(times, day=local).to_batches()
    assert constant_shares(data, "at", "-05:00")["day"]["day"] == 1.0
    assert constant_shares(data, "at")["day"]["day"] < 0.01
    assert constant_shares(data, "at", "America/New_York")["day"]["hour"] == 1.0


def test_missing_values_and_short_parts_of_a_span_do_not_count():
    times = np.concatenate(
        [hourly(31, "2013-01-01"), hourly(28, "2013-02-01"), [np.datetime64("2013-03-01", "us")] * 2]
    )
    values = np.arange(len(times), dtype=float)
    values[-2:] = 5
    found = constant_shares(table(times, x=values, empty=np.full(len(times), np.nan)).to_batches(), "at")
    assert found.keys() == {"x"}
    assert (found["x"]["month"], found["x"]["week"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("length", "span"),
    [
        (timedelta(minutes=5), "hour"), (timedelta(hours=1), "hour"), (timedelta(hours=6), "day"),
        (timedelta(hours=25), "day"), (timedelta(days=7), "week"), (timedelta(days=28), "month"),
        (timedelta(days=31, hours=1), "month"), (timedelta(days=92), "year"), (timedelta(days=3_000), "year"),
    ],
)  # fmt: skip
def test_the_span_is_at_least_as_long_as_the_window(length, span):
    assert span_of(length) == span
