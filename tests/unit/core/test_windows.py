"""A window is written as a person or a partition key writes it."""

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
def test_texts(text, start, end):
    window = Window.model_validate(text)
    assert (window.start, window.end) == (start, end)


@pytest.mark.parametrize("text", ["April", "2013-13", "2013-04/2013-04", "2013-05..2013-04", "", "2013-04-01/soon"])
def test_what_is_no_window_is_refused_in_a_sentence(text):
    with pytest.raises(SpecError, match="Task 'x' cannot run as it is configured: "):
        parse(Window, text, "Task 'x'")


instants = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1)).map(
    lambda value: value.replace(tzinfo=timezone.utc)
)


@given(instants, instants)
def test_text_and_window_are_the_same(one, other):
    if one != other:
        window = Window(start=min(one, other), end=max(one, other))
        assert Window.model_validate(str(window)) == window
        assert Window.model_validate(window.label) == window
        assert Window.model_validate_json(window.model_dump_json()) == window


@given(instants, st.integers(1, 40), st.integers(1, 100))
def test_chunks_cover_the_window_without_overlap(start, days, hours):
    window = Window(start=start, end=start + timedelta(days=days))
    chunks = list(window.split(timedelta(hours=hours)))
    assert chunks[0].start == window.start
    assert chunks[-1].end == window.end
    assert all(first.end == second.start for first, second in zip(chunks, chunks[1:], strict=False))
