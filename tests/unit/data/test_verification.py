"""``Dataset.verify`` compares the stored rows with the id of the dataset, even if their SHA-256 in the manifest was changed."""

from __future__ import annotations

import hashlib
import io
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.errors import DatasetCorruptError
from airflow_mlops.data.datasets import DatasetWriter, Manifest, open_dataset
from airflow_mlops.data.datasets.manifest import manifest_key
from airflow_mlops.data.store import ArtifactStore

ROWS = pa.table({"a": pa.array([1, 2, None], pa.int64()), "b": pa.array([3, 4, 5], pa.int64()), "c": ["x", "yy", None]})
TIME = datetime(2024, 3, 1, tzinfo=timezone.utc)
EVERY_TYPE = pa.table(
    {
        "bool": pa.array([True, None]),
        "unsigned": pa.array([2**64 - 1, None], pa.uint64()),
        "half": pa.array([1.5, None], pa.float32()),
        "decimal": pa.array([Decimal("1.50"), None], pa.decimal128(20, 2)),
        "text": pa.array(["\u6f22", None]),
        "long": pa.array(["x", ""], pa.large_string()),
        "binary": pa.array([b"\0", None]),
        "date": pa.array([TIME.date(), None], pa.date32()),
        "time": pa.array([TIME, None], pa.timestamp("us", "UTC")),
        "list": pa.array([[1, None], []], pa.list_(pa.int64())),
        "struct": pa.array(
            [{"x": 1.0, "y": ["a"]}, None], pa.struct([("x", pa.float64()), ("y", pa.list_(pa.string()))])
        ),
        "category": pa.array(["p", None]).dictionary_encode(),
    }
)


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    return ArtifactStore(tmp_path.as_uri() if request.param == "file" else f"memory://{tmp_path}")


def write(store: ArtifactStore, rows: pa.Table = ROWS, parts: tuple[str, ...] = ("train", "test")) -> Manifest:
    with DatasetWriter(store, "numbers") as writer:
        for part in parts:
            writer.write(rows, part)
        return writer.commit()[0]


def replace_file(store: ArtifactStore, manifest: Manifest, content: bytes) -> None:
    """Replace the rows of the part ``test`` together with their SHA-256 in the manifest, which keeps its id."""
    train, test = manifest.files
    store.write_bytes(test.path, content)
    forged = test.model_copy(update={"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
    changed = manifest.model_copy(update={"files": [train, forged]})
    assert changed.identity() == manifest.id
    store.write_json(manifest_key("numbers", manifest.id), changed.model_dump(mode="json"))


def parquet(rows: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(rows, file, **options)
    return file.getvalue()


CHANGES = {
    "a value": parquet(ROWS.set_column(1, "b", pa.array([3, 4, 6], pa.int64()))),
    "a null": parquet(ROWS.set_column(2, "c", pa.array(["x", "yy", ""]))),
    "the order of rows": parquet(ROWS.take([1, 0, 2])),
    "fewer rows": parquet(ROWS.slice(0, 2)),
    "names of columns": parquet(ROWS.rename_columns(["b", "a", "c"])),
    # The integers and the floating-point numbers have the same bytes.
    "a type": parquet(ROWS.set_column(1, "b", pa.array(ROWS["b"].combine_chunks().view(pa.float64())))),
    "an added column": parquet(ROWS.append_column("d", pa.array([1, 2, 3]))),
    "a lost column": parquet(ROWS.drop_columns(["c"])),
    "no Parquet": b"PAR1 and nothing else",
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_were_changed_together_with_the_manifest_are_found_and_repaired(store, change):
    manifest = write(store)
    open_dataset(store, manifest.ref).verify()
    replace_file(store, manifest, CHANGES[change])
    changed = open_dataset(store, manifest.ref)
    # The bytes are those of the manifest.
    changed.verify_bytes()
    changed.verify("train")
    with pytest.raises(DatasetCorruptError, match=manifest.files[1].path):
        changed.verify()
    assert write(store).id == manifest.id
    open_dataset(store, manifest.ref).verify()


def test_the_same_rows_in_other_bytes_are_the_same_dataset(store):
    manifest = write(store)
    replace_file(store, manifest, parquet(ROWS, compression="gzip", version="1.0", row_group_size=1))
    open_dataset(store, manifest.ref).verify()


@pytest.mark.parametrize("rows", [EVERY_TYPE, EVERY_TYPE.slice(0, 0), EVERY_TYPE.slice(1)])
def test_rows_of_every_type_are_verified(store, rows):
    manifest = write(store, rows)
    open_dataset(store, manifest.ref).verify()


def test_other_bytes_and_missing_files_are_found(store):
    manifest = write(store)
    store.write_bytes(manifest.files[0].path, parquet(ROWS, compression="gzip"))
    with pytest.raises(DatasetCorruptError, match=manifest.files[0].path):
        open_dataset(store, manifest.ref).verify()
    store.delete(manifest.files[0].path)
    with pytest.raises(DatasetCorruptError, match="does not exist"):
        open_dataset(store, manifest.ref).verify()


def test_threads_hash_a_file_once_and_a_copy_in_another_process_does_not_hash_it_again(tmp_path, monkeypatch):
    store = ArtifactStore(f"file://{tmp_path}/store")
    with DatasetWriter(store, "numbers") as writer:
        writer.write(ROWS)
        dataset = open_dataset(store, writer.commit()[0].ref)
    hashed, hash_file = [], ArtifactStore.sha256

    def slow(self, key):
        hashed.append(key)
        time.sleep(0.1)
        return hash_file(self, key)

    monkeypatch.setattr(ArtifactStore, "sha256", slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: dataset.verify_bytes(), range(2)))
    pickle.loads(pickle.dumps(dataset)).verify_bytes()
    assert len(hashed) == 1
