"""Windows are parsed from the text forms of partition keys, and have unambiguous names."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.window_text import Calendar
from airflow_mlops.core.windows import UtcDatetime, Window, missing


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2013", utc(2013, 1, 1), utc(2014, 1, 1)),
        ("2013-12", utc(2013, 12, 1), utc(2014, 1, 1)),
        ("2012-02", utc(2012, 2, 1), utc(2012, 3, 1)),
        ("2013-04-30", utc(2013, 4, 30), utc(2013, 5, 1)),
        ("2013-04-30T23", utc(2013, 4, 30, 23), utc(2013, 5, 1)),
        ("2013-01..2013-04", utc(2013, 1, 1), utc(2013, 5, 1)),
        ("2013-01/2013-04", utc(2013, 1, 1), utc(2013, 4, 1)),
        ("2013-01-01T02:00:00+02:00/2013-01-02", utc(2013, 1, 1), utc(2013, 1, 2)),
        ("2013-Q2", utc(2013, 4, 1), utc(2013, 7, 1)),
        ("2013-Q4", utc(2013, 10, 1), utc(2014, 1, 1)),
        ("2013-W14", utc(2013, 4, 1), utc(2013, 4, 8)),
        ("2020-W53", utc(2020, 12, 28), utc(2021, 1, 4)),
        # The default format of Airflow's StartOfWeekMapper.
        ("2024-03-11 (W11)", utc(2024, 3, 11), utc(2024, 3, 18)),
        ("20130430", utc(2013, 4, 30), utc(2013, 5, 1)),
        ("2013-04-30T23+0200", utc(2013, 4, 30, 21), utc(2013, 4, 30, 22)),
        ("2013-04-30T06:00Z/P1D", utc(2013, 4, 30, 6), utc(2013, 5, 1, 6)),
        ("2013-01/P1M", utc(2013, 1, 1), utc(2013, 2, 1)),
        # As Airflow renders {{ data_interval_start }}/{{ data_interval_end }}.
        ("2013-01-01 00:00:00+00:00/2013-01-02 00:00:00+00:00", utc(2013, 1, 1), utc(2013, 1, 2)),
        ("0001", utc(1, 1, 1), utc(2, 1, 1)),
        ("9998-12-31", utc(9998, 12, 31), utc(9999, 1, 1)),
    ],
)
def test_each_text_form_is_parsed(text, start, end):
    window = Window.model_validate(text)
    assert (window.start, window.end) == (start, end)


@pytest.mark.parametrize(
    "text",
    [
        "April",
        "2013-13",
        "2013-04/2013-04",
        "2013-05..2013-04",
        "",
        "2013-04-01/soon",
        "2013-W54",
        "2013-Q5",
        "2013-02-30",
        "2024-03-12 (W11)",
        "9999",
        "9999-12-31",
        "9999-12-31T23",
        "0001[Europe/Berlin]",
        "2013[Mars/Olympus]",
        # An instant does not define the length of the window.
        "2013-04-01T00:00:00",
        "2013-04-01T00:00:00.0000001/P1D",
        # The first hour occurs twice. The second time does not exist.
        "2024-10-27T02[Europe/Berlin]",
        "2024-03-31T02:30/P1D[Europe/Berlin]",
    ],
)
def test_text_that_is_not_a_window_is_refused(text):
    with pytest.raises(SpecError, match="Task 'x'"):
        parse(Window, text, "Task 'x'")


@pytest.mark.parametrize(
    ("text", "start", "end", "label"),
    [
        ("2024-03-31", utc(2024, 3, 30, 23), utc(2024, 3, 31, 22), "2024-03-31"),  # 23 hours
        ("2024-10-27", utc(2024, 10, 26, 22), utc(2024, 10, 27, 23), "2024-10-27"),  # 25 hours
        ("2024-03", utc(2024, 2, 29, 23), utc(2024, 3, 31, 22), "2024-03"),
        ("2024-01..2024-03", utc(2023, 12, 31, 23), utc(2024, 3, 31, 22), "2024-Q1"),
        ("2024-03-30T12:00/P1D", utc(2024, 3, 30, 11), utc(2024, 3, 31, 10), None),
        # Offsets in the text have precedence over the zone.
        ("2024-03-30T23:00:00Z/2024-03-31T22:00:00Z", utc(2024, 3, 30, 23), utc(2024, 3, 31, 22), "2024-03-31"),
    ],
)
@pytest.mark.parametrize("by", ["text", "calendar"])
def test_days_and_months_are_those_of_the_time_zone(text, start, end, label, by):
    if by == "text":
        window = Window.model_validate(f"{text}[Europe/Berlin]")
    else:
        window = Window.model_validate(text, context={"calendar": Calendar("Europe/Berlin")})
    assert (window.start, window.end, window.zone) == (start, end, "Europe/Berlin")
    again = Window.model_validate_json(window.model_dump_json())
    assert (again, again.zone) == (window, "Europe/Berlin")
    assert window.label == (f"{label}[Europe/Berlin]" if label else str(window))
    assert window.short_label == (label or "2024-03-30")


ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "+05:45",
)


@given(st.dates(min_value=date(1950, 1, 1), max_value=date(2090, 1, 1)), st.sampled_from(ZONES))
def test_the_days_of_a_zone_follow_each_other_without_a_gap(day, zone):
    first, second = (Window.model_validate(f"{item}[{zone}]") for item in (day, day + timedelta(days=1)))
    assert first.end == second.start
    assert timedelta(hours=22) <= first.end - first.start <= timedelta(hours=26)
    assert Window.model_validate(first.label) == first


def test_windows_of_the_same_time_are_equal_and_have_one_file_name_in_every_zone():
    berlin, universal = (
        Window.model_validate("2024-07-01T02+02:00[Europe/Berlin]"),
        Window.model_validate("2024-07-01T00"),
    )
    assert berlin == universal
    assert hash(berlin) == hash(universal)
    assert berlin.file_name == universal.file_name == "2024-07-01T00"
    day = Window.model_validate("2024-07-01[Europe/Berlin]")
    assert day.file_name == "20240630T220000Z-20240701T220000Z"


KEY_START = utc(2024, 3, 30, 23)
BERLIN = Calendar(
    "Europe/Berlin", key="2024-03-31T00:00:00", key_start=KEY_START, ends={KEY_START: utc(2024, 3, 31, 22)}
)


@pytest.mark.parametrize(
    ("calendar", "text", "end"),
    [
        (BERLIN, "2024-03-31T00:00:00", utc(2024, 3, 31, 22)),
        # The format of the key is known only to the timetable.
        (replace(BERLIN, key="31.03.2024"), "31.03.2024", utc(2024, 3, 31, 22)),
        (replace(BERLIN, ends={}, period="P1D"), "2024-03-31T00:00:00", utc(2024, 3, 31, 22)),
        (replace(BERLIN, ends={}, period="P1M"), "2024-03-31T00:00:00", utc(2024, 4, 29, 22)),
        (replace(BERLIN, key="2024-03-31", cadence=timedelta(hours=23)), "2024-03-31", utc(2024, 3, 31, 22)),
        (replace(BERLIN, key="2024-03-31", cadence=timedelta(days=7), period="P7D"), "2024-03-31", utc(2024, 4, 6, 22)),
        (replace(BERLIN, key=None, key_start=None), "2024-03-30 23:00:00+00:00", utc(2024, 3, 31, 22)),
    ],
)
def test_the_length_of_a_partition_is_said_by_its_form_the_timetable_or_a_period(calendar, text, end):
    assert Window.model_validate(text, context={"calendar": calendar}) == Window(start=KEY_START, end=end)


def test_a_range_may_end_with_a_partition_key():
    window = Window.model_validate("2024-03-01..2024-03-31T00:00:00", context={"calendar": BERLIN})
    assert window == Window.model_validate("2024-03[Europe/Berlin]")


def test_the_hour_that_occurs_twice_is_the_one_of_the_partition():
    for hour in (0, 1):
        calendar = Calendar("Europe/Berlin", key="2024-10-27T02", key_start=utc(2024, 10, 27, hour, 15))
        window = Window.model_validate("2024-10-27T02", context={"calendar": calendar})
        assert (window.start, window.end) == (utc(2024, 10, 27, hour), utc(2024, 10, 27, hour + 1))


@pytest.mark.parametrize(
    ("calendar", "text", "names"),
    [
        # The key was written in another time zone, so the partition begins outside the window.
        (Calendar(key="2024-03-31", key_start=KEY_START), "2024-03-31", "2024-03-30T23:00:00Z.*time zone UTC"),
        # A month whose key looks like a day.
        (Calendar(key="2024-03-01", key_start=utc(2024, 3, 1), cadence=timedelta(days=28)), "2024-03-01", "period="),
        (Calendar(period="P1D"), "2024-03", "period='P1D'"),
        (Calendar(), "2024-03-01T00:00:00", "period="),
        (Calendar(), "None", "no partition key"),
        (Calendar("Europe/Berlin", ds=("2024-03-30", "2024-03-31")), "2024-03-30", "2024-03-31.*in_timezone"),
        (Calendar("Europe/Berlin", ds=("2024-03-30", "2024-03-31")), "2024-03-01..2024-03-30", "in_timezone"),
        (Calendar(), "2024-03-01 00:00:00+00:00/2024-03-01 00:00:00+00:00", "CronDataIntervalTimetable"),
    ],
)
def test_a_window_that_may_mean_something_else_is_refused(calendar, text, names):
    with pytest.raises(SpecError, match=names):
        parse(Window, text, "Task 'x'", calendar=calendar)


def test_the_day_in_utc_can_be_named():
    calendar = Calendar("Europe/Berlin", ds=("2024-03-30", "2024-03-31"))
    window = Window.model_validate("2024-03-30[UTC]", context={"calendar": calendar})
    assert (window, window.zone) == (Window.model_validate("2024-03-30"), "UTC")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=8))
def test_missing_parts_and_windows_cover_the_wanted_window_exactly(lengths):
    wanted = Window.model_validate("2013-01-11..2013-01-30")
    windows = [
        Window(start=utc(2013, 1, 1) + timedelta(days=first), end=utc(2013, 1, 1) + timedelta(days=first + days))
        for first, days in lengths
    ]
    parts = missing(wanted, windows)
    for number in range(10, 30):
        day = Window(start=utc(2013, 1, 1) + timedelta(days=number), end=utc(2013, 1, 1) + timedelta(days=number + 1))
        assert any(part.contains(day) for part in parts) != any(window.contains(day) for window in windows)


instants = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9998, 1, 1)).map(
    lambda value: value.replace(tzinfo=timezone.utc)
)


@given(instants, instants)
def test_a_window_is_equal_after_a_round_trip_through_text(one, other):
    if one != other:
        window = Window(start=min(one, other), end=max(one, other))
        assert Window.model_validate(str(window)) == window
        assert Window.model_validate(window.label) == window
        assert Window.model_validate_json(window.model_dump_json()) == window


@given(instants, instants)
def test_a_file_name_identifies_the_window_to_the_second(one, other):
    start, end = (value.replace(microsecond=0) for value in (min(one, other), max(one, other)))
    if start != end:
        window = Window(start=start, end=end)
        assert Window.from_file_name(window.file_name) == window
        assert "/" not in window.file_name
        assert ":" not in window.file_name


@pytest.mark.parametrize(
    ("text", "name"), [("2013-04", "2013-04"), ("2013-04/2013-06", "20130401T000000Z-20130601T000000Z")]
)
def test_the_file_name_of_a_calendar_period_is_its_label(text, name):
    assert Window.model_validate(text).file_name == name


@pytest.mark.parametrize("name", ["notes", "Z", "2013-13", "20130401T000000Z"])
def test_other_file_names_are_not_windows(name):
    assert Window.from_file_name(name) is None


@given(instants, st.integers(1, 40), st.integers(1, 100))
def test_chunks_cover_the_window_without_overlap(start, days, hours):
    window = Window(start=start, end=start + timedelta(days=days))
    chunks = list(window.split(timedelta(hours=hours)))
    assert chunks[0].start == window.start
    assert chunks[-1].end == window.end
    assert all(first.end == second.start for first, second in zip(chunks, chunks[1:], strict=False))


@pytest.mark.parametrize("text", ["20240305", "2024-03-05", "2024-03-05 00:00:00+00", "2024-03-05T01:00+01:00"])
def test_text_of_a_time_is_iso_8601_and_never_a_number_of_seconds(text):
    adapter = TypeAdapter(UtcDatetime)
    assert adapter.validate_python(text) == datetime(2024, 3, 5, tzinfo=timezone.utc)
    with pytest.raises(ValidationError, match="1709596800"):
        adapter.validate_python("1709596800")


@pytest.mark.parametrize(
    "key", ["2013-04-01T06:00:00Z/2013-04-08T06:00:00Z", "2013-04-01T06:00Z/P7D", "2013-04[Europe/Berlin]"]
)
def test_a_partition_key_without_a_known_start_is_read_like_any_other_text(key):
    """Keys with a known start may have a format of their own, such as 2013/04."""
    assert Window.model_validate(key, context={"calendar": Calendar(key=key)}) == Window.model_validate(key)
