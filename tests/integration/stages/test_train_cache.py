"""With the cache, trees are trained again if the version that they continue has other files."""

from __future__ import annotations

import tempfile
import uuid

import pytest

from airflow_mlops.stages import cached_versions
from airflow_mlops.trainers import LightGBMTrainer
from tests.support.cached import run_step
from tests.support.training import training_set

# The cache reads the files from the server.
pytestmark = pytest.mark.served_files

SMALL = {"num_threads": 1, "num_leaves": 4}


class World:
    """A champion of boosted trees, and a training that continues its trees."""

    def __init__(self, client, store):
        pytest.importorskip("lightgbm")
        self.client, self.store = client, store
        self.model, self.dataset = f"late_{uuid.uuid4().hex[:8]}", training_set(store)
        self.champion = self.train("champion", warm_start=None)["candidate"]
        self.promote(self.champion)

    def train(self, run_id, cache="use", warm_start="champion", rounds=3):
        trainer = LightGBMTrainer(SMALL, rounds=rounds, warm_start=warm_start, validation=0)
        return run_step(self.store, "train", run_id, cache, dataset=self.dataset, model=self.model, trainer=trainer)

    def promote(self, candidate):
        self.client.set_registered_model_alias(self.model, "champion", str(candidate["version"]))


@pytest.fixture
def world(client, store):
    return World(client, store)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Go to a worker that has not downloaded any model."""
    return lambda: monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir=tmp_path))


def test_trees_of_another_champion_or_of_changed_files_are_other_inputs(world, elsewhere, tmp_path):
    first = world.train("one")
    assert (first["cached"], world.train("two")["cached"]["run_id"]) == (None, "one")
    elsewhere()
    assert world.train("three")["cached"]["run_id"] == "one"
    # Anyone who can write to MLflow can change the files.
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "extra.txt").write_text("Added by a person.")
    source = world.client.get_model_version(world.model, str(world.champion["version"])).source
    world.client.log_model_artifacts(source.removeprefix("models:/"), str(folder))
    elsewhere()
    assert world.train("four")["cached"] is None
    assert world.train("five")["cached"]["run_id"] == "four"
    world.promote(first["candidate"])
    assert world.train("six")["cached"] is None
    world.client.delete_registered_model_alias(world.model, "champion")
    # Without a champion, the training starts without trees.
    assert world.train("seven")["cached"] is None


def test_another_address_of_mlflow_is_another_url(world, monkeypatch):
    first = world.train("one")
    assert first["run_url"] is not None
    monkeypatch.setattr(cached_versions, "run_url", lambda client, run_id: f"http://elsewhere/{run_id}")
    assert world.train("two")["cached"] is None


def test_a_changed_record_of_the_training_is_not_the_result(world, tmp_path):
    first = world.train("one")
    (tmp_path / "training.json").write_text("{}")
    world.client.log_artifact(first["run_id"], str(tmp_path / "training.json"))
    assert world.train("two")["cached"] is None
