"""Windows are parsed from the text forms of partition keys, and have unambiguous names."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window


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
    ],
)
def test_each_text_form_is_parsed(text, start, end):
    window = Window.model_validate(text)
    assert (window.start, window.end) == (start, end)


@pytest.mark.parametrize("text", ["April", "2013-13", "2013-04/2013-04", "2013-05..2013-04", "", "2013-04-01/soon"])
def test_text_that_is_not_a_window_is_refused(text):
    with pytest.raises(SpecError, match="Task 'x'"):
        parse(Window, text, "Task 'x'")


instants = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1)).map(
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
