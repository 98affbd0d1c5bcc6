"""A damaged, foreign or newer manifest is refused in one sentence, and is repaired when its dataset is written again."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.errors import DatasetCorruptError, DatasetFormatError, DatasetPurgedError, MLOpsError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import (
    Dataset,
    DatasetWriter,
    Manifest,
    find_datasets,
    in_slot,
    mark_purged,
    neighbouring_manifest,
    open_dataset,
)
from airflow_mlops.data.datasets.manifest import FORMAT, manifest_key, parse_manifest
from airflow_mlops.data.datasets.pointers import windows_of
from airflow_mlops.data.store import ArtifactStore

MARCH, APRIL, MAY = (Window.model_validate(f"2013-0{month}") for month in (3, 4, 5))


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    return ArtifactStore(tmp_path.as_uri() if request.param == "file" else f"memory://{tmp_path}")


def write(store: ArtifactStore, window: Window | None = APRIL, values: tuple[int, ...] = (1, 2)) -> Manifest:
    with DatasetWriter(store, "numbers") as writer:
        writer.write(pa.table({"a": values}))
        manifest, _ = writer.commit(window=window, details={"split": {"test_size": 0.3}, "features": ["a"]})
    return manifest


def changed(manifest: Manifest, **values: object) -> dict[str, object]:
    return {**manifest.model_dump(mode="json"), **values}


FILE = {"part": "data", "rows": 2, "bytes": 3, "sha256": "0"}
DAMAGES = {
    "empty": lambda manifest: b"",
    "cut off": lambda manifest: json.dumps(changed(manifest)).encode()[:-20],
    "binary": lambda manifest: b"\xff\xfe\x00",
    "null": lambda manifest: b"null",
    "a list": lambda manifest: b"[1]",
    "another file": lambda manifest: b'{"decision": "promoted"}',
    "a field": lambda manifest: changed(manifest, rows="many"),
    "rows": lambda manifest: changed(manifest, columns=[{"name": "b", "type": "int64"}]),
    "details": lambda manifest: changed(manifest, details={"features": ["b"]}),
    "another id": lambda manifest: changed(manifest, id="0" * 64),
    "another name": lambda manifest: changed(manifest, name="others"),
    "files": lambda manifest: changed(manifest, files=[{**FILE, "path": "datasets/numbers/files/x.parquet"}]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_refused_and_repaired(store, damage):
    manifest = write(store)
    content = DAMAGES[damage](manifest)
    key = manifest_key("numbers", manifest.id)
    store.write_bytes(key, content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(DatasetCorruptError, match=key):
        open_dataset(store, manifest.ref)
    with pytest.raises(DatasetCorruptError, match=key):
        find_datasets(store, "numbers", APRIL)
    # Datasets for the neighbouring windows can still be written.
    assert neighbouring_manifest(store, "numbers", MAY) is None
    march = write(store, MARCH, (3,))
    assert neighbouring_manifest(store, "numbers", MAY) == march
    assert write(store).id == manifest.id
    assert find_datasets(store, "numbers", APRIL)[0].table()["a"].to_pylist() == [1, 2]


def forged(manifest: Manifest, path: str) -> Manifest:
    """Return a manifest whose id is right, because the paths of the files are not a part of it."""
    return manifest.model_copy(update={"files": [manifest.files[0].model_copy(update={"path": path})]})


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../secret", "datasets/numbers/files/../../../secret", "datasets/others/files/x", "s3://b/x"],
)
def test_the_files_of_a_manifest_are_in_the_folder_of_the_dataset(store, path):
    manifest = write(store)
    key = manifest_key("numbers", manifest.id)
    store.write_json(key, forged(manifest, path).model_dump(mode="json"))
    with pytest.raises(DatasetCorruptError, match="which is not in"):
        open_dataset(store, manifest.ref)


def test_the_error_about_a_manifest_of_a_newer_version_names_the_version_and_keeps_it(store):
    manifest = write(store)
    key = manifest_key("numbers", manifest.id)
    newer = changed(manifest, format=FORMAT + 1, files="somewhere else")
    store.write_json(key, newer)
    with pytest.raises(DatasetFormatError, match=f"format {FORMAT + 1}.*newer version"):
        find_datasets(store, "numbers", APRIL)
    with pytest.raises(DatasetFormatError):
        write(store)
    assert store.read_json(key) == newer


@given(st.binary(max_size=50) | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*Manifest.model_fields]), inner), max_leaves=8).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_other_content_is_an_error_of_this_package(data):
    with pytest.raises(MLOpsError):
        parse_manifest(data, "numbers", "0" * 64, "file:///manifest.json")


@pytest.mark.parametrize(
    "content", ["[]", "null", "{}", '{"id": 1, "window": "never"}', '{"id": 1, "written": "never"}']
)
def test_a_damaged_pointer_is_refused_and_repaired(store, content):
    write(store)
    store.write_bytes(windows_of(store, "numbers").key(APRIL.key, APRIL), content.encode())
    with pytest.raises(DatasetCorruptError, match="does not name the current dataset"):
        find_datasets(store, "numbers", APRIL)
    assert neighbouring_manifest(store, "numbers", MAY) is None
    write(store)
    assert find_datasets(store, "numbers", APRIL)


def purge(store: ArtifactStore, manifest: Manifest) -> None:
    mark_purged(store, manifest, manifest.created)
    store.delete(manifest.files[0].path)


def test_a_dataset_that_is_purged_while_it_is_read_has_its_own_error(store):
    manifest = write(store)
    dataset = open_dataset(store, manifest.ref)
    purge(store, manifest)
    with pytest.raises(DatasetPurgedError):
        dataset.table()


def test_a_file_that_disappears_while_it_is_read(store, monkeypatch):
    manifest = write(store)
    dataset = Dataset(store, manifest)
    opened = store.open

    def vanishing(key: str):
        purge(store, manifest)
        return opened(key)

    monkeypatch.setattr(store, "open", vanishing)
    dataset._files._verified.add(manifest.files[0].path)
    monkeypatch.setattr("airflow_mlops.data.datasets.files.SMALL_BYTES", 0)
    with pytest.raises(DatasetPurgedError):
        dataset.table()


@pytest.mark.parametrize("content", ["{}", "[]", "null", '"x"', "{"])
def test_a_damaged_slot_is_refused_and_repaired(store, content):
    def score() -> Manifest:
        with DatasetWriter(store, "numbers") as writer:
            writer.write(pa.table({"a": [1]}))
            return writer.commit(window=APRIL, slots=[f"{APRIL.key}-m-v1"])[0]

    manifest = score()
    store.write_bytes(f"datasets/numbers/slots/{APRIL.key}-m-v1.json", content.encode())
    with pytest.raises(DatasetCorruptError, match="does not name a dataset"):
        in_slot(store, "numbers", f"{APRIL.key}-m-v1")
    assert score() == manifest
    assert in_slot(store, "numbers", f"{APRIL.key}-m-v1").manifest == manifest


def test_writing_again_repairs_a_manifest_that_names_other_rows(store):
    manifest = write(store)
    with DatasetWriter(store, "numbers") as writer:
        writer.write(pa.table({"a": [666, 2]}))
        other, _ = writer.commit(window=MAY)
    file = manifest.files[0].model_copy(
        update={name: getattr(other.files[0], name) for name in ("path", "sha256", "bytes")}
    )
    store.write_json(
        manifest_key("numbers", manifest.id),
        manifest.model_copy(update={"files": [file]}).model_dump(mode="json"),
    )
    assert write(store).id == manifest.id
    assert find_datasets(store, "numbers", APRIL)[0].table()["a"].to_pylist() == [1, 2]


def test_the_number_of_rows_is_checked(store):
    manifest = write(store)
    store.write_json(manifest_key("numbers", manifest.id), changed(manifest, rows=9))
    with pytest.raises(DatasetCorruptError, match="number of rows"):
        open_dataset(store, manifest.ref)


def test_keys_of_details_are_texts(store):
    with DatasetWriter(store, "numbers") as writer:
        writer.write(pa.table({"a": [1]}))
        manifest, _ = writer.commit(window=APRIL, details={"c": {9: 1, 10: 2, None: 3}})
    assert open_dataset(store, manifest.ref).manifest == manifest
