"""Profiles of shards: every row is in one shard, and only complete sets of shards are merged."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, SchemaError, SpecError
from airflow_mlops.core.references import DatasetSelection
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, DatasetWriter, open_dataset
from airflow_mlops.data.datasets import writer as writing
from airflow_mlops.data.selection import select
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.profiles import shards
from airflow_mlops.profiles.profile import profile
from airflow_mlops.profiles.shards import Shard
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.profile import step
from airflow_mlops.stages.profile.spec import ProfileSpec


@pytest.fixture(autouse=True, scope="module")
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_FEWEST_ROWS", 10)
        yield


@pytest.fixture
def memory() -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid.uuid4().hex}")


def made(store: ArtifactStore, *groups: int, name: str = "rows", first: int = 0) -> Dataset:
    """A dataset with row groups of these sizes; the values of ``x`` are unique."""
    with DatasetWriter(store, name) as writer:
        for rows in groups:
            numbers = np.arange(first, first + rows)
            writer.write(pa.table({"x": numbers, "s": [f"v{number % 7}" for number in numbers], "t": [None] * rows}))
            first += rows
        return open_dataset(store, writer.commit()[0].ref)


def every_shard(store: ArtifactStore, datasets: list[Dataset], count: int) -> list[Shard]:
    ids = [dataset.manifest.id for dataset in datasets]
    return [
        Shard(
            datasets=ids,
            shard=number,
            shards=count,
            profile=profile(shards.batches(datasets, ["x", "s"], number, count)),
        )
        for number in range(count)
    ]


LAYOUTS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=3)


@given(LAYOUTS, st.integers(1, 9))
@settings(max_examples=40)
def test_every_row_is_in_exactly_one_shard_and_the_shards_merge_to_what_one_pass_gives(layout, count):
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}")
    datasets = [made(store, *groups, first=1_000 * number) for number, groups in enumerate(layout)]
    rows = [
        value
        for number in range(count)
        for batch in shards.batches(datasets, ["x"], number, count)
        for value in batch.column("x").to_pylist()
    ]
    assert sorted(rows) == [value for dataset in datasets for value in dataset.table()["x"].to_pylist()]
    merged = shards.whole(every_shard(store, datasets, count)[::-1], datasets)
    whole = profile(batch for dataset in datasets for batch in dataset.batches(columns=["x", "s"]))
    assert merged.rows == whole.rows
    apart = {"mean", "std", "sketch", "distinct_sketch"}
    for name, column in whole.columns.items():
        assert merged.columns[name].model_dump(exclude=apart) == column.model_dump(exclude=apart)
    for name in ("mean", "std"):
        assert getattr(merged.columns["x"], name) == pytest.approx(getattr(whole.columns["x"], name), nan_ok=True)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([0, 1], ["'rows' has 3 shards", "no profiles of shard 2.", "shard=list(range(3))"]),
        ([2], ["'rows' has 3 shards", "no profiles of shards 0, 1"]),
        ([0, 1, 2, 1], ["'rows' has 3 shards", "several of shard 1"]),
        ([0, 0, 2, 2], ["'rows' has 3 shards", "no profiles of shard 1", "several of shards 0, 2"]),
    ],
)  # fmt: skip
def test_missing_and_repeated_shards_are_refused(given, named, memory):
    data = made(memory, 10, 10, 10)
    three = every_shard(memory, [data], 3)
    with pytest.raises(SpecError) as error:
        shards.whole([three[number] for number in given], [data])
    assert [part for part in named if part not in str(error.value)] == []


def test_shards_of_other_rows_or_of_another_number_are_refused(memory):
    data, other = made(memory, 10, 10), made(memory, 10, 11)
    two = every_shard(memory, [data], 2)
    with pytest.raises(SpecError, match=r"dataset 'rows' \("):
        shards.whole(two, [other])
    # The profiles are also refused if their dataset is only one of the monitored datasets.
    with pytest.raises(SpecError, match="dataset 'rows'"):
        shards.whole(two, [data, other])
    with pytest.raises(SpecError, match=r"profiles of dataset 'rows' .*\(1 and 2\)"):
        shards.whole([two[0], *every_shard(memory, [data], 1)], [data])
    narrow = two[1].model_copy(
        update={"profile": two[1].profile.model_copy(update={"columns": {"x": two[1].profile.columns["x"]}})}
    )
    with pytest.raises(SchemaError, match=r"\['s'\]"):
        shards.whole([two[0], narrow], [data])


def test_the_profile_of_a_part_of_a_dataset_is_not_the_profile_of_the_whole(memory):
    days = [datetime(2013, 4, day, tzinfo=timezone.utc) for day in range(1, 31)]
    with DatasetWriter(memory, "rows") as writer:
        writer.write(pa.table({"at": days, "x": range(30)}))
        writer.commit(window=Window.model_validate("2013-04"), time_column="at")
    context, selections = (
        StepContext(memory),
        [{"name": "rows", "window": window} for window in ("2013-04", "2013-04-02")],
    )
    for chosen, rows in zip(selections, (30, 1), strict=True):
        spec = parse(ProfileSpec, {"dataset": chosen, "columns": ["x"]}, "Step 'profile'")
        stored = shards.read(memory, step.run(spec, context).profile)
        whole, part = (select(memory, DatasetSelection(**item)) for item in selections)
        own, other = (whole, part) if rows == 30 else (part, whole)
        assert shards.whole([stored], own).rows == rows
        with pytest.raises(SpecError, match="do not belong to the monitored dataset 'rows'"):
            shards.whole([stored], other)


def test_a_stored_shard_is_read_unchanged_or_refused(memory):
    (shard,) = every_shard(memory, [made(memory, 10)], 1)
    ref = shards.write(memory, "rows", shard)
    assert (ref.shard, ref.shards, ref.rows) == (0, 1, 10)
    assert shards.read(memory, ref) == shard
    # A retry writes the same file.
    assert shards.write(memory, "rows", shard) == ref
    (key,) = memory.keys("datasets/rows/profiles")
    whole = memory.read_bytes(key)
    other = shards.write(memory, "rows", shard.model_copy(update={"shards": 2}))
    for changed in (whole[:-1], memory.read_bytes(f"datasets/rows/profiles/{other.id}.json.gz")):
        memory.write_bytes(key, changed)
        with pytest.raises(DatasetCorruptError, match="shard 0 of dataset 'rows'"):
            shards.read(memory, ref)
    memory.delete(key)
    with pytest.raises(DatasetNotFoundError, match="shard 0 of dataset 'rows'.*memory://"):
        shards.read(memory, ref)


def test_without_a_model_all_supported_columns_are_profiled(memory):
    data = made(memory, 30, 20)
    context = StepContext(store=memory)
    done = step.run(ProfileSpec(dataset=data.ref), context)
    found = shards.read(memory, done.profile)
    assert (set(found.profile.columns), found.profile.rows) == ({"x", "s", "t"}, 50)
    assert done.summary == "Profiled 50 rows and 3 columns of dataset 'rows'."
    done = step.run(ProfileSpec(dataset=data.ref, columns=["s"], shard=1, shards=2), context)
    assert set(shards.read(memory, done.profile).profile.columns) == {"s"}
    assert done.summary == "Profiled 25 rows and 1 column of shard 1 of 2 of dataset 'rows'."
    with pytest.raises(SchemaError, match="rows.*'y'.*x, s, t"):
        step.run(ProfileSpec(dataset=data.ref, columns=["y"]), context)


def test_an_empty_dataset_fails_or_is_skipped(memory):
    nothing = {"dataset": {"name": "nobodys", "window": "2013-04"}}
    with pytest.raises(DatasetNotFoundError):
        step.run(ProfileSpec(**nothing), StepContext(store=memory))
    done = step.run(ProfileSpec(**nothing, on_missing="skip"), StepContext(store=memory))
    assert done.profile is None
    assert done.summary.startswith("Nothing was profiled. There is no dataset 'nobodys' in the window 2013-04")


def test_a_shard_number_out_of_range_is_refused():
    with pytest.raises(SpecError, match="shard=8.*0 and 7"):
        parse(ProfileSpec, {"dataset": {"name": "rows"}, "shard": 8, "shards": "8"}, "The test")


def test_a_shard_reads_only_its_files(memory, monkeypatch):
    monkeypatch.setattr(writing, "FILE_ROWS", 50)
    data = made(memory, 200)
    last = data.manifest.files[-1]
    memory.delete(last.path)
    for shard in range(3):
        (_, *batches) = shards.batches([open_dataset(memory, data.ref)], ["x"], shard, 4)
        assert sum(batch.num_rows for batch in batches) == 50
    with pytest.raises(DatasetCorruptError, match=last.path):
        list(shards.batches([open_dataset(memory, data.ref)], ["x"], 3, 4))
