"""Datasets of several files: files without a manifest, files of other writers, and reading only the files that are needed."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, SchemaError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, DatasetWriter, WrittenFiles, find_datasets, open_dataset
from airflow_mlops.data.store import ArtifactStore

APRIL = Window.model_validate("2013-04")


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path}")


def written(store: ArtifactStore, *groups: list[int]) -> WrittenFiles:
    """A file in which each list of numbers is a row group, without a manifest."""
    with DatasetWriter(store, "numbers") as writer:
        for numbers in groups:
            writer.write(pa.table({"a": pa.array(numbers, pa.int64()), "b": pa.array(map(str, numbers), pa.string())}))
        return writer.finish()


def committed(store: ArtifactStore, *files: WrittenFiles) -> Dataset:
    with DatasetWriter(store, "numbers") as writer:
        for item in files:
            writer.include(item)
        return open_dataset(store, writer.commit(window=APRIL)[0].ref)


def test_finished_files_are_seen_once_a_writer_includes_them_and_are_not_copied(store):
    first, second = written(store, [1, 2]), written(store, [3])
    with pytest.raises(DatasetNotFoundError):
        find_datasets(store, "numbers")
    keys = store.find("datasets/numbers/files")
    dataset = committed(store, first, second)
    assert dataset.table()["a"].to_pylist() == [1, 2, 3]
    assert (dataset.ref.rows, dataset.ref.parts) == (3, {"data": 3})
    dataset.verify()
    # Another commit of the same files is the same dataset.
    assert committed(store, first, second).manifest == dataset.manifest
    assert store.find("datasets/numbers/files") == keys
    assert committed(store, second, first).manifest.id != dataset.manifest.id


def test_files_with_other_columns_are_refused_and_stay(store):
    first = written(store, [1])
    with DatasetWriter(store, "numbers") as writer:
        writer.write(pa.table({"a": [1.5]}))
        other = writer.finish()
    with pytest.raises(SchemaError, match=r"column 'b' is absent, column 'a' was int64 and is now double"):
        committed(store, first, other)
    assert len(store.find("datasets/numbers/files")) == 2


def test_only_the_files_of_the_span_are_read_and_checked(store):
    files = [written(store, [1, 2]), written(store, [3, 4]), written(store, [5])]
    dataset = committed(store, *files)
    store.write_bytes(files[1].files[0].path, b"damaged")
    (batch,) = dataset.batches(columns=["a"], span=range(4, 5))
    assert batch["a"].to_pylist() == [5]
    with pytest.raises(DatasetCorruptError):
        list(dataset.batches(span=range(1, 3)))


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(1, 12),
)
@settings(max_examples=25, deadline=None)
def test_a_span_has_its_rows_in_batches_that_begin_at_its_start_in_each_file(layout, start, length, batch_rows):
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}")
    files, first = [], 0
    for groups in layout:
        numbers = [
            list(range(first + sum(groups[:place]), first + sum(groups[: place + 1]))) for place in range(len(groups))
        ]
        files.append(written(store, *numbers))
        first += sum(groups)
    dataset = committed(store, *files)
    found = list(dataset.batches(columns=["a"], batch_rows=batch_rows, span=range(start, start + length)))
    assert [value for batch in found for value in batch["a"].to_pylist()] == list(range(first))[start : start + length]
    expected, first = [], 0
    for groups in layout:
        wanted = range(max(start, first), min(start + length, first + sum(groups)))
        expected += [len(wanted[place : place + batch_rows]) for place in range(0, len(wanted), batch_rows)]
        first += sum(groups)
    assert [batch.num_rows for batch in found] == expected
