"""With the cache, a window is scored again only if its predictions could differ or are no longer the current ones."""

from __future__ import annotations

import json
import logging
import uuid
from datetime import datetime, timezone

import pytest

from airflow_mlops.core.errors import DatasetPurgedError, ModelCorruptError, SpecError
from airflow_mlops.data.datasets import find_datasets, in_slots, mark_purged, read_manifests
from airflow_mlops.data.datasets.pointers import read, window_keys, withdraw
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.observability.samples import scored
from airflow_mlops.overview import index, sections
from airflow_mlops.registry import signatures
from airflow_mlops.stages.score import step
from tests.support.cached import run_step
from tests.support.deployed import flights, promote, scoring_set, write

WINDOW = "2013-04"


class World:
    """A champion, and a month to score."""

    def __init__(self, client, store, folder):
        self.client, self.store, self.folder = client, store, folder
        self.model = f"delays_{uuid.uuid4().hex[:8]}"
        self.champion = self.promote()
        self.fill(flights(300))

    def promote(self):
        return promote(self.client, self.folder / uuid.uuid4().hex, self.store, self.model)

    def fill(self, rows, window=WINDOW):
        return scoring_set(self.store, rows, window, self.model)

    def score(self, run_id, cache="use", **spec):
        spec = {"dataset": {"name": self.model, "window": WINDOW}, **spec}
        return run_step(self.store, "score", run_id, cache, **{"model": self.model, **spec})

    def log(self):
        """The predictions that are current, all that were ever written, and what the index says of them."""
        name = f"{self.model}_predictions"
        slots = {slot: manifest.id for slot, manifest in in_slots(self.store, name).items()}
        windows = {item.window.label: item.manifest.id for item in find_datasets(self.store, name)}
        history = [item.id for item in PredictionLog(self.store, self.model).history()]
        (section,) = [item for item in index.read(self.store)[self.model] if item.scoring is not None]
        return slots, windows, history, section.scoring


@pytest.fixture
def world(client, store, tmp_path):
    return World(client, store, tmp_path)


def test_an_unchanged_scoring_leaves_its_predictions_the_current_ones(world):
    first = world.score("one")
    before = world.log()
    second = world.score("two")
    assert (first["cached"], second["cached"]["run_id"]) == (None, "one")
    assert {**second, "cached": None, "usage": None, "summary": first["summary"]} == {**first, "usage": None}
    assert world.log() == before
    speeds = [
        any(item.metric.name == "mlops.score.rows_per_second" for item in scored(result)) for result in (first, second)
    ]
    assert speeds == [True, False]
    # If a person withdrew the window, or a section of the index was deleted, the task writes it again, as a computed
    # scoring does.
    (key,) = window_keys(world.store, first["dataset"]["name"])
    withdraw(world.store, first["dataset"]["name"], read(world.store, key), "wrong", "someone")
    world.store.delete(sections.key(world.model, "scoring", first["dataset"]["name"]))
    assert world.score("three")["cached"]["run_id"] == "one"
    assert world.log() == before
    assert world.score("four", cache="renew")["dataset"]["id"] != first["dataset"]["id"]
    assert world.score("five")["cached"]["run_id"] == "four"


def other_champion(world):
    world.promote()


def other_rows(world):
    world.fill(flights(300, seed=5))


def other_rows_and_back(world):
    world.fill(flights(300, seed=5))
    assert world.score("other")["cached"] is None
    world.fill(flights(300))


def champion_and_back(world):
    """The champion was rolled back after its successor has scored the window."""
    world.promote()
    assert world.score("other")["cached"] is None
    world.client.set_registered_model_alias(world.model, "champion", str(world.champion.version))


def newer_predictions_of_a_part_of_the_window(world):
    rows = scoring_set(world.store, flights(10), "2013-04-30", f"{world.model}_day")
    assert world.score("other", dataset=rows)["cached"] is None


def newest(world):
    return max(read_manifests(world.store, f"{world.model}_predictions"), key=lambda item: item.created)


def marked_as_purged(world):
    mark_purged(world.store, newest(world), datetime.now(timezone.utc))


def deleted_file(world):
    for file in newest(world).files:
        world.store.delete(file.path)


@pytest.mark.parametrize(
    "change",
    [
        other_champion,
        other_rows,
        other_rows_and_back,
        champion_and_back,
        newer_predictions_of_a_part_of_the_window,
        marked_as_purged,
        deleted_file,
    ],
)
def test_predictions_that_may_differ_are_computed(world, change):
    first = world.score("one")
    assert world.score("two")["cached"]["run_id"] == "one"
    change(world)
    again = world.score("three")
    assert again["cached"] is None
    assert again["dataset"]["id"] != first["dataset"]["id"]
    # The predictions that were computed last are the current ones.
    version = again["scored_by"]["version"]
    slot = next(
        slot for slot in in_slots(world.store, again["dataset"]["name"]) if slot.endswith(f"{world.model}-v{version}")
    )
    assert world.log()[0][slot] == again["dataset"]["id"]
    assert world.log()[3].last.version == version


def test_the_index_names_the_dag_that_scored_last(world):
    world.score("one")
    assert world.score("two", dag_id="renamed")["cached"] is None
    assert world.log()[3].dag_id == "renamed"
    assert world.score("three", dag_id="renamed")["cached"]["run_id"] == "two"


def test_predictions_of_a_champion_that_was_replaced_while_the_step_began_are_not_cached(world, monkeypatch):
    # The cache would otherwise import the patched function if this test runs first.
    import airflow_mlops.stages.score.cache  # noqa: F401

    other = promote(world.client, world.folder / "other", world.store, world.model)
    world.client.set_registered_model_alias(world.model, "champion", str(world.champion.version))
    with monkeypatch.context() as patch:
        patch.setattr(step, "version_of", lambda spec, client: other)
        assert world.score("one")["scored_by"]["version"] == other.version
    again = world.score("two")
    assert (again["cached"], again["scored_by"]["version"]) == (None, world.champion.version)


def test_purged_rows_are_not_scored(world):
    world.score("one")
    (rows,) = find_datasets(world.store, world.model)
    mark_purged(world.store, rows.manifest, datetime.now(timezone.utc))
    with pytest.raises(DatasetPurgedError):
        world.score("two")


def test_another_key_for_hashes_is_another_input(world, monkeypatch):
    def with_key(letter):
        connection = json.dumps({"conn_type": "generic", "password": letter * 32})
        monkeypatch.setenv("AIRFLOW_CONN_HASHES", connection)
        return {"hash_columns": ["flight"], "hash_conn_id": "hashes"}

    world.score("one", **with_key("a"))
    assert world.score("two", **with_key("a"))["cached"]["run_id"] == "one"
    assert world.score("three", **with_key("b"))["cached"] is None


def test_a_champion_without_a_required_signature_has_no_cached_predictions_or_profile(world, monkeypatch):
    predictions = world.score("one")["dataset"]

    def profile(run_id):
        return run_step(world.store, "profile", run_id, dataset=predictions, model=world.model)

    assert world.score("two")["cached"] is not None
    assert profile("one")["cached"] is None
    assert profile("two")["cached"]["run_id"] == "one"
    monkeypatch.setattr(signatures, "required", lambda: True)
    for run in (world.score, profile):
        with pytest.raises(ModelCorruptError):
            run("three")


def test_shadow_predictions_have_their_own_entry(world):
    world.score("one")
    shadow = world.score("two", version=world.champion.version)
    assert (shadow["cached"], shadow["dataset"]["name"]) == (None, f"{world.model}_shadow_predictions")
    assert world.score("three", version=world.champion.version)["cached"]["run_id"] == "two"


def test_a_task_that_would_replace_the_predictions_of_another_one_fails_with_the_cache_too(world):
    write(world.store, f"{world.model}_part", flights(10, seed=2))
    whole = {"dataset": {"name": world.model, "window": WINDOW}}
    part = {"dataset": {"name": f"{world.model}_part"}, "window": WINDOW}
    world.score("one", **whole)
    world.score("two", **part)
    world.score("three", **whole)
    assert world.score("four", task_id="whole", **whole)["cached"]["run_id"] == "three"
    with pytest.raises(SpecError, match="would replace the predictions of task 'whole'"):
        world.score("four", task_id="part", **part)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"shard": 0, "shards": 1}, "in shards"),
        ({"write_to": {"conn_id": "bi", "table": "predictions"}}, "written to a table"),
        ({"model": "nobody", "on_missing": "skip"}, "no version to score with"),
        ({"dataset": "no_window"}, "have no window"),
    ],
)
def test_scorings_that_cannot_be_cached_always_run(world, spec, reason, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="airflow_mlops.stages")
    monkeypatch.setenv("AIRFLOW_CONN_BI", f"sqlite:////{world.folder}/bi.db")
    (world.folder / "bi.db").touch()
    write(world.store, "no_window", flights(10))
    for run_id in ("one", "two"):
        assert world.score(run_id, **spec)["cached"] is None
    assert reason in caplog.text
    assert world.store.keys("cache") == []
