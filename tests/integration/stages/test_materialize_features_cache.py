"""Materialization with the cache: Feast runs again unless all of its files are as the earlier task left them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, mark_purged, open_dataset
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import runner
from airflow_mlops.stages.materialize_features import step
from tests.support.cached import inputs_key, run_step

CONFIG = """
project: small
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Int64, String
from own_ttl import HOURS

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)

def view(name, source):
    schema = [Field(name="place", dtype=String), Field(name="value", dtype=Int64)]
    return FeatureView(name=name, entities=[place], schema=schema, source=source, ttl=timedelta(hours=HOURS))

published = view("published", FileSource(name="places", path="places", timestamp_field="at"))
given = view("given", FileSource(name="given", path="given.parquet", timestamp_field="at"))
"""


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


def rows(value):
    at = pa.array([datetime(2024, 1, 5, tzinfo=timezone.utc)], pa.timestamp("us", "UTC"))
    return pa.table({"place": ["EWR"], "at": at, "value": pa.array([value], pa.int64())})


def written(store, value, window="2024-01"):
    with DatasetWriter(store, "places") as writer:
        writer.write(rows(value))
        return writer.commit(window=Window.model_validate(window))[0].ref


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(CONFIG)
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / "own_ttl.py").write_text("HOURS = 6\n")
    pq.write_table(rows(5), folder / "given.parquet")
    return folder


@pytest.fixture
def spec(repo, store):
    return {"repo": str(repo), "window": "2024-01", "sources": {"places": written(store, 1)}}


def online(repo):
    features = ["published:value", "given:value"]
    found = feast_repo.open_store(str(repo)).get_online_features(
        features=features, entity_rows=[{"place": "EWR"}], full_feature_names=True
    )
    found = found.to_dict()
    return found["published__value"][0], found["given__value"][0]


def materialize(store, run_id, spec, **options):
    return run_step(store, "materialize_features", run_id, **{**spec, **options})


def empty_online_store(repo):
    before = (repo / "online.db").stat()
    with closing(sqlite3.connect(repo / "online.db")) as opened, opened:
        opened.execute("DELETE FROM small_published")
    os.utime(repo / "online.db", ns=(before.st_atime_ns, before.st_mtime_ns))


def change_source(repo):
    pq.write_table(rows(6), repo / "given.parquet")


DAMAGES = {
    "emptied": empty_online_store,
    "source changed": change_source,
    "published file deleted": lambda repo: [file.unlink() for file in (repo / "places").iterdir()],
    "module changed": lambda repo: (repo / "own_ttl.py").write_text("HOURS = 7\n"),
    "registry deleted": lambda repo: (repo / "registry.db").unlink(),
}


def test_an_unchanged_rerun_writes_nothing_and_every_change_is_materialized(store, repo, spec):
    first = materialize(store, "first", spec)
    assert online(repo) == (1, 5)
    files = {file: file.read_bytes() for file in (repo / "registry.db", repo / "online.db")}
    cached = materialize(store, "again", spec)
    assert (first["cached"], cached["cached"]["run_id"]) == (None, "first")
    assert {file: file.read_bytes() for file in files} == files
    computed = materialize(store, "computed", spec, cache=None)
    same = {"cached": None, "usage": None, "summary": ""}
    assert {**cached, **same} == {**computed, **same}
    # The registry has changed since the cached result.
    assert materialize(store, "registry changed", spec)["cached"] is None
    for name, damage in DAMAGES.items():
        assert materialize(store, f"before {name}", spec)["cached"], name
        damage(repo)
        assert materialize(store, name, spec)["cached"] is None, name
        assert online(repo)[0] == 1, name
    assert online(repo) == (1, 6)
    # Another window changes the online store.
    materialize(store, "february", spec, window="2024-02", sources={})
    assert materialize(store, "after february", spec)["cached"] is None
    # Another dataset, and a purged one.
    other = written(store, 2)
    assert materialize(store, "other", {**spec, "sources": {"places": other}})["cached"] is None
    assert online(repo)[0] == 2
    mark_purged(store, open_dataset(store, other).manifest, datetime.now(timezone.utc))
    assert inputs_key(store, "materialize_features", {**spec, "sources": {"places": other}}) is None


def test_files_that_change_while_the_step_runs_are_not_cached(store, repo, spec, monkeypatch):
    def source_changes(self, chunk, write=step._Online.materialize):
        write(self, chunk)
        change_source(repo)

    def online_store_is_emptied(*args, write=runner.write_result):
        write(*args)
        empty_online_store(repo)

    for module, name, replacement in (
        (step._Online, "materialize", source_changes),
        (runner, "write_result", online_store_is_emptied),
    ):
        with monkeypatch.context() as changing:
            changing.setattr(module, name, replacement)
            materialize(store, name, spec)
        assert store.keys("cache/materialize_features") == []
    assert materialize(store, "next", spec)["cached"] is None
    assert online(repo) == (1, 6)


class KilledError(BaseException):
    pass


def test_a_run_that_continued_after_a_kill_is_not_cached(store, repo, spec, monkeypatch):
    def killed(self, chunk, write=step._Online.materialize):
        if chunk.start.day > 15:
            raise KilledError
        write(self, chunk)

    with monkeypatch.context() as killing:
        killing.setattr(step._Online, "materialize", killed)
        with pytest.raises(KilledError):
            materialize(store, "one", spec, chunk="15D")
    assert materialize(store, "one", spec, chunk="15D")["chunks_skipped"] == 1
    assert store.keys("cache/materialize_features") == []
    assert materialize(store, "two", spec, chunk="15D")["cached"] is None
    assert materialize(store, "three", spec, chunk="15D")["cached"]["run_id"] == "two"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("online_store: {type: sqlite, path: online.db}", "online_store: {type: redis}", "only reading all rows back"),
        ("online_store: {type: sqlite, path: online.db}\n", "", "only reading all rows back"),
        (
            "registry: registry.db",
            "registry: s3://bucket/registry.db",
            "the registry of the Feast repository is not a file",
        ),
    ],
)
def test_state_on_other_machines_is_not_cached_and_the_log_says_why(old, new, reason, store, repo, spec, caplog):
    caplog.set_level("INFO", logger="airflow_mlops.stages")
    assert inputs_key(store, "materialize_features", spec) is not None
    (repo / "feature_store.yaml").write_text(CONFIG.replace(old, new))
    assert inputs_key(store, "materialize_features", spec) is None
    assert reason in caplog.text
