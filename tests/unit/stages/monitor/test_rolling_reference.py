"""Rolling references choose the same windows as from the list of all windows, however many there are."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import earlier_windows
from airflow_mlops.drift.reference import Reference
from airflow_mlops.stages.monitor.references import _candidates, _profiles

MAY = Window.model_validate("2013-05-01")


def days(count: int, length: int = 1, step: int = 1) -> list[Window]:
    """Windows of some days before May, one for each step of days."""
    ends = [MAY.start - timedelta(days=step * number) for number in range(count)]
    return [Window(start=end - timedelta(days=length), end=end) for end in ends]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    "known",
    [
        days(60),
        days(60, length=7),
        days(5, length=5),
        [Window.model_validate(text) for text in ("2013-03", "2013-04", "2013-04-25", "2013-04-26", "2013-04-27")],
        [*days(40), *(Window.model_validate(text) for text in ("2012", "2013-Q1", "2013-03", "2013-04"))],
        [*days(400, step=2), *days(30, length=6, step=9)],
    ],
)
def test_the_chosen_windows_are_those_of_all_windows(tmp_path, count, known):
    store = ArtifactStore(tmp_path.as_uri())
    for window in known:
        store.write_bytes(_profiles(store, "m").key(window.file_name, window), b"")
    check = SimpleNamespace(store=store, model="m", window=MAY)
    found = _candidates(Reference(rolling=count), check)
    expected = earlier_windows.rolling(count, MAY, known)
    assert earlier_windows.rolling(count, MAY, found) == expected
    assert {_profiles(store, "m").key(window.file_name, window) for window in expected} <= {*found.values()}


def test_a_long_window_of_the_year_before_ends_last(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    long, short, checked = (Window.model_validate(text) for text in ("2013-12-27/P7D", "2014-01-01", "2014-01-04"))
    for window in (long, short):
        store.write_bytes(_profiles(store, "m").key(window.file_name, window), b"")
    found = _candidates(Reference(rolling=1), SimpleNamespace(store=store, model="m", window=checked))
    assert earlier_windows.rolling(1, checked, found) == [long]
