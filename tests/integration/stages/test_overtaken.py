"""A try that continues after its retry, or after a later task, has finished overwrites neither datasets nor records."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import find_datasets
from airflow_mlops.policy import archive
from airflow_mlops.registry import run_files
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.refit import step as refit
from airflow_mlops.stages.runner import run_call
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.train import step as train
from tests.support import candidates, training
from tests.support.deployed import flights, promote, scoring_set
from tests.support.overtaking import call_of, suspend

APRIL = Window.model_validate("2013-04")
LOGISTIC = {"kind": "sklearn", "estimator": "sklearn.linear_model.LogisticRegression", "params": {}}


@pytest.fixture
def model():
    return f"late_{uuid.uuid4().hex[:8]}"


def current(store, name):
    (found,) = find_datasets(store, name, APRIL)
    return found.manifest.id


def forbidden(*_, **__):
    raise AssertionError("The run is opened again.")


def test_score(client, store, tmp_path, model, monkeypatch):
    promote(client, tmp_path, store, model)
    spec = {"model": model, "dataset": scoring_set(store, flights(20), "2013-04").model_dump(mode="json")}
    later = []
    suspend(
        monkeypatch,
        score.Scoring,
        "_write",
        call_of(store, "score", spec),
        after=lambda: later.append(run_call(call_of(store, "score", {**spec, "drop_columns": ["flight"]}, "later"))),
    )
    assert current(store, f"{model}_predictions") == later[0]["dataset"]["id"]


def test_monitor(client, store, tmp_path, model, monkeypatch):
    promote(client, tmp_path, store, model)

    def spec(rows):
        asked = {"model": model, "dataset": scoring_set(store, flights(rows), "2013-04").model_dump(mode="json")}
        predictions = run_call(call_of(store, "score", asked, str(rows)))["dataset"]
        return {"model": model, "dataset": predictions, "window": "2013-04"}

    suspend(
        monkeypatch,
        monitor,
        "find_changes",
        call_of(store, "monitor", spec(50)),
        after=lambda: run_call(call_of(store, "monitor", spec(60), "later")),
    )
    assert store.read_json(archive.key(store, model, APRIL))["rows"] == 60


@pytest.mark.parametrize("place", ["connect", "fit_candidate", "identity"])
def test_train(place, client, store, model, monkeypatch):
    """The first try fits another model. With ``identity``, it is suspended shortly before it logs its metrics."""
    spec = {"dataset": training.training_set(store).model_dump(mode="json"), "model": model, "trainer": LOGISTIC}
    real, tags = train.fit_candidate, {}

    def other_fit(*args):
        fitted = real(*args)
        metrics = {name: value - 0.1 for name, value in fitted.metrics.items()}
        return replace(fitted, metrics=metrics, contract=fitted.contract.model_copy(update={"metrics": metrics}))

    def finished():
        tags.update(client.search_runs([client.get_experiment_by_name(model).experiment_id])[0].data.tags)
        if place == "connect":
            monkeypatch.setattr(train, "run_for", forbidden)

    monkeypatch.setattr(train, "fit_candidate", other_fit)
    result = suspend(
        monkeypatch,
        train.record if place == "identity" else train,
        place,
        call_of(store, "train", spec),
        before=lambda: monkeypatch.setattr(train, "fit_candidate", real),
        after=finished,
    )
    run = client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert {name: run.data.metrics[name] for name in result["metrics"]} == result["metrics"]
    assert {name: value for name, value in run.data.tags.items() if ".usage." in name} == {
        name: value for name, value in tags.items() if ".usage." in name
    }


def test_evaluate(client, store, tmp_path, model, monkeypatch):
    dataset = candidates.training_set(store)
    weak, good = (
        candidates.register(client, tmp_path / name, dataset, weights, model=model)
        for name, weights in (("weak", (1, 2)), ("good", (2, 0)))
    )
    result = suspend(
        monkeypatch,
        evaluate,
        "_evaluation",
        call_of(store, "evaluate", EvaluateSpec(candidates=[weak])),
        before=lambda: client.set_registered_model_alias(model, "champion", str(good.version)),
    )
    assert result["verdict"]["champion"]["version"] == good.version
    recorded = json.loads(run_files.read(client, weak.run_id, "evaluation/verdict.json"))
    assert recorded == result["verdict"]


@pytest.mark.parametrize("place", ["load_all", "_check"])
def test_refit(place, client, store, model, monkeypatch):
    spec = {"dataset": training.training_set(store).model_dump(mode="json"), "model": model, "trainer": LOGISTIC}
    candidate = run_call(call_of(store, "train", spec))["candidate"]
    asked = {"candidates": [candidate], "gates": [{"metric": "roc_auc", "min": 0.5}]}
    verdict = run_call(call_of(store, "evaluate", asked))["verdict"]
    result = suspend(
        monkeypatch,
        refit,
        place,
        call_of(store, "refit", {"verdict": verdict}),
        after=lambda: monkeypatch.setattr(
            *((refit, "run_for") if place == "load_all" else (refit.record, "log_run")), forbidden
        ),
    )
    version = ModelVersionRef.model_validate(result["verdict"]["winner"])
    assert version.run_id == result["run_id"]
    assert client.get_run(version.run_id).info.status == "FINISHED"
