"""One key has one MLflow run and one model version, even if two tries run at once or an answer of MLflow is lost."""

from __future__ import annotations

import threading
import uuid

import pytest

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry.runs import KEY, experiment_for, run_for
from airflow_mlops.registry.versions import download, register
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.search import step as search
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import Float, Search, SklearnTrainer
from tests.support.lost_answers import lost_answers
from tests.support.training import training_set

# Answers to requests are lost, also to those for files.
pytestmark = pytest.mark.served_files

LOGISTIC = "sklearn.linear_model.LogisticRegression"


@pytest.fixture
def model():
    return f"late_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def spec(store, model):
    return TrainSpec(dataset=training_set(store), model=model, trainer={"estimator": LOGISTIC})


def at_once(count, call):
    """Call a function in several threads at the same time, and return the results and the errors."""
    start, results, errors = threading.Barrier(count), [], []

    def one():
        start.wait()
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - the test asserts it
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, errors


def runs(client, name):
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])


def versions(client, name):
    return client.search_model_versions(f"name = '{name}'")


def models(client, name):
    return client.search_logged_models([client.get_experiment_by_name(name).experiment_id])


def check_one(client, name, result):
    """There is one run, one version and one logged model, and the version is that of the result."""
    (run,), (version,) = runs(client, name), versions(client, name)
    (logged,) = models(client, name)
    assert (run.info.run_id, run.info.status) == (result.run_id, "FINISHED")
    assert (int(version.version), version.run_id) == (result.candidate.version, run.info.run_id)
    assert version.source == f"models:/{logged.model_id}"
    # The files of the version still exist after the other logged model was deleted.
    assert OnnxModel.load(download(client, result.candidate)).contract.metrics == result.metrics


def test_tries_at_once_make_one_run(client, store, model):
    def open_and_end(number):
        with run_for(client, store, model, f"results/{number}.json", "n", {"a": "b"}) as run_id:
            return run_id

    for number in range(6):
        results, errors = at_once(3, lambda number=number: open_and_end(number))
        assert errors == []
        assert len(set(results)) == 1
        assert len(results) == 3
        found = [run for run in runs(client, model) if run.data.tags[KEY] == f"results/{number}.json"]
        assert [(run.info.run_id, run.info.status) for run in found] == [(results[0], "FINISHED")]


def test_a_run_that_a_full_store_does_not_record_is_ended_and_the_next_try_resumes_it(
    client, store, model, monkeypatch
):
    def full(*_):
        raise StoreError("The store is full.")

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "create_exclusive", full)
        with pytest.raises(StoreError), run_for(client, store, model, "results/one.json", "n"):
            pass
    (run,) = runs(client, model)
    assert run.info.status == "FAILED"
    with run_for(client, store, model, "results/one.json", "n") as run_id:
        assert client.get_run(run_id).info.status == "RUNNING"
    assert run_id == run.info.run_id


def test_two_tries_at_once_make_one_version(client, store, spec, model):
    results, errors = at_once(2, lambda: train.run(spec, StepContext(store, "results/one.json")))
    assert errors == []
    assert results[0] == results[1]
    check_one(client, model, results[0])
    # A third try finds the result.
    assert train.run(spec, StepContext(store, "results/one.json")) == results[0]


@pytest.mark.parametrize("refused", [False, True], ids=["registers", "loses-its-model"])
def test_a_try_that_was_overtaken_before_the_registration_takes_the_other_version(
    refused, client, store, spec, model, monkeypatch
):
    """Without the same fingerprint, so that the second try does not find the version of the first try by it."""
    context, first = StepContext(store, "results/one.json"), []
    monkeypatch.setattr(train, "identical", lambda *args: None)
    place, name = (train.record, "log_model") if refused else (train, "register")
    real = getattr(place, name)

    def overtaken(*args):
        monkeypatch.setattr(place, name, real)
        made = real(*args) if refused else None
        first.append(train.run(spec, context))
        return made or real(*args)

    monkeypatch.setattr(place, name, overtaken)
    assert train.run(spec, context) == first[0]
    check_one(client, model, first[0])


def test_versions_that_are_registered_at_once_are_one_version(client, store, spec, model):
    result = train.run(spec, StepContext(store, "results/one.json"))
    experiment_id = client.get_experiment_by_name(model).experiment_id
    for number in range(5):
        run_id = client.create_run(experiment_id).info.run_id
        logged = client.create_logged_model(experiment_id, source_run_id=run_id).model_id
        results, errors = at_once(3, lambda: register(client, f"{model}-{number}", run_id, logged))  # noqa: B023
        assert errors == []
        assert results == [results[0]] * 3
        assert [int(found.version) for found in versions(client, f"{model}-{number}")] == [results[0].version]
    assert versions(client, model)[0].run_id == result.run_id


def test_a_claimed_run_that_was_deleted_is_replaced(client, store, model):
    def open_run():
        with run_for(client, store, model, "results/one.json", "n") as run_id:
            return run_id

    first = open_run()
    client.delete_run(first)
    second = open_run()
    assert second != first
    assert open_run() == second
    assert [run.info.run_id for run in runs(client, model)] == [second]


def test_a_claim_whose_answer_was_lost_is_kept(client, store, model, monkeypatch):
    real = ArtifactStore.create_exclusive

    def repeated(*args):
        real(*args)
        return real(*args)

    monkeypatch.setattr(ArtifactStore, "create_exclusive", repeated)
    with run_for(client, store, model, "results/one.json", "n") as run_id:
        pass
    with run_for(client, store, model, "results/one.json", "n") as again:
        pass
    assert again == run_id
    assert [run.info.run_id for run in runs(client, model)] == [run_id]


def test_the_run_of_an_earlier_release_is_continued(client, store, model):
    earlier = client.create_run(experiment_for(client, model), tags={KEY: "results/one.json"}).info.run_id
    with run_for(client, store, model, "results/one.json", "n", {"a": "b"}) as run_id:
        assert run_id == earlier
    assert client.get_run(earlier).data.tags["a"] == "b"


def test_a_try_that_dies_late_does_not_change_the_status_of_the_finished_run(client, store, model):
    with pytest.raises(KeyboardInterrupt), run_for(client, store, model, "results/one.json", "n") as late:
        with run_for(client, store, model, "results/one.json", "n") as run_id:
            assert run_id == late
        raise KeyboardInterrupt
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    "lost",
    [
        "POST runs/create",
        "POST model-versions/create",
        "POST logged-models",
        "",
    ],
    ids=lambda lost: lost.removeprefix("POST ").replace("/", "-") or "each",
)
def test_a_lost_answer_leaves_no_second_run_or_version(lost, client, mlflow_server, store, spec, model):
    def lose(kind):
        return kind == lost if lost else not kind.startswith("GET ")

    with lost_answers(mlflow_server, lose, times=1 if lost else 1_000) as proxy:
        info = ConnectionInfo(conn_id="m", conn_type="mlflow", host=proxy.address)
        result = train.run(spec, StepContext(store, "results/one.json", connection=lambda conn_id: info))
    assert proxy.dropped == [lost] if lost else len(set(proxy.dropped)) > 12
    check_one(client, model, result)
    data = client.get_run(result.run_id)
    assert len(data.inputs.dataset_inputs) == len(data.outputs.model_outputs) == 1
    # Metrics of the model are logged for the run and for the model.
    assert len(client.get_metric_history(result.run_id, "fit_seconds")) == 1
    assert all(len(client.get_metric_history(result.run_id, name)) <= 2 for name in data.data.metrics)


def test_a_search_whose_answers_are_lost_has_one_run_for_each_trial(client, mlflow_server, store, model):
    spec = SearchSpec(
        dataset=training_set(store),
        model=model,
        search=Search(SklearnTrainer(LOGISTIC), {"C": Float(0.1, 1.0)}, trials=2),
    )

    with lost_answers(mlflow_server, lambda kind: not kind.startswith("GET "), times=2) as proxy:
        info = ConnectionInfo(conn_id="m", conn_type="mlflow", host=proxy.address)
        result = search.run(spec, StepContext(store, "results/one.json", connection=lambda conn_id: info))
    assert proxy.dropped.count("POST runs/create") == 2
    assert sorted((run.data.tags.get("mlops.trial", ""), run.info.status) for run in runs(client, model)) == [
        ("", "FINISHED"), ("0", "FINISHED"), ("1", "FINISHED"),
    ]  # fmt: skip
    assert result.run_id in {run.info.run_id for run in runs(client, model)}
