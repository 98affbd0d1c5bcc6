"""Earlier windows as reference: the choice of windows, their combined profile, and the false-alarm rate."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.core.base import parse
from airflow_mlops.core.durations import subtract_period
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.drift import earlier_windows
from airflow_mlops.drift import univariate as drift
from airflow_mlops.drift.earlier_windows import WindowProfile
from airflow_mlops.drift.reference import Reference
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import Profile, profile

ORIGIN = datetime(2013, 1, 1, tzinfo=timezone.utc)


def window(text: str) -> Window:
    return Window.model_validate(text)


def hours(start: int, length: int) -> Window:
    return Window(start=ORIGIN + timedelta(hours=start), end=ORIGIN + timedelta(hours=start + length))


WINDOWS = st.builds(hours, st.integers(0, 60), st.integers(1, 12))


@given(st.lists(WINDOWS, max_size=20), WINDOWS, st.integers(1, 5))
def test_rolling_takes_the_last_windows_before_that_do_not_overlap(known, checked, count):
    chosen = earlier_windows.choose(Reference(rolling=count), checked, known)
    assert len(chosen) <= count
    assert set(chosen) <= set(known)
    edges = [moment for item in chosen for moment in (item.start, item.end)] + [checked.start]
    assert edges == sorted(edges)
    # A window is left out only if it is not earlier, overlaps a chosen one, or enough later ones were chosen.
    for item in set(known) - set(chosen):
        assert (
            item.end > checked.start
            or any(item.overlaps(taken) for taken in chosen)
            or (len(chosen) == count and item.end <= chosen[0].end)
        )


@given(st.lists(WINDOWS, max_size=20), WINDOWS, st.integers(1, 5), st.randoms())
def test_late_and_repeated_checks_choose_the_same_windows(known, checked, count, random):
    for asked in (Reference(rolling=count), Reference(season="PT12H")):
        in_time = earlier_windows.choose(asked, checked, [item for item in known if item.end <= checked.start])
        shuffled = [*known, checked]
        random.shuffle(shuffled)
        assert earlier_windows.choose(asked, checked, shuffled) == in_time


@pytest.mark.parametrize(
    ("checked", "period", "expected"),
    [
        ("2013-12", "P1Y", "2012-12"),
        ("2013-03", "P1M", "2013-02"),
        ("2016-02", "P1Y", "2015-02"),
        ("2017-02", "P1Y", "2016-02"),
        ("2013", "P1Y", "2012"),
        ("2013-12-24", "P52W", "2012-12-25"),
        ("2013-05-13", "P7D", "2013-05-06"),
        ("2013-05-13T06", "P1D", "2013-05-12T06"),
        ("2013-05-13T06", "PT24H", "2013-05-12T06"),
        ("2013-01", "P1Y2M", "2011-11"),
        ("2016-02-29", "P1Y", "2015-02-28"),
        ("2016-02-28", "P1Y", "2015-02-28"),
        ("2013-03-28", "P1M", "2013-02-28"),
        ("2013-03-31", "P1M", "2013-02-28"),
        ("2013-05-13T10:00:00Z/2013-05-13T10:30:00Z", "P7D", "2013-05-06T10:00:00Z/2013-05-06T10:30:00Z"),
    ],
)
def test_a_season_is_the_window_a_calendar_period_earlier(checked, period, expected):
    others = [window("2011-01-03"), window("2013-04"), window(checked)]
    assert earlier_windows.choose(Reference(season=period), window(checked), [*others, window(expected)]) == [
        window(expected)
    ]
    assert earlier_windows.choose(Reference(season=period), window(checked), others) == []


@given(st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)), st.integers(1, 60))
def test_whole_months_are_shifted_to_whole_months(moment, months):
    start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=timezone.utc)
    found = earlier_windows.seasonal(window(f"{start:%Y-%m}"), f"P{months}M")
    assert found == window(f"{found.start:%Y-%m}")
    assert (start.year - found.start.year) * 12 + start.month - found.start.month == months
    assert subtract_period(start, f"P{months}M") == found.start


def test_a_season_shorter_than_the_window_is_refused():
    with pytest.raises(SpecError, match="P7D.*2013-04"):
        earlier_windows.choose(Reference(season="P7D"), window("2013-04"), [])


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("training", "training"),
        (None, "training"),
        ({}, "training"),
        ({"rolling": "3"}, {"rolling": 3}),
        ({"season": "P1Y"}, {"season": "P1Y"}),
    ],
)
def test_a_reference_is_stored_in_its_short_form(written, stored):
    found = parse(Reference, written, "The test")
    assert found.model_dump(mode="json") == stored
    assert parse(Reference, stored, "The test") == found


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("last year", "'last year'"),
        ({"rolling": 0}, "rolling: Input should be greater than or equal to 1"),
        ({"rolling": 1, "season": "P1Y"}, "'rolling' and 'season'"),
        ({"season": "1Y"}, "season: '1Y'"),
        ({"season": "P"}, "'P'"),
        ({"season": "P0D"}, "'P0D'"),
        ({"season": "P1YT"}, "'P1YT'"),
        ({"seasonal": "P1Y"}, "seasonal: Extra inputs are not permitted"),
    ],
)
def test_an_invalid_reference_is_named(written, named):
    with pytest.raises(SpecError) as error:
        parse(Reference, written, "The test")
    assert named in str(error.value)


@given(WINDOWS)
def test_a_window_is_read_from_the_name_of_its_file(found):
    assert Window.from_file_name(found.file_name) == found
    assert Window.from_file_name(window("2013-04").file_name) == window("2013-04")
    assert Window.from_file_name("notes") is None
    assert Window.from_file_name("Z") is None


def seen(text: str, version: int = 1, **columns) -> WindowProfile:
    return WindowProfile(window=window(text), version=version, profile=of(**columns))


def of(**columns) -> Profile:
    return profile(pa.table(columns).to_batches())


def test_columns_of_the_same_kind_are_merged():
    windows = [seen("2013-01", x=[1.0, 2.0], s=["a", "b"]), seen("2013-02", x=[3.0], y=[1.0], s=[1.0])]
    like = of(x=[1.0], y=[1.0], s=["a"], z=[1.0])
    found = earlier_windows.combined(windows, like, min_rows=1)
    assert {name: column.rows for name, column in found.columns.items()} == {"x": 3, "y": 1, "s": 2}
    assert (found.columns["x"].min, found.columns["x"].max) == (1, 3)
    # Columns with too few rows or without a value are left out.
    assert set(earlier_windows.combined(windows, like, min_rows=2).columns) == {"x", "s"}
    empty = [seen("2013-01", x=pa.nulls(9, pa.float64()))]
    assert earlier_windows.combined(empty, like, min_rows=1).columns == {}


def test_labels_name_the_first_and_the_last_window():
    assert earlier_windows.label([window("2013-01")]) == "2013-01"
    assert earlier_windows.label([window("2013-01"), window("2013-02"), window("2013-03")]) == "2013-01 to 2013-03"


CHECKS, NUMBERS, LAST = 80, 5, 3


def test_the_false_alarm_rate_holds_for_a_rolling_reference():
    random = np.random.default_rng(5)
    policy = Policy(min_effect=0)
    known: dict[Window, WindowProfile] = {}
    alarms = shifted = checks = 0
    for number in range(CHECKS + LAST):
        rows = int(np.exp(random.uniform(np.log(50), np.log(3_000))))
        values = {f"x{index}": random.normal(size=rows) for index in range(NUMBERS)}
        values["s"] = random.choice(list("abcd"), rows, p=[0.5, 0.3, 0.15, 0.05])
        checked, current = hours(number, 1), of(**values)
        windows = [known[item] for item in earlier_windows.choose(Reference(rolling=LAST), checked, known)]
        if len(windows) == LAST:
            checks += 1
            reference = earlier_windows.combined(windows, current, policy.min_rows)
            alarms += any(item.drifted for item in drift.compare(reference, current, policy))
            moved = drift.compare(reference, of(x0=values["x0"] + 1), policy)
            shifted += moved[0].drifted
        known[checked] = WindowProfile(window=checked, version=1, profile=current)
    assert checks == CHECKS
    # With other seeds, one run in a thousand would exceed this number by chance.
    assert stats.binom.sf(alarms - 1, CHECKS, policy.false_alarm_rate) > 1e-3, alarms
    assert shifted > 0.95 * CHECKS
