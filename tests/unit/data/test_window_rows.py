"""Rows belong to a window by the instant of their time, and dates by the day of the window's time zone."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.windows import Window
from airflow_mlops.data.window_rows import are_dates, inside

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata")
days = st.dates(min_value=date(1960, 1, 1), max_value=date(2090, 1, 1))


@given(days, st.sampled_from(ZONES), st.sampled_from([pa.date32(), pa.date64(), pa.string()]))
def test_a_date_is_in_exactly_one_day(day, zone, kind):
    near = [day + timedelta(days=number) for number in (-1, 0, 1)]
    values = pa.array([item.isoformat() for item in near], kind) if kind == pa.string() else pa.array(near, kind)
    window = Window.model_validate(f"{day}[{zone}]")
    assert inside(values, window, "t").to_pylist() == [False, True, False]


@given(days, st.sampled_from(ZONES), st.integers(0, 86_399))
def test_an_instant_is_in_the_day_of_the_zone(day, zone, second):
    window = Window.model_validate(f"{day}[{zone}]")
    moment = window.start + timedelta(seconds=second)
    values = pa.array([moment, window.end, window.start - timedelta(microseconds=1)], pa.timestamp("us", "UTC"))
    assert inside(values, window, "t").to_pylist() == [moment < window.end, False, False]


@pytest.mark.parametrize("chunked", [False, True])
def test_one_column_of_text_may_have_dates_instants_and_nulls(chunked):
    values = pa.array(
        ["2024-03-10", "2024-03-11", None, "2024-03-10T04:59:59Z", "2024-03-10T05:00:00Z", "2024-03-11T03:59:59"]
    )
    window = Window.model_validate("2024-03-10[America/New_York]")
    found = inside(pa.chunked_array([values]) if chunked else values, window, "t")
    assert found.to_pylist() == [True, False, None, False, True, True]


FORMS = ("%Y-%m-%d", " %Y-%m-%d ", "%Y%m%d", "%Y-%j", "%Y%j", "%G-W%V-%u", "%GW%V%u")


@given(days, st.sampled_from(ZONES), st.sampled_from(FORMS), st.sampled_from([pa.string(), pa.large_string()]))
def test_every_form_of_a_date_is_the_same_day(day, zone, form, kind):
    near = [day + timedelta(days=number) for number in (-1, 0, 1)]
    values = pa.array([f"{item:{form}}" for item in near], kind)
    assert inside(values, Window.model_validate(f"{day}[{zone}]"), "t").to_pylist() == [False, True, False]
    assert are_dates(values)


def test_text_with_a_time_is_not_a_date():
    texts = ["20240331T0000", "20240331 00", "2024-03-31t00:00", "2024-W13-7T00Z", "20240331T000000+0000"]
    window = Window.model_validate("2024-03-30[America/New_York]")
    for text in texts:
        assert inside(pa.array([text]), window, "t").to_pylist() == [True]
        assert not are_dates(pa.array([text]))


def test_timestamps_without_a_zone_are_utc():
    values = pa.array([datetime(2024, 3, 30, 23), datetime(2024, 3, 31, 22)], pa.timestamp("us"))
    assert inside(values, Window.model_validate("2024-03-31[Europe/Berlin]"), "t").to_pylist() == [True, False]
