"""A selection finds complete windows, whatever the size of the windows that were written, and says what is missing."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import (
    DatasetNotFoundError,
    IncompleteWindowError,
    SchemaError,
    SpecError,
)
from airflow_mlops.core.references import DatasetSelection
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, Manifest, pointers
from airflow_mlops.data.datasets.overview import all_names, choose, entries
from airflow_mlops.data.kept_selections import KeptSelections
from airflow_mlops.data.selection import coverage, select, select_one, select_whole, window_of
from airflow_mlops.data.store import ArtifactStore


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


def instants(window: Window, step: timedelta = timedelta(days=1)) -> list[datetime]:
    return [window.start + step * number for number in range(-((window.start - window.end) // step))]


def put(store: ArtifactStore, text: str | None, tag: str = "", name: str = "rows", **commit: Any) -> Manifest:
    """Write a dataset with one row for each day, with the value ``tag``."""
    window = Window.model_validate(text) if text else None
    times = instants(window) if window else [datetime(2013, 1, 1, tzinfo=timezone.utc)]
    with DatasetWriter(store, name) as writer:
        writer.write(pa.table({"t": pa.array(times, pa.timestamp("us", "UTC")), "tag": [tag] * len(times)}))
        return writer.commit(window=window, **{"time_column": "t", **commit})[0]


def pick(store: ArtifactStore, *, name: str = "rows", **fields: Any) -> list[Any]:
    return select(store, DatasetSelection.model_validate({"name": name, **fields}))


def read(store: ArtifactStore, **fields: Any) -> list[tuple[str, str]]:
    """Days and tags of the selected rows."""
    rows = [row for dataset in pick(store, **fields) for row in dataset.table().to_pylist()]
    return [(row["t"].date().isoformat(), row["tag"]) for row in rows]


def test_the_quarantined_rows_of_a_part_are_estimated_from_the_share_of_the_whole_dataset(store):
    put(store, "2013-04", details={"quarantined": 60})
    assert coverage(pick(store, window="2013-04")) == {"quarantined": 60}
    part = coverage(pick(store, window="2013-04-01..2013-04-10"))
    assert part == {"quarantined": 20, "quarantined_estimated": True}
    put(store, "2013-04", name="predictions", details=part)
    assert coverage(pick(store, name="predictions", window="2013-04")) == part


def test_a_range_with_a_gap_fails_and_names_what_is_missing(store):
    put(store, "2013-01")
    put(store, "2013-03")
    with pytest.raises(IncompleteWindowError, match="'rows'.*2013-02 is missing.*gaps='allow'"):
        pick(store, window="2013-01..2013-03")
    with pytest.raises(IncompleteWindowError, match="2013-04"):
        pick(store, window="2013-03..2013-04")
    with pytest.raises(DatasetNotFoundError, match="2013-02"):
        pick(store, window="2013-02")


def test_a_name_with_windows_is_not_a_snapshot_and_the_error_says_how_to_select_it(store):
    put(store, "2013-01")
    put(store, "2013-02")
    with pytest.raises(
        DatasetNotFoundError, match="'rows' has windows and no snapshots.*set `window`.*example 2013-02"
    ):
        pick(store, at="2013-03-01")
    with pytest.raises(DatasetNotFoundError, match="no dataset 'nothing'"):
        pick(store, name="nothing", at="2013-03-01")


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("yesterday", "is not a date or a point in time in ISO 8601"),
        ("2013-02-30", "day is out of range for month"),
        ("3/1/2013", "is not a date"),
        ("2013-01..2013-02", "is not a date"),
        ("2013-13", "month must be in"),
    ],
)
def test_a_time_that_cannot_be_read_is_an_error_with_the_forms(at, why):
    with pytest.raises(
        SpecError, match="is not a point in time: .*Write a date or time in ISO 8601, such as 2013-04-01"
    ) as failed:
        parse(DatasetSelection, {"name": "rows", "at": at}, "The test")
    assert why in str(failed.value)


@pytest.mark.parametrize("at", [20130301, 1362096000.0, True])
def test_a_number_is_not_a_point_in_time(at):
    with pytest.raises(SpecError, match=f"{at} is a number and not a point in time"):
        parse(DatasetSelection, {"name": "rows", "at": at}, "The test")


def test_a_retry_reads_what_the_first_try_selected(store):
    first = KeptSelections(store, "results/task.json")

    def read_by(kept):
        return {
            text: [(item.manifest.id, item.window, item.rows) for item in select(store, selection, kept=kept)]
            for text, selection in selections.items()
        }

    def everything(tag):
        put(store, "2013-01", tag)
        put(store, "2013-01-10", tag)
        put(store, None, tag, name="customers")

    everything("first")
    selections = {
        "newest": DatasetSelection(name="customers"),
        "all": DatasetSelection(name="rows"),
        "part": DatasetSelection(name="rows", window=Window.model_validate("2013-01-05/2013-01-20")),
    }
    found = read_by(first)
    assert [rows for _, _, rows in found["part"]] == [5, 1, 9]
    everything("second")
    for pointer in (pointers.read(store, key) for key in pointers.window_keys(store, "rows")):
        pointers.withdraw(store, "rows", pointer, "wrong", "ann")
    assert read_by(KeptSelections(store, "results/task.json")) == found
    # A cleared task has another key, and selects again.
    cleared = KeptSelections(store, "results/cleared.json")
    assert select(store, selections["newest"], kept=cleared)[0].manifest.id != found["newest"][0][0]
    with pytest.raises(DatasetNotFoundError):
        select(store, selections["all"], kept=cleared)
    # A failed selection is not kept, so the next try selects again.
    put(store, "2013-01", "third")
    assert len(select(store, selections["all"], kept=cleared)) == 1


def test_a_gap_that_is_allowed_is_recorded(store):
    put(store, "2013-01")
    put(store, "2013-03")
    found = pick(store, window="2013-01..2013-03", gaps="allow")
    assert coverage(found) == {"windows": ["2013-01", "2013-03"], "gaps": ["2013-02"]}
    put(store, "2013-02")
    assert coverage(pick(store, window="2013-01..2013-03")) == {}


def test_a_window_that_cuts_datasets_in_two_reads_the_rows(store):
    put(store, "2013-01", "a")
    put(store, "2013-02", "b")
    found = read(store, window="2013-01-15/2013-02-03")
    assert found == [(f"2013-01-{day}", "a") for day in range(15, 32)] + [("2013-02-01", "b"), ("2013-02-02", "b")]
    assert window_of(pick(store, window="2013-01-15/2013-02-03")) == Window.model_validate("2013-01-15/2013-02-03")


def test_every_way_to_read_a_part_of_a_dataset_gives_the_same_rows(store):
    put(store, "2013-01", "a")
    (part,) = pick(store, window="2013-01-15..2013-01-20")
    days = [datetime(2013, 1, day, tzinfo=timezone.utc) for day in range(15, 21)]
    assert part.table(columns=["t"])["t"].to_pylist() == days
    assert part.table(columns=["tag"]).column_names == ["tag"]
    assert [row for batch in part.batches(batch_rows=4, columns=["t"]) for row in batch["t"].to_pylist()] == days
    groups = [part.read_row_group(place, ["tag", "t"]) for place in part.row_groups()]
    assert [row for group in groups for row in group["t"].to_pylist()] == days
    assert groups[0].schema.names == ["tag", "t"]
    assert part.rows == len(part.to_pandas()) == 6


def test_a_dataset_without_a_known_time_column_is_not_cut(store):
    put(store, "2013-01", time_column=None)
    with pytest.raises(SchemaError, match="time_column"):
        pick(store, window="2013-01-15/2013-02")
    assert len(read(store, window="2013-01-15/2013-02", time_column="t")) == 17
    selection = DatasetSelection(name="rows", window=Window.model_validate("2013-01-15/2013-02"))
    assert select(store, selection, "t")[0].rows == 17
    with pytest.raises(SchemaError, match="'u'"):
        pick(store, window="2013-01-15/2013-02", time_column="u")


def test_rows_without_a_time_are_not_lost_silently(store):
    window = Window.model_validate("2013-01")
    with DatasetWriter(store, "rows") as writer:
        writer.write(pa.table({"t": pa.array([None, window.start], pa.timestamp("us", "UTC"))}))
        writer.commit(window=window, time_column="t")
    with pytest.raises(SchemaError, match="null in 1 row"):
        pick(store, window="2013-01-01")[0].table()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Europe/Berlin"])
def test_a_date_is_a_day_of_the_time_zone_of_the_window(store, zone):
    days = [date(2013, 3, 1) + timedelta(days=number) for number in range(31)]
    with DatasetWriter(store, "rows") as writer:
        writer.write(pa.table({"t": pa.array(days, pa.date32())}))
        writer.commit(window=Window.model_validate(f"2013-03[{zone}]"), time_column="t")
    (part,) = pick(store, window=f"2013-03-10[{zone}]")
    assert part.table()["t"].to_pylist() == [date(2013, 3, 10)]


def test_a_finer_partition_replaces_the_time_that_it_covers(store):
    put(store, "2013-01", "month")
    put(store, "2013-01-10", "day")
    assert read(store, window="2013-01-10") == [("2013-01-10", "day")]
    found = dict(read(store, window="2013-01"))
    assert len(found) == 31
    assert [day for day, tag in found.items() if tag == "day"] == ["2013-01-10"]
    assert read(store) == list(found.items())


def test_a_coarser_partition_replaces_the_days(store):
    for day in range(1, 32):
        put(store, f"2013-01-{day:02}", "day")
    put(store, "2013-01", "month")
    assert {tag for _, tag in read(store, window="2013-01")} == {"month"}
    assert read(store, window="2013-01-10") == [("2013-01-10", "month")]
    # A day that is written again is newer than the month.
    put(store, "2013-01-10", "day")
    assert read(store, window="2013-01-10") == [("2013-01-10", "day")]


days = st.integers(0, 20)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(days, st.integers(1, 9)), min_size=1, max_size=6), days, st.integers(1, 15))
def test_each_instant_is_read_once_from_the_dataset_that_was_written_last(tmp_path_factory, writes, first, length):
    store = ArtifactStore(f"memory://{tmp_path_factory.mktemp('store')}")
    start = datetime(2013, 1, 1, tzinfo=timezone.utc)
    newest: dict[str, str] = {}
    for number, (day, count) in enumerate(writes):
        window = Window(start=start + timedelta(days=day), end=start + timedelta(days=day + count))
        put(store, str(window), str(number))
        newest.update({moment.date().isoformat(): str(number) for moment in instants(window)})
    wanted = Window(start=start + timedelta(days=first), end=start + timedelta(days=first + length))
    expected = [(day, newest[day]) for moment in instants(wanted) if (day := moment.date().isoformat()) in newest]
    if expected:
        assert read(store, window=str(wanted), gaps="allow") == expected
    else:
        with pytest.raises(DatasetNotFoundError):
            pick(store, window=str(wanted), gaps="allow")


def test_pointers_of_older_versions_are_dated_by_their_manifests(store):
    month, day = put(store, "2013-01", "month"), put(store, "2013-01-10", "day")
    for manifest in (month, day):
        key = f"datasets/rows/windows/{manifest.window.key}.json"
        store.write_json(key, {"id": manifest.id, "window": str(manifest.window)})
    assert read(store, window="2013-01-10") == [("2013-01-10", "day")]


@pytest.mark.parametrize("dated", [True, False])
def test_the_last_written_window_has_precedence_even_if_the_clock_of_its_worker_is_behind(store, monkeypatch, dated):
    month = put(store, "2013-01", "month")
    if not dated:
        # As older versions of this package wrote it.
        key = f"datasets/rows/windows/{month.window.key}.json"
        store.write_json(key, {"id": month.id, "window": str(month.window)})
    behind = month.created - timedelta(hours=2)
    monkeypatch.setattr(pointers, "_now", lambda: behind)
    put(store, "2013-01-10", "day")
    assert read(store, window="2013-01-10") == [("2013-01-10", "day")]
    put(store, "2013-01", "month again")
    assert {tag for _, tag in read(store, window="2013-01")} == {"month again"}


def test_whole_datasets_reach_beyond_the_window_but_are_never_partly_replaced(store):
    put(store, "2013-01", "month")
    selection = DatasetSelection(name="rows", window=Window.model_validate("2013-01-10"))
    assert [dataset.rows for dataset in select_whole(store, selection)] == [31]
    put(store, "2013-01-20", "day")
    with pytest.raises(SchemaError, match="only a part of dataset .rows. of the window 2013-01"):
        select_whole(store, selection)


def test_finding_a_window_takes_the_same_number_of_requests_however_long_the_history(store, monkeypatch):
    calls: list[str] = []

    def count() -> int:
        calls.clear()
        pick(store, window="2013-01-02")
        return len(calls)

    for method in ("read_bytes", "keys", "exists"):
        real = getattr(ArtifactStore, method)
        monkeypatch.setattr(
            ArtifactStore,
            method,
            lambda self, key, real=real, method=method: (calls.append(method), real(self, key))[1],
        )
    for day in range(1, 4):
        put(store, f"2013-01-{day:02}")
    few = count()
    for month in range(2, 13):
        put(store, f"2013-{month:02}")
    assert count() == few <= 6


def test_a_dataset_without_a_window_is_found_by_its_name(store):
    put(store, None, "monday")
    between = datetime.now(timezone.utc)
    put(store, None, "tuesday")
    assert read(store) == [("2013-01-01", "tuesday")]
    assert read(store, at=between.isoformat()) == [("2013-01-01", "monday")]
    with pytest.raises(DatasetNotFoundError, match="no snapshot from before"):
        pick(store, at="2013")
    with pytest.raises(DatasetNotFoundError, match="only snapshots"):
        pick(store, window="2013")
    # If earlier content is written again, it becomes the newest.
    put(store, None, "monday")
    assert read(store) == [("2013-01-01", "monday")]


def test_the_newest_snapshot_is_the_last_one_whatever_the_clocks_say(store, monkeypatch):
    put(store, None, "monday")
    ahead = datetime.now(timezone.utc) + timedelta(hours=5)
    with monkeypatch.context() as clock:
        clock.setattr(pointers, "_now", lambda: ahead)
        put(store, None, "tuesday")
    put(store, None, "wednesday")
    assert read(store) == [("2013-01-01", "wednesday")]


def test_snapshots_of_older_versions_are_found(store):
    put(store, None, "monday")
    put(store, None, "tuesday")
    for key in pointers.snapshot_keys(store, "rows"):
        store.delete(key)
    assert read(store) == [("2013-01-01", "tuesday")]
    put(store, None, "wednesday")
    assert len(pointers.snapshot_keys(store, "rows")) == 3


def test_a_name_with_windows_and_snapshots_must_say_which(store):
    put(store, "2013-01")
    put(store, None)
    with pytest.raises(SpecError, match="`window`.*`at`"):
        pick(store)
    assert len(pick(store, window="2013-01")) == len(pick(store, at="2100")) == 1


def test_several_datasets_are_read_together_but_no_row_twice(store):
    january, february = put(store, "2013-01", "a"), put(store, "2013-02", "b")
    found = select(store, [february.ref, january.ref])
    assert [dataset.window.label for dataset in found] == ["2013-01", "2013-02"]
    other = put(store, "2013-01", "c", name="others")
    assert len(select(store, [january.ref, other.ref])) == 2
    with pytest.raises(SpecError, match="overlapping"):
        select(store, [january.ref, january.ref])
    snapshot = put(store, None, "s")
    with pytest.raises(SpecError, match="twice"):
        select(store, [snapshot.ref, snapshot.ref])


def test_one_dataset_is_one_whole_dataset(store):
    manifest = put(store, "2013-01")
    put(store, "2013-02")

    def one(window: str) -> str:
        return select_one(store, DatasetSelection(name="rows", window=Window.model_validate(window))).manifest.id

    assert one("2013-01") == manifest.id
    for window in ("2013-01..2013-02", "2013-01-15/2013-02"):
        with pytest.raises(SpecError, match="one whole training set"):
            one(window)


def test_a_withdrawn_window_is_not_selected_but_its_dataset_and_the_reason_stay(store):
    manifest = put(store, "2013-01", "wrong")
    (entry,) = choose(entries(store, "rows"), "2013-01", "rows")
    assert entry.pointer is not None
    pointers.withdraw(store, "rows", entry.pointer, "wrong time zone", "ada")
    with pytest.raises(DatasetNotFoundError):
        pick(store, window="2013-01")
    assert select(store, manifest.ref)[0].rows == 31
    (entry,) = entries(store, "rows")
    assert (entry.state, entry.manifest.id) == ("withdrawn", manifest.id)
    assert entry.withdrawn.endswith("by ada: wrong time zone")
    # The window can be written again, and the tombstone stays.
    put(store, "2013-01", "right")
    assert {tag for _, tag in read(store, window="2013-01")} == {"right"}
    assert [entry.state for entry in entries(store, "rows")] == ["current", "withdrawn"]


def test_withdrawn_snapshots_stay_withdrawn_even_if_no_other_snapshot_exists(store):
    for tag in ("first", "second"):
        put(store, None, tag)
    for key in pointers.snapshot_keys(store, "rows"):
        pointers.withdraw(store, "rows", pointers.read(store, key), "wrong file", "ada")
    for _ in range(2):
        assert [entry.state for entry in entries(store, "rows")] == ["withdrawn", "withdrawn"]
        with pytest.raises(DatasetNotFoundError, match="There is no dataset 'rows'"):
            pick(store)
    put(store, None, "third")
    assert {tag for _, tag in read(store)} == {"third"}
    assert [entry.state for entry in entries(store, "rows")] == ["current", "withdrawn", "withdrawn"]


def test_the_names_and_windows_of_a_store_are_listed(store):
    put(store, "2013-01", "month")
    for day in (1, 2):
        put(store, f"2013-01-{day:02}", "day")
    put(store, "2013-02", "month")
    put(store, "2013-02", "month", name="others")
    put(store, "2013-02-01..2013-02-28", "same", name="others")
    snapshot = put(store, None, name="snapshots")
    put(store, None, "newer", name="snapshots")
    assert [(entry.window.label, entry.state) for entry in entries(store, "rows") if entry.window] == [
        ("2013-01-01", "current"), ("2013-01", "partly replaced"), ("2013-01-02", "current"), ("2013-02", "current"),
    ]  # fmt: skip
    assert [entry.state for entry in entries(store, "snapshots")] == ["earlier", "current"]
    assert [(item.name, item.windows, item.snapshots) for item in all_names(store)] == [
        ("others", 1, 0), ("rows", 4, 0), ("snapshots", 0, 2),
    ]  # fmt: skip
    (chosen,) = choose(entries(store, "snapshots"), snapshot.id[:12], "snapshots")
    assert chosen.manifest == snapshot
    assert len(choose(entries(store, "rows"), "2013-01-01..2013-01-02", "rows")) == 2
    with pytest.raises(DatasetNotFoundError, match="2014"):
        choose(entries(store, "rows"), "2014", "rows")


def test_local_days_are_found_by_their_label(store):
    put(store, "2024-03-31[Europe/Berlin]")
    (chosen,) = choose(entries(store, "rows"), "2024-03-31", "rows")
    assert chosen.window is not None
    assert chosen.window.zone == "Europe/Berlin"
    assert pick(store, window="2024-03-31[Europe/Berlin]")[0].window.label == "2024-03-31[Europe/Berlin]"
