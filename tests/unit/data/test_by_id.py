"""Datasets are found by their ids, whatever their names are."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, Manifest
from airflow_mlops.data.datasets.by_id import Finder, parents_of
from airflow_mlops.data.datasets.manifest import manifest_key
from airflow_mlops.data.store import ArtifactStore

APRIL = Window.model_validate("2013-04")


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path.as_uri())


def write(store: ArtifactStore, name: str, window: Window | None = None, **more: object) -> Manifest:
    with DatasetWriter(store, name) as writer:
        writer.write(pa.table({"a": [1, 2]}))
        return writer.commit(window=window, **more)[0]


def test_a_parent_has_its_name_its_window_and_its_short_id(store):
    april, whole = write(store, "flights", APRIL), write(store, "weather")
    gone = whole.ref.model_copy(update={"id": "0" * 64})
    child = write(store, "training", source={"entities": "flights"}, parents=[april.ref, whole.ref, gone])
    assert parents_of(Finder(store), [child]) == {
        april.id: f"flights 2013-04 ({april.id[:12]})",
        whole.id: f"weather snapshot ({whole.id[:12]})",
    }


def test_names_are_listed_only_if_the_hints_do_not_suffice(store, monkeypatch):
    known = write(store, "flights", APRIL)
    listed, real = [], ArtifactStore.keys
    monkeypatch.setattr(ArtifactStore, "keys", lambda self, *args: listed.append(args) or real(self, *args))
    finder = Finder(store)
    # The source in a manifest is any text, which need not be the name of a dataset.
    assert finder.find([known.id], ["", "s3://bucket/flights", "flights"])[known.id].window == APRIL
    assert not listed
    assert finder.find([known.id, "0" * 64], ["weather"]).keys() == {known.id}
    assert finder.find(["0" * 64], []) == {}
    assert len(listed) == 1


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"id": "0", "name": "flights"}'])
def test_a_damaged_manifest_is_not_found(content, store):
    known = write(store, "flights")
    store.write_bytes(manifest_key("flights", known.id), content)
    assert Finder(store).find([known.id], ["flights"]) == {}


def test_a_dataset_is_read_once(store, monkeypatch):
    known = write(store, "flights", APRIL)
    finder = Finder(store)
    found = finder.find([known.id], ["flights"])
    read: list[str] = []
    monkeypatch.setattr(ArtifactStore, "read_many", lambda self, keys: read.extend(keys) or {})
    assert finder.find([known.id], ["flights"]) == found
    assert read == []
