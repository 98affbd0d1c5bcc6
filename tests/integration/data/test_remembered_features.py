"""Results of an earlier look-up of features are used without Feast until the features change."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core import own_code
from airflow_mlops.data.feast import remembered
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.training_set.features import FeatureSource
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from tests.support.feature_repo import FEATURE_STORE, PLACES

FEATURES = ["first:value"]
DEFINITIONS = PLACES.replace("places.parquet", "places")
# Imports the protobuf messages of Feast without Feast, and then Feast.
IN_A_FRESH_PROCESS = """
import json, sys
from airflow_mlops.data.feast import remembered
key = remembered._key(sys.argv[1], json.loads(sys.argv[2]))
imported = [name for name in ("feast", "numpy", "pandas", "pyarrow") if name in sys.modules]
import feast
print(json.dumps([key, imported, feast.FeatureView.__name__]))
"""


class Repo:
    """A repository with two views of the files in one folder."""

    def __init__(self, folder, store):
        self.folder, self.store, self.asked = folder, store, 0
        (folder / "places").mkdir(parents=True)
        (folder / "feature_store.yaml").write_text(FEATURE_STORE)
        self.write(1)
        self.apply()

    def write(self, value, name="one"):
        at = pa.array([datetime(2024, 1, 1, tzinfo=timezone.utc)], pa.timestamp("us", "UTC"))
        rows = pa.table({"place": ["EWR"], "at": at, "value": pa.array([value], pa.int64())})
        pq.write_table(rows, self.folder / "places" / f"{name}.parquet")

    def apply(self, definitions=DEFINITIONS):
        (self.folder / "definitions.py").write_text(definitions)
        opened = feast_repo.open_store(str(self.folder))
        feast_repo.apply(opened, feast_repo.parse_repo(opened))

    def look_up(self, features=FEATURES):
        """Return what determines the features, and whether Feast was used."""
        spec = TrainingSetSpec(name="n", entities="e", timestamp="at", repo=str(self.folder), features=features)
        before = self.asked

        def describe():
            self.asked += 1
            return FeatureSource(spec).described()

        found = remembered.content(self.store, str(self.folder), [None, features], describe)
        assert found == FeatureSource(spec).content()
        return found, self.asked > before


@pytest.fixture
def repo(tmp_path):
    return Repo(tmp_path / "repo", ArtifactStore(f"file://{tmp_path}/store"))


def test_feast_reads_the_repository_again_if_definitions_names_of_files_or_packages_change(repo, monkeypatch):
    first, was_asked = repo.look_up()
    assert was_asked
    assert repo.look_up() == (first, False)
    # Applying again changes the times in the registry.
    repo.apply()
    assert repo.look_up() == (first, False)
    # The content of the files is hashed each time.
    repo.write(2)
    second, was_asked = repo.look_up()
    assert (second == first, was_asked) == (False, False)
    assert repo.look_up(["second:value"])[1]
    repo.write(2, "two")
    third, was_asked = repo.look_up()
    assert (third == second, was_asked) == (False, True)
    (repo.folder / "places" / "two.parquet").unlink()
    assert repo.look_up() == (second, True)
    repo.apply(DEFINITIONS.replace('name="first", ', 'name="first", ttl=__import__("datetime").timedelta(1), '))
    fourth, was_asked = repo.look_up()
    assert (fourth == second, was_asked) == (False, True)
    monkeypatch.setattr(own_code, "environment", lambda: "other packages")
    assert repo.look_up() == (fourth, True)


def test_feast_reads_the_repository_if_the_stored_description_cannot_be_used(repo, monkeypatch):
    found, _ = repo.look_up()
    for key in repo.store.keys("cache/features"):
        repo.store.write_bytes(key, b'{"content": {"views": []}')
    assert repo.look_up() == (found, True)
    # The values of environment variables in the configuration are compared, too.
    (repo.folder / "feature_store.yaml").write_text(FEATURE_STORE.replace("online.db", "${ONLINE_STORE}"))
    for name in ("one.db", "two.db"):
        monkeypatch.setenv("ONLINE_STORE", name)
        assert repo.look_up() == (found, True)
        assert repo.look_up() == (found, False)
    (repo.folder / "feature_store.yaml").write_text(FEATURE_STORE.replace("registry.db", "s3://bucket/registry.db"))
    assert remembered._key(str(repo.folder), []) is None
    (repo.folder / "places" / "linked").symlink_to(repo.folder)
    with pytest.raises(OSError, match="link"):
        remembered.Source.of(str(repo.folder / "places"), [])


def test_a_description_without_names_of_files_is_not_stored(repo):
    asked = []
    for _ in range(2):
        remembered.content(repo.store, str(repo.folder), ["on demand"], lambda: asked.append(1) or ({}, None))
    assert len(asked) == 2


def test_a_fresh_process_finds_the_description_without_importing_feast(repo):
    requested = [None, FEATURES]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, str(repo.folder), json.dumps(requested)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [remembered._key(str(repo.folder), requested), [], "FeatureView"]
