"""With the cache, a search runs again only if its trials or the data recorded with the search could differ."""

from __future__ import annotations

import sys
import uuid
from datetime import datetime, timezone

import pytest

from airflow_mlops.core import own_code
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import DatasetPurgedError
from airflow_mlops.data.datasets import mark_purged, open_dataset
from airflow_mlops.stages.search import objective
from airflow_mlops.trainers import Float, FunctionTrainer, Search, SklearnTrainer
from tests.support.cached import inputs_key, request, run_step
from tests.support.training import flights, training_set

TREE = SklearnTrainer("sklearn.tree.DecisionTreeClassifier")
# Fields in which a search from the cache differs from a computed one.
OWN = ("study", "run_id", "run_url", "cached", "usage", "summary")


class World:
    """A training set, and a search."""

    def __init__(self, client, store, trainer=TREE, space=None):
        self.client, self.store = client, store
        self.spec = {
            "dataset": training_set(store),
            "model": f"late_{uuid.uuid4().hex[:8]}",
            "search": Search(trainer, space or {"ccp_alpha": Float(0.0, 0.05)}, trials=3, folds=3),
        }

    def search(self, run_id, cache="use", **spec):
        return run_step(self.store, "search", run_id, cache, **{**self.spec, **spec})

    def train(self, run_id, trainer, cache="use"):
        spec = {name: self.spec[name] for name in ("dataset", "model")}
        return run_step(self.store, "train", run_id, cache, trainer=trainer, **spec)

    def key(self, provenance=None, **spec):
        return inputs_key(self.store, "search", {**self.spec, **spec}, provenance)

    def trials(self, result):
        experiment = self.client.get_run(result["run_id"]).info.experiment_id
        return self.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result['run_id']}'")


@pytest.fixture
def world(client, store):
    return World(client, store)


def shared(result):
    return {name: value for name, value in result.items() if name not in OWN}


def test_an_unchanged_search_runs_no_trial_and_gives_what_a_new_search_gives(world):
    first, second = world.search("one"), world.search("two")
    assert (first["cached"], second["cached"]["run_id"]) == (None, "one")
    assert {**second, "cached": None, "usage": None, "summary": first["summary"]} == {**first, "usage": None}
    assert len(world.trials(first)) == 3
    third = world.search("three", cache=None)
    assert shared(third) == shared(second)
    assert third["run_id"] != first["run_id"]
    assert world.search("four", cache="renew")["cached"] is None
    assert world.search("five")["cached"]["run_id"] == "four"


def test_a_training_with_the_result_of_a_cached_search_is_cached_too(world):
    trained = world.train("one", [world.search("one")])
    assert world.train("two", [world.search("two")])["cached"]["run_id"] == "one"
    # The run of the training names the run of the search.
    other = world.train("three", [world.search("three", cache=None)])
    assert (other["cached"], other["candidate"]) == (None, trained["candidate"])


def test_every_change_of_the_inputs_is_another_search(world, monkeypatch):
    asked, rows = world.spec["search"], training_set(world.store, flights(500, seed=9))
    changes = [
        {"dataset": rows}, {"seed": 1}, {"worker": 1}, {"tags": {"team": "flights"}}, {"model": "other"},
        {"mlflow": {"experiment": "other"}},
        *({"search": {**asked, **change}} for change in (
            {"trials": 4}, {"folds": 4}, {"metric": "log_loss"}, {"pruner": None},
            {"space": {"ccp_alpha": Float(0.0, 0.1)}}, {"trainer": SklearnTrainer("sklearn.tree.ExtraTreeClassifier")},
        )),
    ]  # fmt: skip
    keys = [world.key(), *(world.key(**change) for change in changes)]
    keys.append(world.key(Provenance(requests=[request(world.spec["model"], "r")])))
    assert None not in keys
    assert len({*keys}) == len(changes) + 2
    assert world.key(Provenance(requests=[request("other", "r")])) == world.key()
    monkeypatch.setattr(own_code, "__version__", "0.0.1")
    assert world.key() not in (None, *keys)


def test_workers_and_a_study_in_a_database_are_not_cached(world):
    assert world.key(Provenance(map_index=-1)) is not None
    assert world.key(Provenance(map_index=0)) is None
    assert world.key(search={**world.spec["search"], "storage_conn_id": "studies"}) is None


def deleted_run(world, first):
    world.client.delete_run(first["run_id"])


def deleted_trial(world, first):
    world.client.delete_run(world.trials(first)[0].info.run_id)


def changed_trial(world, first):
    world.client.log_metric(world.trials(first)[0].info.run_id, "roc_auc", 1.0, step=2**31)


def changed_run(world, first):
    world.client.log_metric(first["run_id"], "roc_auc", 1.0, step=1)


def changed_rows(world, first):
    world.store.write_bytes(open_dataset(world.store, world.spec["dataset"]).manifest.files[0].path, b"changed")


@pytest.mark.parametrize("change", [deleted_run, deleted_trial, changed_trial, changed_run])
def test_a_search_whose_record_has_changed_runs_again(world, change):
    first = world.search("one")
    change(world, first)
    second = world.search("two")
    assert second["cached"] is None
    assert shared(second) == shared(first)


def test_purged_and_changed_rows_fail_as_without_the_cache(world):
    world.search("one")
    changed_rows(world, None)
    for run_id, cache in (("two", "use"), ("three", None)):
        with pytest.raises(Exception, match="was changed after it was written"):
            world.search(run_id, cache)
    mark_purged(world.store, open_dataset(world.store, world.spec["dataset"]).manifest, datetime.now(timezone.utc))
    for run_id, cache in (("four", "use"), ("five", None)):
        with pytest.raises(DatasetPurgedError):
            world.search(run_id, cache)


def interrupt(monkeypatch, after):
    """The measurement of a fold fails once."""
    measure, calls = objective._measure, iter(range(1000))

    def measured(*args):
        if next(calls) == after:
            raise ZeroDivisionError
        return measure(*args)

    monkeypatch.setattr(objective, "_measure", measured)


def test_a_search_that_continued_after_an_interruption_is_not_cached(world, monkeypatch):
    interrupt(monkeypatch, after=4)
    with pytest.raises(ZeroDivisionError):
        world.search("one")
    # The retry chooses the parameters of the remaining trials with another seed.
    assert world.search("one")["trials"]["complete"] == 3
    assert world.search("two")["cached"] is None
    assert world.search("three")["cached"]["run_id"] == "two"


def test_a_training_whose_search_continued_after_an_interruption_is_not_cached(world, monkeypatch):
    interrupt(monkeypatch, after=4)
    with pytest.raises(ZeroDivisionError):
        world.train("one", world.spec["search"])
    assert world.train("one", world.spec["search"])["cached"] is None
    assert world.train("two", world.spec["search"])["cached"] is None
    assert world.train("three", world.spec["search"])["cached"]["run_id"] == "two"


CODE = """
from {helper} import STRENGTH
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

def fit(X, y, *, params, seed):
    if params["C"] > {limit}:
        raise ValueError("too large")
    return make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(C=STRENGTH * params["C"])).fit(X, y)
"""


def own(tmp_path, monkeypatch, limit):
    """A function of the user that fails for parameters above a limit, and the file of a module that it imports."""
    name, helper = (f"own_{uuid.uuid4().hex[:8]}" for _ in range(2))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(CODE.format(helper=helper, limit=limit))
    (tmp_path / f"{helper}.py").write_text("STRENGTH = 1.0\n")
    return name, tmp_path / f"{helper}.py"


def test_the_code_of_the_trainer_counts(client, store, tmp_path, monkeypatch):
    name, helper = own(tmp_path, monkeypatch, limit=100)
    world = World(client, store, FunctionTrainer(f"{name}:fit"), {"C": Float(0.1, 10.0)})
    assert world.search("one")["cached"] is None
    assert world.search("two")["cached"]["run_id"] == "one"
    helper.write_text("STRENGTH = 2.0\n")
    for module in (name, helper.stem):
        sys.modules.pop(module, None)
    assert world.search("three")["cached"] is None


def test_a_search_with_a_failed_trial_is_not_cached(client, store, tmp_path, monkeypatch):
    name, _ = own(tmp_path, monkeypatch, limit=5)
    world = World(client, store, FunctionTrainer(f"{name}:fit"), {"C": Float(0.1, 10.0)})
    first = world.search("one")
    assert first["trials"]["failed"] > 0
    assert world.search("two")["cached"] is None
