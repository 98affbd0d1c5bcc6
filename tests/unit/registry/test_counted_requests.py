"""Which recorded requests count when a window is about to request retraining."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from airflow_mlops.core.calls import Request
from airflow_mlops.core.windows import Window
from airflow_mlops.registry.requests import RecordedRequest, counted

NOW = datetime(2013, 9, 1, tzinfo=timezone.utc)
SEEN = 5


@pytest.mark.parametrize(
    ("state", "window", "since", "counts"),
    [
        ("answered", "2013-03", 1, True),
        ("answered", "2013-05", 1, True),
        ("expired", "2013-03", 1, False),
        ("moot", "2013-03", 1, False),
        ("moot", "2013-05", 1, False),
        ("open", "2013-03", 1, False),
        ("open", "2013-05", 1, True),
        # A request for the window itself counts in every state.
        ("moot", "2013-04", 1, True),
        ("expired", "2013-04", 1, True),
        # A request that was recorded while this window was being checked could not have been answered yet, so it
        # counts.
        ("open", "2013-03", SEEN, False),
        ("open", "2013-03", SEEN + 1, True),
        ("expired", "2013-03", SEEN + 1, True),
        ("moot", "2013-03", SEEN + 1, False),
    ],
)
def test_answered_requests_count_and_others_only_if_nobody_could_have_answered_them(state, window, since, counts):
    at = Window.model_validate(window)
    request = Request(id=f"delays/{window}", model="delays", triggers=["age"], reason="Old.", window=at, created=NOW)
    known = RecordedRequest(request, since, state, replaced=state == "moot")
    found = counted([known], [], Window.model_validate("2013-04"), SEEN)
    assert (found.requests == [request]) is counts
    assert found.replaced == ({request.id} if state == "moot" else set())
