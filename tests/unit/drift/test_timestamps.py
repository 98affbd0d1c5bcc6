"""Timestamps and dates: changed hours and weekdays are drift, the passing of time is not."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.univariate import compare
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import Profile, merge, profile
from tests.support.columns import HOURS, WEEKDAYS, times, window_rows

INSTANTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(timezone.utc))
UTC = pa.timestamp("us", "UTC")


def of(values: pa.Array, rows: int = 10_000) -> Profile:
    return profile(pa.table({"x": values}).to_batches(max_chunksize=rows) or [pa.record_batch({"x": values})])


def only(reference: pa.Array, current: pa.Array, **policy) -> Drift:
    (found,) = compare(of(reference), of(current), Policy(**{"min_rows": 1, **policy}))
    return found


@given(st.lists(st.one_of(st.none(), INSTANTS), max_size=60), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_rows_are_counted_by_hour_of_the_week_in_utc_for_any_division(values, rows):
    array = pa.array(values, UTC)
    column = of(array, rows).columns["x"]
    known = [value for value in values if value is not None]
    expected = np.zeros(168)
    for value in known:
        expected[value.weekday() * 24 + value.hour] += 1
    assert column.counts == expected.tolist()
    assert (column.rows, column.valid) == (len(values), len(known))
    assert (column.min, column.max) == ((min(known).isoformat(), max(known).isoformat()) if known else (None, None))
    parts = [of(array[:rows]), of(array[rows:])]
    assert merge(parts).columns["x"] == merge(parts[::-1]).columns["x"] == column
    assert Profile.model_validate_json(of(array).model_dump_json()).columns["x"] == column


@pytest.mark.parametrize(
    "kind", [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "Asia/Tokyo")]
)
def test_every_unit_is_read_and_every_zone_is_utc(kind):
    column = of(
        pa.array([datetime(1969, 12, 31, 23, 59, 59, tzinfo=timezone.utc), None], UTC).cast(kind, safe=False)
    ).columns["x"]
    assert (column.min, column.counts[2 * 24 + 23]) == ("1969-12-31T23:59:59+00:00", 1)


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_have_weekdays_and_no_hours(kind):
    column = of(pa.array([date(2013, 4, 1), date(1969, 12, 29), date(2013, 4, 7)], kind)).columns["x"]
    assert (column.kind, column.counts) == ("date", [2, 0, 0, 0, 0, 0, 1])
    assert (column.min, column.max) == ("1969-12-29", "2013-04-07")


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_times_outside_the_calendar_are_counted_and_noted(unit):
    huge = pa.array([2**63 - 1, -(2**63) + 1, 0], pa.int64()).cast(pa.timestamp(unit))
    column = of(huge).columns["x"]
    assert (column.outside, column.valid, column.min) == (2, 1, "1970-01-01T00:00:00+00:00")
    found = only(times(np.random.default_rng(0), 500, "2013-01-01", 90), pa.concat_arrays([huge] * 50))
    assert "100 rows" in found.note
    assert "9999" in found.note
    assert (found.drifted, found.test, found.missing) == (True, "missing", pytest.approx(2 / 3))


def test_a_column_of_another_kind_is_named():
    stamps, dates = pa.array([0], UTC), pa.array([0], pa.date32())
    with pytest.raises(SchemaError, match=r"'x' .*timestamps.* date32\[day\]"):
        profile([pa.record_batch({"x": stamps}), pa.record_batch({"x": dates})])
    with pytest.raises(SchemaError, match="'x' .*timestamp.* date"):
        merge([of(stamps), of(dates)])
    assert only(stamps, dates).note == "not measured: it was timestamp at training and is date now"


@pytest.mark.parametrize(
    ("first", "days"), [("2013-04-01", 1), ("2013-04-07", 1), ("2013-04-05", 3), ("2013-04-01", 30)]
)
def test_a_later_window_of_any_length_has_not_drifted(first, days):
    """A single day, a weekend, and a month with five Mondays and Tuesdays, each with many rows."""
    random = np.random.default_rng(1)
    found = only(times(random, 40_000, "2013-01-01", 90), times(random, 20_000, first, days))
    assert found.p_value > 0.01
    assert found.effect < 0.05


def test_a_window_of_one_hour_cannot_be_compared():
    random = np.random.default_rng(1)
    hour = pa.array(random.integers(0, 3_600, 300) + 1_365_000_000 // 3_600 * 3_600, pa.timestamp("s"))
    found = only(times(random, 5_000, "2013-01-01", 90), hour)
    assert (found.tests, found.p_value, found.drifted) == (0, 1.0, False)


def test_changed_hours_and_weekdays_are_found():
    random = np.random.default_rng(2)
    reference = times(random, 10_000, "2013-01-01", 90)
    later = only(reference, times(random, 1_000, "2013-04-01", 7, hours=np.roll(HOURS, 2)))
    assert (later.drifted, later.test) == (True, "hour")
    assert later.effect == pytest.approx(np.abs(HOURS - np.roll(HOURS, 2)).sum() / 2 / HOURS.sum(), abs=0.04)
    flipped = only(reference, times(random, 1_000, "2013-04-01", 28, weekdays=WEEKDAYS[::-1]))
    assert (flipped.drifted, flipped.test) == (True, "weekday")
    dates = only(
        reference.cast(pa.date32()), times(random, 1_000, "2013-04-01", 28, weekdays=WEEKDAYS[::-1]).cast(pa.date32())
    )
    assert (dates.drifted, dates.test, dates.p_values["weekday"]) == (
        True,
        "weekday",
        pytest.approx(flipped.p_values["weekday"], rel=2),
    )
    assert "hour" not in dates.p_values


def test_for_equal_time_spans_the_tests_are_pearsons():
    random = np.random.default_rng(3)
    first, second = (times(random, rows, start, 28) for rows, start in ((30_000, "2013-01-07"), (20_000, "2013-02-04")))
    found = only(first, second)
    for name, part in (("hour", "hour"), ("weekday", "day_of_week")):
        values = [getattr(pa.compute, part)(array).to_numpy() for array in (first, second)]
        table = np.stack([np.bincount(item) for item in values])
        assert found.p_values[name] == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, abs=1e-9)
    assert [item.label for item in found.bins][:2] == ["00:00", "01:00"]
    assert [item.label for item in found.bins][-7:-5] == ["Monday", "Tuesday"]
    assert sum(item.current for item in found.bins) == pytest.approx(2)


@pytest.mark.parametrize("values", [[], [0], [None] * 80, [0] * 80, [0, 2**62] * 40])
def test_any_window_gets_a_finding(values):
    current = pa.array(values, pa.timestamp("ns", "UTC"))
    found = only(times(np.random.default_rng(0), 500, "2013-01-01", 90), current, min_rows=50)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    if len(values) < 50:
        assert found.note.startswith(f"not measured: {counted(len(values), 'row')}, 50 ")
    elif values[0] is None:
        assert (found.note, found.drifted, found.test) == ("no row has a value", True, "missing")
    else:
        assert 0 <= found.effect <= 1


def test_the_false_alarm_rate_holds():
    """90 windows of one day to a month, each tested on its own at 5%."""
    random = np.random.default_rng(4)
    alarms = 0
    for number in range(90):
        if number % 15 == 0:
            reference = of(times(random, 8_000, "2013-01-01", 90))
        first = str(np.datetime64("2013-04-01") + number)
        window = of(times(random, window_rows(random), first, (1, 3, 7, 10, 31)[number % 5]))
        (found,) = compare(reference, window, Policy(min_effect=0))
        alarms += found.p_value <= 0.05
    assert stats.binom.sf(alarms - 1, 90, 0.05) > 1e-3


def test_timestamps_in_the_future_are_allowed():
    far = datetime(9999, 12, 31, 23, tzinfo=timezone.utc)
    column = of(pa.array([far, far - timedelta(days=700_000)], UTC)).columns["x"]
    assert column.max == far.isoformat()
