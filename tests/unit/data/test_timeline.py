"""Files that are named by windows are found by time, wherever in the folder they are."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import Timeline, window_of

START = datetime(2013, 1, 1, tzinfo=timezone.utc)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

windows = st.builds(
    lambda start, length: Window(start=START + start, end=START + start + length),
    st.one_of(
        st.integers(0, 400 * 24).map(lambda hours: hours * HOUR),
        st.integers(0, 3 * 24 * 60).map(lambda minutes: minutes * MINUTE),
        st.timedeltas(timedelta(0), timedelta(days=60)),
    ),
    st.one_of(
        st.sampled_from(
            [
                MINUTE,
                15 * MINUTE,
                16 * MINUTE,
                HOUR,
                6 * HOUR,
                7 * HOUR,
                DAY,
                7 * DAY,
                8 * DAY,
                9 * DAY,
                31 * DAY,
                366 * DAY,
            ]
        ),
        st.timedeltas(timedelta(microseconds=1), timedelta(days=40)),
    ),
)


class CountingStore(ArtifactStore):
    """A store that counts listings and reads."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.requests: Counter[str] = Counter()

    def keys(self, prefix: str) -> list[str]:
        self.requests["list"] += 1
        return super().keys(prefix)


def filled(found: list[Window], names: str = "key") -> tuple[Timeline, dict[str, Window]]:
    """Write a file for each window, every third where earlier versions of this package wrote it."""
    MemoryFileSystem.store.clear()
    store = ArtifactStore("memory://timeline")
    timeline = Timeline(store, "folder")
    keys = {}
    for index, window in enumerate(dict.fromkeys(found)):
        name = getattr(window, names)
        key = f"folder/{name}.json" if index % 3 == 0 else timeline.key(name, window)
        store.write_json(key, index)
        keys[key] = window
    return timeline, keys


@settings(max_examples=150)
@given(st.lists(windows, max_size=25), windows, st.sampled_from(["key", "file_name"]))
def test_the_files_of_a_time_are_found(found, within, names):
    timeline, keys = filled(found, names)
    chosen = timeline.find(within)
    assert set(chosen) <= set(keys)
    assert {key for key, window in keys.items() if window.overlaps(within)} <= set(chosen)
    assert len(chosen) - sum(keys[key].overlaps(within) for key in chosen) <= sum(
        window.end <= within.start < window.end + timedelta(seconds=1) for window in keys.values()
    )
    assert chosen == sorted(chosen, key=lambda key: key.rpartition("/")[2])


@settings(max_examples=150)
@given(st.lists(windows, max_size=25), windows, st.integers(1, 8))
def test_the_last_files_are_found(found, before, count):
    timeline, keys = filled(found)
    ordered = sorted(keys, key=lambda key: (keys[key].start, keys[key].end))
    assert timeline.find() == ordered
    assert timeline.last(count) == ordered[-count:]
    earlier = [key for key in ordered if keys[key].start < before.start]
    assert timeline.last(count, before=before) == earlier[-count:]
    newest = timeline.latest()
    assert (newest is None) == (not keys)
    assert newest is None or keys[newest].end == max(window.end for window in keys.values())


@given(windows)
def test_a_name_has_its_window(window):
    assert window_of(f"a/{window.key}.json") == window
    assert window_of(f"a/{window.key}-model-v3.json") == window
    assert window_of(f"a/{window.file_name}.json.gz") == window


@pytest.mark.parametrize("name", ["rows-0123", "x", "2013-13", ".tmp", "2013-04-01-backup", "2013-04-model-v3"])
def test_other_names_have_no_window(name):
    assert window_of(f"a/{name}.json") is None


@given(windows, windows)
def test_names_sort_by_time(one, other):
    assert (one.key < other.key) == ((one.start, one.end) < (other.start, other.end))


def test_windows_that_differ_by_a_microsecond_have_different_files():
    one = Window(start=START, end=START + DAY)
    other = Window(start=START, end=START + DAY + timedelta(microseconds=1))
    assert one.key != other.key


def test_a_file_that_was_written_again_is_found_once(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    timeline = Timeline(store, "folder")
    day = Window.model_validate("2013-04-01")
    store.write_json(f"folder/{day.key}.json", "old")
    assert timeline.existing(day.key, day) == f"folder/{day.key}.json"
    assert timeline.read_bytes(day.key, day) == b'"old"'
    key = timeline.key(day.key, day)
    store.write_json(key, "new")
    assert timeline.read_bytes(day.key, day) == b'"new"'
    assert timeline.existing(day.key, day) == timeline.latest() == key
    assert timeline.find() == timeline.find(day) == timeline.last(5) == [*timeline.find_info()] == [key]
    timeline.delete(key)
    assert timeline.find() == []
    with pytest.raises(FileNotFoundError):
        timeline.read_bytes(day.key, day)


@pytest.mark.parametrize("text", ["0001-01-01T00/PT5M", "0001-01-02", "9999-12-30", "9999-12-31T22/PT5M"])
def test_the_ends_of_time(tmp_path, text):
    timeline = Timeline(ArtifactStore(tmp_path.as_uri()), "folder")
    window = Window.model_validate(text)
    timeline.store.write_json(timeline.key(window.key, window), 1)
    assert timeline.find(window) == timeline.find() == timeline.last(1) == [timeline.latest()]


@pytest.mark.parametrize("length", [MINUTE, 15 * MINUTE, HOUR, DAY])
def test_a_lookup_takes_few_listings_however_long_the_history(tmp_path, length):
    timeline = Timeline(CountingStore(tmp_path.as_uri()), "folder")
    for number in range(3000):
        window = Window(start=START + number * length, end=START + (number + 1) * length)
        path = tmp_path / timeline.key(window.key, window)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for asked in (
        lambda: timeline.find(window), lambda: timeline.last(36, before=window), timeline.latest,
    ):  # fmt: skip
        timeline.store.requests.clear()
        assert asked()
        assert timeline.store.requests["list"] <= 4
    assert max(len([*folder.iterdir()]) for folder in tmp_path.rglob("*") if folder.is_dir()) <= 2000


def test_a_window_without_an_end_is_found(tmp_path):
    timeline = Timeline(ArtifactStore(tmp_path.as_uri()), "folder")
    window = Window.model_validate("2013-05-01T00:00Z/9999-12-31T23:59:59Z")
    timeline.store.write_json(timeline.key(window.key, window), 1)
    assert timeline.find(Window.model_validate("2013-06")) == [timeline.latest()]


def test_the_latest_file_is_found_behind_periods_without_files(tmp_path):
    timeline = Timeline(ArtifactStore(tmp_path.as_uri()), "folder")
    first, *others = (Window.model_validate(day) for day in ("2013-04-01", "2014-04-02", "2015-04-03"))
    timeline.store.write_json(key := timeline.key(first.file_name, first), 1)
    for window in others:
        timeline.store.write_bytes(timeline.key(window.file_name, window).replace(".json", ".html"), b"")
    assert timeline.latest() == key


@settings(max_examples=200)
@given(st.lists(windows, max_size=25), windows, st.integers(1, 6))
def test_other_windows_end_before_the_recent_ones(found, before, count):
    timeline, keys = filled(found)
    recent, others_end = timeline.recent(count, before)
    earlier = {window: key for key, window in keys.items() if window.start < before.start}
    assert recent.items() <= earlier.items()
    others = [window for window in earlier if window not in recent]
    assert bool(others) <= (others_end is not None)
    assert all(window.end <= others_end for window in others)
