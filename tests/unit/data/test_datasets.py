"""Datasets are immutable, written completely or not at all, and identified by their content."""

from __future__ import annotations

import errno
import tempfile
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, SchemaError, StoreError
from airflow_mlops.core.windows import Window
from airflow_mlops.data import prefetch
from airflow_mlops.data.datasets import DatasetWriter, find_datasets, open_dataset
from airflow_mlops.data.datasets import writer as writing
from airflow_mlops.data.datasets.data_file import DataFile
from airflow_mlops.data.store import ArtifactStore, HashingFile

APRIL, MAY = Window.model_validate("2013-04"), Window.model_validate("2013-05")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path}")


def table(*values: int) -> pa.Table:
    return pa.table({"a": list(values), "b": [str(value) for value in values]})


def write(store: ArtifactStore, *values: int, window: Window | None = None):
    with DatasetWriter(store, "numbers") as writer:
        writer.write(table(*values))
        return writer.commit(window=window)


def wait_for_threads() -> None:
    """Wait for the threads that write files."""
    for thread in threading.enumerate():
        if thread.name.startswith("mlops-work"):
            thread.join(5)


def files(store: ArtifactStore) -> list[str]:
    return [path for path in store.fs.find(store.root) if path.endswith((".parquet", ".tmp"))]


def test_a_dataset_is_read_back_by_its_reference(store):
    manifest, existed = write(store, 1, 2, 3, window=APRIL)
    assert not existed
    dataset = open_dataset(store, manifest.ref)
    assert dataset.table().to_pydict() == {"a": [1, 2, 3], "b": ["1", "2", "3"]}
    assert [batch.num_rows for batch in dataset.batches(columns=["a"], batch_rows=2)] == [2, 1]
    assert manifest.ref.parts == {"data": 3}


def test_writing_the_same_data_again_gives_the_same_dataset_and_leaves_no_new_file(store):
    first, _ = write(store, 1, 2, window=APRIL)
    before = files(store)
    second, existed = write(store, 1, 2, window=APRIL)
    assert existed
    assert second == first
    assert files(store) == before


def test_other_data_for_a_window_makes_a_new_dataset_and_keeps_the_old_one(store):
    first, _ = write(store, 1, window=APRIL)
    second, _ = write(store, 2, window=APRIL)
    assert first.id != second.id
    assert open_dataset(store, first.ref).table()["a"].to_pylist() == [1]
    assert [found.manifest.id for found in find_datasets(store, "numbers", APRIL)] == [second.id]


def test_an_error_while_writing_leaves_no_dataset_and_no_file(store):
    with pytest.raises(RuntimeError, match="boom"), DatasetWriter(store, "numbers") as writer:
        writer.write(table(1))
        raise RuntimeError("boom")
    assert files(store) == []
    with pytest.raises(DatasetNotFoundError, match="'numbers'"):
        find_datasets(store, "numbers")


@pytest.mark.parametrize("fits", [0, 1])
def test_a_full_disk_raises_a_store_error_and_leaves_no_file(store, monkeypatch, fits):
    # A real full disk needs a mounted filesystem, so the write is made to fail as it would on one.
    real = HashingFile.write

    def full(self: HashingFile, data: bytes) -> int:
        if self.bytes >= fits:
            raise self._failed(OSError(errno.ENOSPC, "No space left on device"))
        return real(self, data)

    monkeypatch.setattr(HashingFile, "write", full)
    # The exception is kept, as it is by Airflow: Python frees its frames only later.
    with pytest.raises(StoreError, match="full") as caught:
        write(store, 1, 2, 3, window=APRIL)
    assert files(store) == []
    assert caught.value.retryable


def test_a_changed_file_is_refused(store):
    manifest, _ = write(store, 1, 2, window=APRIL)
    path = store.path(manifest.files[0].path)
    store.fs.pipe_file(path, store.fs.cat_file(path) + b"x")
    with pytest.raises(DatasetCorruptError, match=manifest.files[0].path):
        open_dataset(store, manifest.ref).table()
    # Writing the same data again repairs the dataset.
    repaired, existed = write(store, 1, 2, window=APRIL)
    assert not existed
    assert open_dataset(store, repaired.ref).table()["a"].to_pylist() == [1, 2]


def test_a_missing_file_is_refused(store):
    manifest, _ = write(store, 1)
    store.delete(manifest.files[0].path)
    with pytest.raises(DatasetCorruptError, match=manifest.files[0].path):
        open_dataset(store, manifest.ref).table()


def test_a_column_whose_type_changes_between_batches_is_named(store):
    with (
        pytest.raises(SchemaError, match="'a' .*int64 .*string"),
        DatasetWriter(store, "n") as writer,
    ):
        writer.write(pa.table({"a": [1]}))
        writer.write(pa.table({"a": ["1"]}))


def test_windows_are_returned_in_order_of_time(store):
    write(store, 5, window=MAY)
    write(store, 4, window=APRIL)
    found = find_datasets(store, "numbers", Window.model_validate("2013"))
    assert [dataset.table()["a"][0].as_py() for dataset in found] == [4, 5]


def test_the_error_for_a_missing_column_lists_the_existing_ones(store):
    manifest, _ = write(store, 1)
    with pytest.raises(SchemaError, match="no column 'c'.* a, b"):
        open_dataset(store, manifest.ref).table(columns=["c"])


def test_the_id_does_not_depend_on_how_the_files_are_written(store, monkeypatch):
    first, _ = write(store, 1, 2, window=APRIL)
    real = pq.ParquetWriter
    monkeypatch.setattr(
        "pyarrow.parquet.ParquetWriter",
        lambda file, schema, **options: real(file, schema, compression="snappy", version="1.0"),
    )
    second, existed = write(store, 1, 2, window=APRIL)
    assert existed
    assert second == first
    store.delete(first.files[0].path)
    third, existed = write(store, 1, 2, window=APRIL)
    assert not existed
    assert third.id == first.id
    assert third.files[0].sha256 != first.files[0].sha256


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["train", "test"]), st.integers(0, 11)), min_size=1, max_size=6))
def test_files_have_a_fixed_number_of_rows_however_the_rows_are_divided(pieces):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "FILE_ROWS", 4)
        store = ArtifactStore(f"file://{folder}")
        rows = {part: 0 for part, _ in pieces}
        with DatasetWriter(store, "numbers") as writer:
            for part, count in pieces:
                writer.write(table(*range(rows[part], rows[part] + count), 0)[:count], part)
                rows[part] += count
            first, _ = writer.commit()
        with DatasetWriter(store, "numbers") as writer:
            for part, count in rows.items():
                for value in range(count):
                    writer.write(table(value), part)
                writer.write(table(1)[:0], part)
            second, existed = writer.commit()
        assert existed
        assert second.id == first.id
        full = {part: [4] * (count // 4) + [count % 4] * (count % 4 > 0) for part, count in rows.items()}
        expected = [(part, count) for part, counts in full.items() for count in counts or [0]]
        assert [(file.part, file.rows) for file in first.files] == expected
        dataset = open_dataset(store, first.ref)
        for part, count in rows.items():
            assert dataset.table(part)["a"].to_pylist() == list(range(count))


def test_an_error_after_some_files_leaves_no_file(store, monkeypatch):
    monkeypatch.setattr(writing, "FILE_ROWS", 2)
    with pytest.raises(RuntimeError, match="boom"), DatasetWriter(store, "numbers") as writer:
        writer.write(table(1, 2, 3, 4, 5))
        assert len(files(store)) >= 2
        raise RuntimeError("boom")
    assert files(store) == []


@pytest.mark.parametrize("cpus", [1, 2])
def test_files_that_are_written_at_the_same_time_make_the_same_dataset(store, monkeypatch, cpus):
    monkeypatch.setattr(writing, "wanted_threads", lambda: cpus)
    parts = [("train", 5), ("train", 1), ("train", 4), ("test", 2)]
    with DatasetWriter(store, "numbers") as writer:
        for part, value in parts:
            writer.write(table(value, value + 1), part)
            writer.end_files()
        first, _ = writer.commit(window=APRIL)
    with DatasetWriter(store, "numbers") as writer:
        writer.write_files((part, iter([table(value), table(value + 1)])) for part, value in parts)
        second, existed = writer.commit(window=APRIL)
    assert existed
    assert second == first
    assert [(file.part, file.rows) for file in first.files] == [(part, 2) for part, _ in parts]
    assert len(files(store)) == 4


def test_an_error_in_the_rows_of_one_file_leaves_no_file(store, monkeypatch):
    monkeypatch.setattr(writing, "wanted_threads", lambda: 2)
    failed = threading.Event()

    def endless():
        while True:
            yield table(1)
            failed.wait(5)

    def failing():
        yield table(2)
        failed.set()
        raise RuntimeError("boom")

    def rows():
        yield "data", iter([table(0)])
        yield "data", failing()
        yield "data", endless()

    with pytest.raises(RuntimeError, match="boom"), DatasetWriter(store, "numbers") as writer:
        writer.write_files(rows())
    assert files(store) == []


def test_files_are_written_while_the_block_runs(store):
    started = threading.Event()

    def rows():
        started.set()
        yield table(1)

    with DatasetWriter(store, "numbers") as writer, writer.writing_files([("data", rows())]) as written:
        assert started.wait(5)
        written()
        manifest, _ = writer.commit()
    assert manifest.rows == 1


def test_an_error_while_files_are_written_stops_their_writing(store):
    started = threading.Event()

    def endless():
        while True:
            yield table(1)
            started.set()

    with (
        pytest.raises(RuntimeError, match="boom"),
        DatasetWriter(store, "numbers") as writer,
        writer.writing_files([("data", endless())]),
    ):
        assert started.wait(5)
        raise RuntimeError("boom")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mlops-work")]
    assert files(store) == []


def test_a_file_that_is_complete_only_after_its_writer_has_failed_is_deleted(store, monkeypatch):
    closing, failed = threading.Event(), threading.Event()
    close = DataFile.close

    def slow(file):
        closing.set()
        assert failed.wait(5)
        return close(file)

    monkeypatch.setattr(DataFile, "close", slow)
    monkeypatch.setattr(prefetch, "_CANCELLED_END", 0.1)
    with (
        pytest.raises(RuntimeError, match="boom"),
        DatasetWriter(store, "numbers") as writer,
        writer.writing_files([("data", iter([table(1)]))]),
    ):
        assert closing.wait(5)
        raise RuntimeError("boom")
    failed.set()
    wait_for_threads()
    assert files(store) == []


def test_an_error_does_not_wait_until_a_slow_store_has_the_whole_row_group(store, monkeypatch):
    started, failed, written = threading.Event(), threading.Event(), []

    def slow(**counts):
        written.append(counts)
        if len(written) == 3:
            started.set()
            assert failed.wait(5)

    rows = pa.table({f"c{number}": [number] for number in range(100)})
    monkeypatch.setattr(store.traffic, "count", slow)
    monkeypatch.setattr(prefetch, "_CANCELLED_END", 0.1)
    with (
        pytest.raises(RuntimeError, match="boom"),
        DatasetWriter(store, "numbers") as writer,
        writer.writing_files([("data", iter([rows]))]),
    ):
        assert started.wait(5)
        raise RuntimeError("boom")
    failed.set()
    wait_for_threads()
    assert len(written) == 3
    assert files(store) == []


def test_an_error_of_writing_in_the_background_is_raised(store):
    other = pa.table({"a": [1.5], "b": ["x"]})
    with (
        pytest.raises(SchemaError, match="column 'a'"),
        DatasetWriter(store, "numbers") as writer,
        writer.writing_files([("data", iter([table(1), other]))]) as written,
    ):
        written()
    assert files(store) == []


def test_files_with_different_columns_are_refused(store):
    other = pa.table({"a": [1.5], "b": ["x"]})
    with pytest.raises(SchemaError, match="column 'a'"), DatasetWriter(store, "numbers") as writer:
        writer.write_files([("data", iter([table(1)])), ("data", iter([table(2), other]))])
    assert files(store) == []
