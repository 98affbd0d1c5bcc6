"""Searches with Optuna studies in a file and in PostgreSQL, logged to a real MLflow server."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import ConnectionInfo, from_environment
from airflow_mlops.core.errors import SpecError, StoreError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.search import objective as search_objective
from airflow_mlops.stages.search import step as search
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import Categorical, Float, FunctionTrainer, Int, Search, SklearnTrainer, TorchTrainer
from tests.support.postgres import postgres  # noqa: F401 - a fixture
from tests.support.training import flights, training_set

LOGISTIC, TREE = "sklearn.linear_model.LogisticRegression", "sklearn.tree.DecisionTreeClassifier"
TREES = {
    "max_depth": Int(1, 12),
    "min_samples_leaf": Int(1, 100, log=True),
    "criterion": Categorical(["gini", "entropy"]),
}


@pytest.fixture
def model():
    return f"late_{uuid.uuid4().hex[:8]}"


def trees(trials=6, **fields):
    return Search(SklearnTrainer(TREE), TREES, **{"trials": trials, "folds": 3, **fields})


@pytest.fixture
def look(client, store, model):
    """``look(search, map_index=..., **spec)`` is one worker of a search."""
    datasets = []

    def look(asked, map_index=-1, dataset=None, run="r", connection=from_environment, generation=0, at=store, **fields):
        if dataset is None:
            datasets[:] = datasets or [training_set(store)]
            dataset = datasets[0]
        spec = SearchSpec(dataset=dataset, model=model, search=asked, **fields)
        provenance = Provenance(dag_id="d", run_id=run, task_id="search", map_index=map_index)
        key = f"results/d/{run}/search/{map_index}/{generation}-0123456789abcdef.json"
        return search.run(spec, StepContext(at, key, connection=connection, provenance=provenance))

    return look


def children(client, run_id):
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return sorted(found, key=lambda run: int(run.data.tags["mlops.trial"]))


def studies(store):
    """All studies of a store, as Optuna reads them."""
    import optuna

    found = []
    for file in Path(store.root).rglob("study.journal"):
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
        found += [optuna.load_study(study_name=item.study_name, storage=storage) for item in storage.get_all_studies()]
    return found


def states(study):
    return [trial.state.name for trial in study.trials]


# Results


def test_a_search_finds_parameters_and_logs_every_trial(client, store, look):
    result = look(trees(12, pruner=None), tags={"team": "delays"})
    assert result.trials == {"complete": 12, "pruned": 0, "failed": 0}
    assert result.metric == "roc_auc"
    assert set(result.params) == set(TREES)
    assert result.trainer["params"] == result.params
    assert result.summary.startswith(
        f"Searched parameters of DecisionTreeClassifier (12 complete trials). Best roc_auc: {result.value:.4g}"
    )

    parent = client.get_run(result.run_id)
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "search DecisionTreeClassifier")
    assert parent.data.params == {name: str(value) for name, value in result.params.items()}
    assert parent.data.metrics == {
        "roc_auc": result.value,
        "trials_complete": 12,
        "trials_pruned": 0,
        "trials_failed": 0,
    }
    assert (parent.data.tags["team"], parent.data.tags["mlops.dataset"]) == ("delays", result.dataset.id)
    import mlflow

    importances = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/importances.json")
    assert set(importances) == set(TREES)
    assert sum(importances.values()) == pytest.approx(1)

    runs = children(client, result.run_id)
    assert [run.info.run_name for run in runs] == [f"trial {number}" for number in range(12)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlops.state"] for run in runs} == {"complete"}
    best = max(runs, key=lambda run: run.data.metrics["roc_auc"])
    assert best.data.metrics["roc_auc"] == result.value
    assert best.data.params == parent.data.params
    assert all(run.data.metrics["seconds"] > 0 for run in runs)
    # Each fold is a step.
    assert len(client.get_metric_history(best.info.run_id, "roc_auc")) == 4


def test_the_value_equals_scikit_learns_cross_validation(store, look):
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    from airflow_mlops.models.trainers.sklearn import trainer as sklearn
    from airflow_mlops.models.trainers.spec import SklearnTrainerSpec
    from airflow_mlops.models.training_data import read_part

    dataset = training_set(store)
    result = look(trees(3), dataset=dataset, seed=5)
    data = read_part(open_dataset(store, dataset), "train")
    pipeline = sklearn.fit(SklearnTrainerSpec(**result.trainer), data, 5).estimator
    folds = StratifiedKFold(3, shuffle=True, random_state=5)
    expected = cross_val_score(pipeline, data.frame, data.labels, cv=folds, scoring="roc_auc")
    assert result.value == pytest.approx(expected.mean())


def test_the_part_test_is_never_read(store, look, monkeypatch):
    whole = training_set(store)
    with_test = look(trees(), dataset=whole, run="one")
    dataset = open_dataset(store, whole)
    (file,) = dataset.files("test")
    Path(store.path(file.path)).unlink()
    without = look(trees(), dataset=whole, run="two")
    assert (without.value, without.params) == (with_test.value, with_test.params)
    network = Search(TorchTrainer(epochs=1), {"learning_rate": Float(1e-4, 1e-2, log=True)}, trials=1)
    assert look(network, dataset=whole, run="three").trials["complete"] == 1
    # The searches above did not read the file of the split part ``test``: a search fails if a file that it reads is
    # missing.
    (file,) = dataset.files("train")
    Path(store.path(file.path)).unlink()
    with pytest.raises(Exception, match="does not exist"):
        look(trees(), dataset=whole, run="four")


def test_a_search_by_one_worker_is_reproducible(store, look):
    first, second, other = (look(trees(), run=run, seed=seed) for run, seed in (("a", 1), ("b", 1), ("c", 2)))
    params = {study.trials[0].datetime_start: [trial.params for trial in study.trials] for study in studies(store)}
    one, two, three = (params[start] for start in sorted(params))
    assert one == two != three
    assert (first.value, first.params) == (second.value, second.params)
    assert first.study != second.study != other.study


@pytest.mark.parametrize(
    ("task", "trainer", "metric", "sign"),
    [
        ("multiclass", TREE, None, 1),
        ("regression", "sklearn.tree.DecisionTreeRegressor", None, -1),
        ("binary", TREE, "log_loss", -1),
    ],
)
def test_the_best_trial_depends_on_the_direction_of_the_metric(task, trainer, metric, sign, client, store, look):
    asked = Search(SklearnTrainer(trainer), {"max_depth": Int(1, 8)}, trials=5, folds=2, metric=metric, pruner=None)
    result = look(asked, dataset=training_set(store, task=task))
    assert result.metric == (metric or {"multiclass": "roc_auc_ovr", "regression": "rmse"}[task])
    values = [run.data.metrics[result.metric] for run in children(client, result.run_id)]
    assert sign * result.value == max(sign * value for value in values)
    assert len(set(values)) > 1


@pytest.mark.parametrize("split", ["time", "group"])
def test_folds_follow_the_split_of_the_training_set(split, store):
    from airflow_mlops.models.training_data import read_part
    from airflow_mlops.stages.search.folds import make_folds

    table = flights(300)
    day = pa.array(np.random.default_rng(0).permutation(300).astype("datetime64[D]"))
    table = table.append_column("day", day)
    details = {"timestamp": "day", "split": {"method": split, "group": "carrier" if split == "group" else None}}
    dataset = open_dataset(store, training_set(store, train=table, test=table, **details))
    data = read_part(dataset, "train")
    if split == "group":
        found = make_folds(dataset, data, 3, seed=0)
        carriers = data.frame["carrier"].to_numpy()
        assert all(not set(carriers[learned]) & set(carriers[held]) for learned, held in found)
        with pytest.raises(TrainingError, match="has 4 groups, which are too few for 5 folds"):
            make_folds(dataset, data, 5, seed=0)
    else:
        found = make_folds(dataset, data, 3, seed=0)
        days = day.to_numpy(zero_copy_only=False)
        assert all(days[learned].max() < days[held].min() for learned, held in found)


# Pruning


def test_worse_trials_are_pruned_at_a_fold(client, look):
    asked = Search(
        SklearnTrainer(TREE, {"random_state": 0}), {"max_depth": Int(1, 6)}, trials=25, folds=4, metric="log_loss"
    )
    result = look(asked)
    assert result.trials["pruned"] > 0
    assert result.trials["complete"] >= 5
    pruned = [run for run in children(client, result.run_id) if run.data.tags["mlops.state"] == "pruned"]
    assert len(pruned) == result.trials["pruned"]
    assert {run.info.status for run in pruned} == {"KILLED"}
    # No pruned trial reached its last fold.
    assert all(len(client.get_metric_history(run.info.run_id, "log_loss")) < 4 for run in pruned)


def test_networks_are_pruned_at_an_epoch_and_leave_no_checkpoint(client, store, look):
    trainer = TorchTrainer(epochs=4, batch_size=64, device="cpu", patience=None)
    space = {"learning_rate": Float(1e-6, 3e-2, log=True), "hidden": Categorical([[8], [32, 16]])}
    result = look(Search(trainer, space, trials=9))
    assert result.trials["pruned"] > 0
    assert result.params["hidden"] in ([8], [32, 16])
    assert result.trainer["learning_rate"] == result.params["learning_rate"]
    assert result.trainer["params"] == {"hidden": result.params["hidden"]}
    runs = children(client, result.run_id)
    epochs = {run.data.tags["mlops.state"]: set() for run in runs}
    for run in runs:
        seen = client.get_metric_history(run.info.run_id, "validation_loss")
        epochs[run.data.tags["mlops.state"]].add(len(seen))
    assert epochs["complete"] == {4}
    assert max(epochs["pruned"]) < 4
    assert not list(Path(store.root).rglob("*.pt"))


# Several workers


@dataclass
class Worker:
    """A worker of a search in a process of its own, which has imported what this process has."""

    process: multiprocessing.process.BaseProcess
    file: Path

    def exit_status(self) -> int | None:
        self.process.join(300)
        return self.process.exitcode

    def answer(self) -> dict[str, Any]:
        assert self.exit_status() == 0
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found


@pytest.fixture
def worker(store, model, look, tmp_path):
    """``worker(search, map_index)`` starts a worker in a separate process.

    With ``dies_at``, the process is killed in this evaluation of a fold; ``pause`` is the time before each, in seconds.
    """
    dataset = training_set(store)

    def start(asked, map_index, dies_at=0, pause=0.0):
        file = tmp_path / f"{uuid.uuid4().hex}.json"

        def work() -> None:
            measure, folds = search_objective._measure, itertools.count(1)

            def slow(*args):
                if next(folds) == dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(pause)
                return measure(*args)

            search_objective._measure = slow
            try:
                file.write_text(look(asked, map_index, dataset=dataset, worker=map_index).model_dump_json())
            except BaseException:  # noqa: BLE001 - the process ends here in any case
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        return Worker(process, file)

    return start


@pytest.mark.slow
def test_workers_share_one_study_and_one_run(client, store, model, worker):
    asked = trees(14, pruner=None)
    results = [started.answer() for started in [worker(asked, index, pause=0.2) for index in range(3)]]
    (study,) = studies(store)
    assert 14 <= len(study.trials) <= 14 + 2
    assert set(states(study)) == {"COMPLETE"}
    ran = {trial.user_attrs["task"] for trial in study.trials}
    assert ran == {"0", "1", "2"}
    # The workers choose different parameters.
    assert len({json.dumps(trial.params) for trial in study.trials}) > 10
    (run_id,) = {result["run_id"] for result in results}
    assert len(children(client, run_id)) == len(study.trials)
    parent = client.get_run(run_id)
    assert parent.info.status == "FINISHED"
    experiment = client.get_experiment_by_name(model).experiment_id
    assert len(client.search_runs([experiment])) == 1 + len(study.trials)
    values = [result["value"] for result in results if result["value"] is not None]
    assert max(values) == study.best_value == parent.data.metrics["roc_auc"]
    spec = TrainSpec(dataset=results[0]["dataset"], model=model, trainer=results)
    assert spec.trainer.params == study.best_params
    assert spec.tags == {"mlops.search": run_id}


@pytest.mark.slow
def test_a_killed_worker_repeats_its_trial_and_keeps_the_others(client, store, worker):
    import optuna

    asked = trees(5, pruner=None)
    # In the second fold of the third trial.
    assert worker(asked, 0, dies_at=8).exit_status() == -signal.SIGKILL
    (study,) = studies(store)
    assert states(study) == ["COMPLETE", "COMPLETE", "RUNNING"]
    before = study.trials

    result = worker(asked, 0).answer()
    (study,) = studies(store)
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert [trial.value for trial in study.trials[:2]] == [trial.value for trial in before[:2]]
    repeated = study.trials[3]
    assert repeated.params == before[2].params
    assert optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(repeated) == 2
    # After the repeated trial it chooses new parameters.
    assert len({json.dumps(trial.params) for trial in study.trials}) == 5
    assert result["trials"] == {"complete": 5, "pruned": 0, "failed": 0}
    runs = children(client, result["run_id"])
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert client.get_run(result["run_id"]).info.status == "FINISHED"


def test_a_trial_that_always_kills_its_worker_is_abandoned(client, store, worker):
    asked = Search(SklearnTrainer(TREE), {"max_depth": Int(1, 9)}, trials=1, folds=2)
    for _ in range(2):
        assert worker(asked, 0, dies_at=1).exit_status() == -signal.SIGKILL
    result = worker(asked, 0).answer()
    (study,) = studies(store)
    assert states(study) == ["FAIL", "FAIL", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params
    assert [run.info.status for run in children(client, result["run_id"])] == ["KILLED", "FINISHED"]


def test_an_interrupted_network_continues_from_its_checkpoint(store, look, monkeypatch, caplog):
    from airflow_mlops.models.trainers.torch import trainer as torch

    trainer = TorchTrainer(epochs=3, batch_size=64, checkpoint_every=2, device="cpu", patience=None)
    asked = Search(trainer, {"learning_rate": Float(1e-3, 1e-2)}, trials=1)
    expected = look(asked, run="whole")
    log_curves = torch._log_curves
    monkeypatch.setattr(torch, "_log_curves", lambda *_: (_ for _ in ()).throw(SystemExit(143)))
    with pytest.raises(SystemExit):
        look(asked)
    (checkpoint,) = Path(store.root).rglob("*.pt")
    monkeypatch.setattr(torch, "_log_curves", log_curves)
    with caplog.at_level("INFO"):
        result = look(asked)
    assert "Resuming from the checkpoint after step" in caplog.text
    assert not checkpoint.exists()
    assert (result.value, result.params) == (expected.value, expected.params)


def test_a_retry_of_a_finished_search_runs_no_trial_and_a_cleared_task_searches_again(client, store, look):
    first = look(trees(3))
    again = look(trees(3))
    assert again == first
    assert len(studies(store)) == 1
    # The state after a user has cleared a finished task.
    store.write_json("results/d/r/search/-1/0-0123456789abcdef.json", {})
    cleared = look(trees(3), generation=1)
    assert cleared.study != first.study
    assert cleared.run_id != first.run_id
    assert sorted(len(study.trials) for study in studies(store)) == [3, 3]


def test_a_cleared_task_that_had_failed_continues(store, look, monkeypatch):
    measure = search_objective._measure
    calls = iter(range(100))
    monkeypatch.setattr(search_objective, "_measure", lambda *args: measure(*args) if next(calls) < 7 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look(trees(4, pruner=None))
    monkeypatch.setattr(search_objective, "_measure", measure)
    result = look(trees(4, pruner=None), generation=1)
    (study,) = studies(store)
    # A trial that failed for other reasons than its parameters does not count, and is repeated.
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[3].params == study.trials[2].params
    assert result.trials == {"complete": 4, "pruned": 0, "failed": 0}


# A database


def database(server, **changes):
    return lambda conn_id: (
        ConnectionInfo(conn_id=conn_id, **server.connection(**changes))
        if conn_id == "studies"
        else from_environment(conn_id)
    )


@pytest.fixture
def studies_allowed(postgres):  # noqa: F811
    postgres.execute("CREATE DATABASE studies OWNER ingest")
    yield postgres
    postgres.execute("DROP DATABASE studies WITH (FORCE)")


def test_a_study_in_postgresql_needs_no_shared_file_system(studies_allowed, look, client, caplog):
    at = ArtifactStore(f"memory://search-{uuid.uuid4().hex}")
    dataset = training_set(at)
    with pytest.raises(SpecError, match="is not a file system.*storage_conn_id"):
        look(trees(), dataset=dataset, at=at)
    connection = database(studies_allowed, schema="studies")
    asked = trees(4, storage_conn_id="studies")
    with caplog.at_level("DEBUG"):
        first = look(asked, dataset=dataset, at=at, connection=connection, map_index=0)
        second = look(asked, dataset=dataset, at=at, connection=connection, map_index=1, worker=1)
    assert (first.study, first.run_id, first.value) == (second.study, second.run_id, second.value)
    assert first.trials["complete"] + first.trials["pruned"] == 4
    assert not Path("search").exists()
    for text in (caplog.text, first.model_dump_json()):
        assert studies_allowed.connection()["password"] not in text
        assert "geheim" not in text


def test_a_trial_without_heartbeat_is_taken_over_by_another_worker(studies_allowed, look, client, monkeypatch):
    from airflow_mlops.stages.search import storage

    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    connection = database(studies_allowed, schema="studies")
    asked = trees(3, storage_conn_id="studies", pruner=None)
    measure = search_objective._measure
    monkeypatch.setattr(search_objective, "_measure", lambda *_: (_ for _ in ()).throw(SystemExit(1)))
    with pytest.raises(SystemExit):
        look(asked, map_index=0, connection=connection)
    monkeypatch.setattr(search_objective, "_measure", measure)
    time.sleep(3)
    result = look(asked, map_index=1, worker=1, connection=connection)
    assert result.trials["complete"] == 3
    runs = children(client, result.run_id)
    assert [run.info.status for run in runs] == ["FINISHED"] * 3


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"password": "wrong-secret"},
            StoreError,
            "database of connection 'studies' cannot be used for the Optuna study",
        ),
        ({"conn_type": "sqlite"}, SpecError, "is a SQLite database, which several workers cannot share"),
        ({"conn_type": "nonesuch"}, SpecError, "SQLAlchemy dialect or driver for connection 'studies'"),
    ],
)
def test_errors_of_the_database_do_not_contain_its_password(
    changes,
    kind,
    message,
    postgres,  # noqa: F811
    look,
    monkeypatch,
):
    from airflow_mlops.stages.search import storage

    monkeypatch.setattr(storage, "_PAUSE", 0)
    with pytest.raises(kind, match=message) as error:
        look(trees(storage_conn_id="studies"), connection=database(postgres, **changes))
    assert "secret" not in str(error.value)
    assert "geheim" not in str(error.value)


# Errors


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_search.py").write_text("""
from sklearn.tree import DecisionTreeClassifier

def shallow(X, y, *, params, seed):
    if params["depth"] > 3:
        raise ValueError("too deep")
    return DecisionTreeClassifier(max_depth=params["depth"], random_state=seed).fit(X[["hour"]].assign(), y)

def picky(X, y, *, params, seed):
    raise ValueError("never")
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_search", None)


def test_a_failing_trial_does_not_fail_the_search(client, look, mine):
    asked = Search(FunctionTrainer("my_search:picky"), {"depth": Int(1, 9)}, trials=3, folds=2)
    with pytest.raises(TrainingError, match="All 3 trials failed.* raised ValueError: never"):
        look(asked)
    trainer = SklearnTrainer(LOGISTIC, {"max_iter": 50})
    asked = Search(trainer, {"solver": Categorical(["lbfgs", "none-such"])}, trials=8, folds=2, pruner=None)
    result = look(asked, run="two")
    assert result.params == {"solver": "lbfgs"}
    assert result.trials["failed"] > 0
    assert sum(result.trials.values()) == 8
    failed = [run for run in children(client, result.run_id) if run.info.status == "FAILED"]
    assert len(failed) == result.trials["failed"]
    assert "none-such" in failed[0].data.tags["mlops.error"]


def test_an_unknown_parameter_ends_the_search_immediately(client, store, look, model):
    with pytest.raises(SpecError, match="cannot be created with params={'depht': "):
        look(Search(SklearnTrainer(TREE), {"depht": Int(1, 9)}, trials=9))
    assert states(studies(store)[0]) == ["FAIL"]
    experiment = client.get_experiment_by_name(model).experiment_id
    assert sorted(run.info.status for run in client.search_runs([experiment])) == ["FAILED", "KILLED"]


def test_a_metric_for_another_task_is_refused(look):
    with pytest.raises(
        SpecError, match="The metric 'rmse' does not apply to a binary task. Set `metric` to one of roc_auc, "
    ):
        look(trees(metric="rmse"))


def test_too_rare_classes_are_refused_before_the_first_trial(store, look):
    table = flights(60, "multiclass", seed=3)
    late = table.column("late").to_pylist()
    rare = ["odd" if place < 2 else value for place, value in enumerate(late)]
    table = table.set_column(table.schema.get_field_index("late"), "late", [rare])
    dataset = training_set(store, train=table, test=table, task="multiclass")
    with pytest.raises(
        TrainingError, match="A class of label 'late' has 2 rows in split part 'train', which are too few for 3 folds"
    ):
        look(trees(), dataset=dataset)
    assert studies(store) == []


# In Airflow

DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import SearchOperator, TrainOperator
from airflow_mlops.trainers import Float, Int, Search, SklearnTrainer

with DAG("search_{name}", schedule=None, default_args={{"model": "{name}", "store": {store!r}}}):
    search = SearchOperator.partial(
        task_id="search",
        dataset={dataset!r},
        seed="{{{{ 4 + 3 }}}}",
        search=Search(
            SklearnTrainer("{tree}", name="{{{{ 'pruned' }}}}_tree"),
            {{"max_depth": Int(1, 12), "ccp_alpha": Float(1e-4, 0.1, log=True)}},
            trials=6,
            folds=2,
        ),
    ).expand(worker=[0, 1])
    TrainOperator(task_id="train", dataset={dataset!r}, trainer=search.output)
    TrainOperator(
        task_id="at_once",
        dataset={dataset!r},
        trainer=Search(SklearnTrainer("{tree}"), {{"max_depth": Int(1, 12)}}, trials=3, folds=2),
    )
"""


def test_a_dag_maps_over_workers_and_trains_the_best(client, store, model, run_dag, mlflow_connection):
    dataset = training_set(store)
    source = DAG.format(name=model, dataset=dataset.model_dump(mode="json"), store=store.url, tree=TREE)
    run = run_dag(source)
    assert run.states() == {"search[0]": "success", "search[1]": "success", "train": "success", "at_once": "success"}
    results = [run.xcom("search", map_index=index) for index in (0, 1)]
    assert results[0]["run_id"] == results[1]["run_id"]
    best = max(results, key=lambda result: result["value"])
    assert sum(best["trials"].values()) == 6
    trained = run.xcom("train")
    assert trained["trainer"] == "pruned_tree"
    training = client.get_run(trained["run_id"])
    assert training.data.tags["mlops.search"] == best["run_id"]
    assert {name: training.data.params[name] for name in best["params"]} == {
        name: str(value) for name, value in best["params"].items()
    }
    assert run.xcom("search", key="_link_MLflowRunLink", map_index=0).endswith(f"/#/runs/{best['run_id']}")
    at_once = client.get_run(run.xcom("at_once")["run_id"])
    parent = client.get_run(at_once.data.tags["mlops.search"])
    assert parent.data.metrics["trials_complete"] + parent.data.metrics["trials_pruned"] == 3
    assert at_once.data.params["max_depth"] == parent.data.params["max_depth"]


def test_a_retry_of_a_training_with_a_search_neither_searches_nor_trains_again(client, store, model):
    dataset = training_set(store)
    spec = TrainSpec(dataset=dataset, model=model, trainer=trees(3))
    context = StepContext(store, "results/d/r/train/-1/0-0123456789abcdef.json", provenance=Provenance(dag_id="d"))
    first, again = train.run(spec, context), train.run(spec, context)
    assert first == again
    assert [len(study.trials) for study in studies(store)] == [3]
    assert len(client.search_model_versions(f"name = '{model}'")) == 1
    # The run contains data, code and parameters like that of any other candidate.
    params = client.get_run(first.run_id).data.params
    assert params["estimator"] == TREE
    assert set(TREES) <= set(params)


def test_lineage_contains_the_training_set_of_a_search(store, model):
    from airflow_mlops.core.calls import StepCall
    from airflow_mlops.lineage import lineage_of

    spec = SearchSpec(dataset=training_set(store), model=model, search=trees()).model_dump(mode="json")
    found = lineage_of(StepCall(step="search", spec=spec, store=store.url, key="k", version="0"), None)
    assert [dataset.name.rpartition("/")[2] for dataset in found.inputs] == ["late_training"]
    assert found.outputs == []
