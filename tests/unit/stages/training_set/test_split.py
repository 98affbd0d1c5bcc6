"""A split is reproducible, does not depend on the order of rows, and never puts one row into both parts."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SchemaError, SpecError, TrainingError
from airflow_mlops.data import relational, row_identity, sorting, spool
from airflow_mlops.data.row_identity import row_ids
from airflow_mlops.stages.training_set import splits as parts_of
from airflow_mlops.stages.training_set.spec import Split

HOUR = 3_600_000_000


def table(keys: list[int], hours: list[int], planes: list[str | None] | None = None) -> pa.Table:
    times = pa.array([hour * HOUR for hour in hours], pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pa.table({"key": keys, "time": times, "plane": pa.array(planes or ["x"] * len(keys), pa.string())})


def divide(data, split, timestamp, identity, **options):
    ids = row_ids(data, parts_of.row_columns(split, identity, data.column_names))
    parts, prove = parts_of.divide(data.append_column("id", pa.array(ids)), split, timestamp, "id", **options)
    proof = prove()
    assert proof.are_distinct == (len(set(ids.tolist())) == len(ids))
    return {part: mask.slice(0, len(mask)) for part, mask in parts.items()}, proof.description


rows = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20), st.sampled_from(["a", "b", "c", "d", None])),
    min_size=1,
    max_size=80,
)
splits = st.one_of(
    st.builds(lambda method, size, seed: {"method": method, "test_size": size, "seed": seed},
              st.sampled_from(["random", "time", "hash"]), st.floats(0.05, 0.95), st.integers(0, 5)),
    st.builds(lambda size, seed: {"method": "group", "group": "plane", "test_size": size, "seed": seed},
              st.floats(0.05, 0.95), st.integers(0, 5)),
    st.builds(lambda hours: {"method": "time", "test_size": f"{hours}h"}, st.integers(1, 25)),
    st.builds(lambda hours, gap: {"method": "time", "test_size": f"{hours}h", "gap": f"{gap}h"},
              st.integers(1, 25), st.integers(1, 8)),
    st.builds(lambda size, seed: {"method": "random", "stratify": True, "test_size": size, "seed": seed},
              st.floats(0.05, 0.95), st.integers(0, 5)),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(rows, splits, st.randoms(use_true_random=False))
def test_every_split_is_disjoint_complete_and_independent_of_order(data, options, random):
    split = Split.model_validate(options)
    original = table(*map(list, zip(*data, strict=True)))
    shuffled = list(range(len(data)))
    random.shuffle(shuffled)
    try:
        parts, facts = divide(original, split, "time", ["key", "time"], label="plane")
    except TrainingError as error:
        # The same part is empty for any order of the rows.
        with pytest.raises(TrainingError, match="leaves the split part"):
            divide(original.take(shuffled), split, "time", ["key", "time"], label="plane")
        assert "leaves the split part" in str(error)  # noqa: PT017
        return
    again, facts_again = divide(original.take(shuffled), split, "time", ["key", "time"], label="plane")
    for part, mask in parts.items():
        assert np.array_equal(mask[shuffled], again[part])
    assert facts == facts_again
    train, test = parts["train"], parts["test"]

    named = ["key", "time", "plane"] if split.method == "group" else ["key", "time"]
    identity = [tuple(row.values()) for row in original.select(named).to_pylist()]
    train_rows = {identity[i] for i in np.flatnonzero(train)}
    test_rows = {identity[i] for i in np.flatnonzero(test)}
    assert train_rows
    assert test_rows
    assert not train_rows & test_rows
    assert facts["overlap"] == 0
    assert facts["rows"] == {"train": int(train.sum()), "test": int(test.sum())}
    assert facts["row_ids"]["train"] != facts["row_ids"]["test"]
    times = np.array(original["time"].to_pylist())
    if split.method == "time":
        gap = split.gap or timedelta(0)
        assert times[train].max() < times[test].min() - gap
        # No other row is left out.
        between = ~train & ~test
        assert facts.get("gap", {"rows": 0})["rows"] == between.sum()
        assert all(times[test].min() - gap <= time < times[test].min() for time in times[between])
    else:
        assert (train ^ test).all()
    if split.method == "group":
        planes = np.array(original["plane"].to_pylist(), object)
        assert not set(planes[test]) & set(planes[train])
        assert facts["groups"] == {"train": len(set(planes[train])), "test": len(set(planes[test]))}
        assert facts["group_overlap"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"method": "time", "test_size": 0.3},
        {"method": "time", "test_size": "90h", "gap": "20h", "windows": 3},
        {"method": "random", "test_size": 0.3},
        {"method": "hash", "test_size": 0.3},
        {"method": "group", "group": "plane", "test_size": 0.3},
        {"method": "random", "stratify": True, "test_size": 0.3},
    ],
    ids=lambda options: "".join(map(str, options.values())),
)
def test_batches_and_the_database_do_not_change_a_split(monkeypatch, options):
    rng = np.random.default_rng(0)
    planes = [f"P{number}" for number in rng.zipf(1.5, 500) % 40]
    data = table(rng.integers(0, 200, 500).tolist(), rng.integers(0, 400, 500).tolist(), planes)
    split = Split.model_validate(options)
    # Rows with equal keys have different classes, so the class of a row depends on other batches.
    identity = ["key", "time"] if split.method == "time" else ["key"]
    parts, facts = divide(data, split, "time", identity, label="plane")
    for module, name in ((parts_of, "BATCH_ROWS"), (row_identity, "_SLICE_ROWS"), (spool, "BATCH_ROWS")):
        monkeypatch.setattr(module, name, 7)
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", 0)
    again, facts_again = divide(data, split, "time", identity, label="plane")
    assert facts == facts_again
    assert {part: mask.tolist() for part, mask in parts.items()} == {
        part: mask.tolist() for part, mask in again.items()
    }


def test_the_hashes_of_rows_are_those_of_sorted_ids():
    """Manifests of older releases have these hashes."""
    data = table(list(range(100)), list(range(100)))
    parts, facts = divide(data, Split(test_size=0.2), "time", ["key", "time"])
    ids = row_ids(data, ["key", "time"])
    expected = {part: hashlib.sha256(np.sort(ids[mask]).tobytes()).hexdigest() for part, mask in parts.items()}
    assert facts["row_ids"] == expected


def test_the_default_holds_out_the_latest_thirty_percent():
    hours = list(range(1000))[::-1]
    parts, facts = divide(table(list(range(1000)), hours), Split(), "time", ["key", "time"])
    assert parts["test"].tolist() == [hour >= 700 for hour in hours]
    assert facts["method"] == "time"
    with pytest.raises(TrainingError, match="set another method if the rows have no order in time"):
        divide(table(list(range(1000)), [0] * 1000), Split(), "time", ["key", "time"])


def test_a_random_split_holds_out_exactly_thirty_percent():
    parts, facts = divide(table(list(range(1000)), [0] * 1000), Split(method="random"), "time", ["key", "time"])
    assert parts["test"].sum() == 300
    assert facts["method"] == "random"


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    data = table(list(range(1000)), [0] * 1000)
    one, again, other = (
        divide(data, Split(method="random", seed=seed), "time", ["key"])[0]["test"] for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    # Two independent choices of 300 out of 1000 share about 90.
    assert 50 < (one & other).sum() < 130


def test_by_hash_a_row_stays_in_its_part_when_rows_are_added():
    few = divide(table(list(range(500)), [0] * 500), Split(method="hash"), "time", ["key"])[0]["test"]
    many = divide(table(list(range(2000)), [0] * 2000), Split(method="hash"), "time", ["key"])[0]["test"]
    assert np.array_equal(few, many[:500])
    assert 0.26 < many.mean() < 0.34


def test_a_duration_holds_out_the_last_days_before_the_last_event():
    hours = list(range(24 * 30))
    parts, facts = divide(table(hours, hours), Split(method="time", test_size="14D"), "time", ["key"])
    assert parts["test"].sum() == 14 * 24
    assert facts["test_size"] == "14D"
    assert facts["time"] == {
        "train": ["1970-01-01T00:00:00Z", "1970-01-16T23:00:00Z"],
        "test": ["1970-01-17T00:00:00Z", "1970-01-30T23:00:00Z"],
    }


def test_the_held_out_time_is_divided_into_windows_of_equal_length():
    hours = list(range(24 * 30))
    split = Split(method="time", test_size="9D", windows=3, gap="7D")
    parts, facts = divide(table(hours, hours), split, "time", ["key"])
    assert parts["test"].sum() == 9 * 24
    # The last held-out event is at 23:00, and the windows end a microsecond later.
    assert [window["start"] for window in facts["windows"]] == [
        f"1970-01-{day}T23:00:00.000001Z" for day in (21, 24, 27)
    ]
    assert [window["rows"] for window in facts["windows"]] == [72, 72, 72]
    # Each window ends where the next one starts.
    assert [window["end"] for window in facts["windows"][:2]] == [window["start"] for window in facts["windows"][1:]]
    few = table([0, 1, 2, 3, 9, 10], [0, 1, 2, 3, 9, 10])
    _, facts = divide(few, Split(method="time", test_size=0.5, windows=2), "time", ["key"])
    assert [window["rows"] for window in facts["windows"]] == [1, 2]
    with pytest.raises(TrainingError, match=r"Window 2 of the 3 windows .* has no rows"):
        divide(few, Split(method="time", test_size=0.5, windows=3), "time", ["key"])
    with pytest.raises(ValidationError, match="`windows` is set, but the method is 'random'"):
        Split(method="random", windows=2)


def test_rows_of_one_identity_stay_in_one_part():
    parts, _ = divide(table([1, 2, 3, 4] * 50, [0] * 200), Split(method="random", test_size=0.5), "time", ["key"])
    test = parts["test"]
    keys = np.array([1, 2, 3, 4] * 50)
    assert not set(keys[test]) & set(keys[~test])


def test_a_gap_leaves_out_the_rows_whose_labels_depend_on_the_held_out_time():
    hours = list(range(24 * 30))
    parts, facts = divide(table(hours, hours), Split(method="time", test_size="10D", gap="7D"), "time", ["key"])
    assert facts["time"]["train"] == ["1970-01-01T00:00:00Z", "1970-01-13T23:00:00Z"]
    assert facts["time"]["test"][0] == "1970-01-21T00:00:00Z"
    assert facts["gap"] == {"duration": "7D", "seconds": 7 * 86400, "rows": 7 * 24}
    assert parts["train"].sum() + parts["test"].sum() == 24 * 23
    with pytest.raises(TrainingError, match=r"test_size=10D and gap=20D leaves the split part 'train' empty"):
        divide(table(hours, hours), Split(method="time", test_size="10D", gap="20D"), "time", ["key"])


def test_stratified_parts_have_the_same_shares_of_the_classes():
    labels = ["rare"] * 10 + ["common"] * 990
    data = table(list(range(1000)), [0] * 1000, labels)
    held_out = np.array(labels)[
        divide(data, Split(method="random", stratify=True), "time", ["key"], label="plane")[0]["test"]
    ]
    assert (held_out == "rare").sum() == 3
    assert (held_out == "common").sum() == 297
    # Without ``stratify``, the number of rare rows varies.
    plain = [
        divide(data, Split(method="random", seed=seed), "time", ["key"])[0]["test"][:10].sum() for seed in range(8)
    ]
    assert len(set(plain)) > 1


def test_equal_rows_with_different_labels_stay_in_one_part_of_a_stratified_split():
    keys, labels = [number // 2 for number in range(200)], ["a", "b"] * 100
    test = divide(
        table(keys, [0] * 200, labels), Split(method="random", stratify=True), "time", ["key"], label="plane"
    )[0]["test"]
    assert np.array_equal(test[::2], test[1::2])


@pytest.mark.parametrize("split", [Split(method="time", test_size="300D"), Split(method="random", test_size=0.01)])
def test_an_empty_part_is_an_error_that_names_the_part(split):
    with pytest.raises(TrainingError, match=r"leaves the split part '(train|test)' empty .* Change `test_size`"):
        divide(table(list(range(10)), list(range(10))), split, "time", ["key"])


def test_a_group_that_is_not_a_column_is_named():
    with pytest.raises(SchemaError, match="no column 'tail', which is the group column"):
        divide(table([1, 2], [1, 2]), Split(method="group", group="tail"), "time", ["key"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sideways"}, "method"),
        ({"test_size": 1.5}, "between 0 and 1"),
        ({"method": "random", "test_size": "14D"}, "`test_size` is a duration, .*'random'.* 'time'"),
        ({"method": "time", "test_size": "0D"}, "longer than zero"),
        ({"method": "group"}, "'group', but `group` is not set"),
        ({"method": "random", "group": "plane"}, "`group` is set, but the method 'random'"),
        ({"method": "time", "test_size": "soon"}, "test_size"),
        ({"method": "hash", "gap": "7D"}, "`gap` is set, but the method is 'hash'"),
        ({"method": "time", "gap": 7}, "7 has no unit"),
        ({"method": "time", "gap": "0D"}, "`gap` must be longer than zero"),
        ({"method": "time", "stratify": True}, "`stratify` is true, but the method is 'time'"),
    ],
)
def test_an_invalid_split_is_refused(options, message):
    with pytest.raises(SpecError, match=message):
        parse(Split, options, "The split")


def test_a_templated_share_is_read_as_a_number():
    assert Split.model_validate({"test_size": "0.25"}).test_size == 0.25
    assert Split.model_validate({"method": "time", "test_size": "36h"}).test_size == timedelta(hours=36)


def test_ids_depend_on_values_and_not_on_widths_of_types():
    small = pa.table({"a": pa.array([1, None, 3], pa.int32()), "b": pa.array(["x", "y", None])})
    wide = pa.table({"a": pa.array([1, None, 3], pa.int64()), "b": pa.array(["x", "y", None], pa.large_string())})
    assert np.array_equal(row_ids(small, ["a", "b"]), row_ids(wide, ["a", "b"]))
    # A missing value differs from the text with which it is encoded.
    assert len(set(row_ids(pa.table({"a": ["~", None, "", "=~"]}), ["a"]))) == 4
    # The boundary between two values counts.
    assert len(set(row_ids(pa.table({"a": ["x", "x="], "b": ["=y", "y"]}), ["a", "b"]))) == 2


def test_a_sort_beside_the_writing_of_files_takes_little_memory_by_default(monkeypatch):
    monkeypatch.delenv("MLOPS_MEMORY", raising=False)
    monkeypatch.setattr(relational, "available_memory", lambda processes=1: 64_000_000_000)
    monkeypatch.setattr(relational, "available_cpus", lambda: 2)
    assert parts_of.sort_memory(None) == "300MB"
    assert parts_of.sort_memory("2GB") == "2GB"
