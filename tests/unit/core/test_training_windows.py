"""The window of a training set follows from a rule and the window of the run, in the time zone of the run's window."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.training_windows import WindowRule
from airflow_mlops.core.window_text import Calendar
from airflow_mlops.core.windows import Window
from airflow_mlops.core.zones import local

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "+02:00",
]
FIRST = datetime(2010, 1, 1, tzinfo=timezone.utc)


def rule(kind: str, calendar: Calendar | None = None, **fields):
    found = parse(
        WindowRule, {"window": {"kind": kind, **fields}}, "The rule", **({"calendar": calendar} if calendar else {})
    )
    return found.window


def resolved(found, run: str | Window) -> Window:
    return found.resolve(Window.model_validate(run), lambda: FIRST)


def month(year: int, number: int, zone: str) -> Window:
    return Window.model_validate(f"{year:04}-{number:02}[{zone}]")


months = st.builds(month, st.integers(1970, 2100), st.integers(1, 12), st.sampled_from(ZONES))


@given(run=months, length=st.integers(1, 240))
def test_a_rolling_window_of_months_is_whole_local_months_that_end_with_the_run(run, length):
    found = resolved(rule("rolling", length=f"P{length}M"), run)
    end = local(run.end, run.zone)
    number = end.year * 12 + end.month - 1 - length
    first = month(number // 12, number % 12 + 1, run.zone)
    assert (found.start, found.end, found.zone) == (first.start, run.end, run.zone)


@given(run=months, days=st.integers(1, 4000))
def test_a_rolling_window_of_days_begins_at_local_midnight_whatever_the_clocks_do(run, days):
    found = resolved(rule("rolling", length=f"P{days}D"), run)
    day = local(run.end, run.zone).date() - timedelta(days=days)
    assert found.start == Window.model_validate(f"{day}[{run.zone}]").start
    assert found.end == run.end


@given(run=months, hours=st.integers(1, 10_000))
def test_hours_are_elapsed_time(run, hours):
    found = resolved(rule("rolling", length=f"PT{hours}H"), run)
    assert found.end - found.start == timedelta(hours=hours)


@given(run=months, first=st.integers(1, 120), second=st.integers(1, 120))
def test_a_longer_rolling_window_contains_a_shorter_one(run, first, second):
    short, long = sorted((first, second))
    assert resolved(rule("rolling", length=f"P{long}M"), run).contains(
        resolved(rule("rolling", length=f"P{short}M"), run)
    )


def test_a_rolling_window_across_a_change_of_the_clocks():
    # The last Sunday of March has 23 hours in Berlin.
    found = resolved(rule("rolling", length="P2D"), "2024-03-31[Europe/Berlin]")
    assert found.end - found.start == timedelta(hours=47)
    assert found == Window.model_validate("2024-03-30..2024-03-31[Europe/Berlin]")


def test_an_expanding_window_begins_at_local_midnight_of_the_dag():
    found = rule("expanding", Calendar(zone="Europe/Berlin"), since="2013-01")
    window = resolved(found, "2013-06[Europe/Berlin]")
    assert window == Window.model_validate("2013-01..2013-06[Europe/Berlin]")
    # A step reads the rule as JSON, without the calendar of the DAG.
    assert WindowRule.model_validate_json(WindowRule(window=found).model_dump_json()).window == found


def test_a_decaying_window_begins_with_the_oldest_data():
    window = resolved(rule("decay", half_life="P60D"), "2013-06")
    assert (window.start, window.end) == (FIRST, datetime(2013, 7, 1, tzinfo=timezone.utc))


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        ("rolling", {"length": "P6M"}, "Rolling(P6M)"),
        ("expanding", {"since": "2013-01-01"}, "Expanding(since=2013-01-01T00:00:00Z)"),
        ("decay", {"half_life": "60D"}, "Decay(half_life=P60D)"),
        ("decay", {"half_life": "PT36H"}, "Decay(half_life=P1DT43200S)"),
    ],
)
def test_a_rule_is_recorded_as_text(kind, fields, text):
    assert str(rule(kind, **fields)) == text


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("rolling", {"length": "six months"}),
        ("rolling", {"length": "P0D"}),
        ("expanding", {"since": "soon"}),
        ("decay", {"half_life": "P2M"}),
        ("decay", {"half_life": "P1Y"}),
        ("decay", {"half_life": "P0D"}),
        ("sliding", {"length": "P6M"}),
        ("rolling", {"length": "P6M", "since": "2013"}),
    ],
)
def test_an_invalid_rule_is_refused(kind, fields):
    with pytest.raises(SpecError):
        rule(kind, **fields)


def test_minutes_are_a_half_life():
    assert rule("decay", half_life="PT30M").half_life == timedelta(minutes=30)


@pytest.mark.parametrize(
    ("found", "run"),
    [
        (rule("expanding", since="2014"), "2013-06"),
        (rule("rolling", length="P100Y"), "0050"),
        (rule("decay", half_life="P1D"), "2009"),
    ],
)
def test_a_rule_that_selects_no_time_is_refused(found, run):
    with pytest.raises(ValueError, match=r"earlier `since`|before year 1|selects no data"):
        resolved(found, run)
