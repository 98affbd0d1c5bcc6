"""Training with a real MLflow server: stored models load in every flavour, once and reproducibly."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import ModelFormatError, RegistryUnavailableError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.metrics.catalog import REALISED
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.overview import models
from airflow_mlops.profiles.profile import ModelProfile
from airflow_mlops.profiles.training import POSITIVES
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import record as train_record
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import TorchTrainer
from tests.support.training import FEATURES, flights, stamped, training_set

LOGISTIC, HGB = "sklearn.linear_model.LogisticRegression", "sklearn.ensemble.HistGradientBoostingClassifier"


@pytest.fixture
def model():
    return f"late_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def learn(client, store, model):
    """``learn(trainer, key=..., **spec)`` trains one candidate."""

    def learn(trainer, key=None, dataset=None, **fields):
        dataset = dataset or training_set(store)
        spec = TrainSpec(dataset=dataset, model=model, trainer=trainer, **fields)
        context = StepContext(
            store, key or uuid.uuid4().hex, provenance=Provenance(dag_id="d", task_id="t", map_index=2)
        )
        return train.run(spec, context)

    return learn


def runs(client, name):
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])


def versions(client, name):
    return client.search_model_versions(f"name = '{name}'")


def test_a_stored_model_loads_as_scikit_learn_onnx_and_pyfunc(client, store, learn):
    import mlflow.onnx
    import mlflow.sklearn
    from onnxruntime import InferenceSession

    result = learn({"estimator": LOGISTIC})
    uri = f"models:/{result.candidate.model}/{result.candidate.version}"
    test = open_dataset(store, result.dataset).table("test")
    ours = OnnxModel.load(download(client, result.candidate))
    seen = frame(test, ours.contract.features)
    found = ours.predict(test)

    loaded = mlflow.sklearn.load_model(uri)
    np.testing.assert_allclose(loaded.predict_proba(seen)[:, 1], found.score, atol=1e-5)
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(uri).predict(seen), found.prediction)
    session = InferenceSession(mlflow.onnx.load_model(uri).SerializeToString())
    kinds = {"tensor(float)": np.float32, "tensor(string)": object}
    feeds = {item.name: seen[item.name].to_numpy().astype(kinds[item.type])[:, None] for item in session.get_inputs()}
    label, probabilities = session.run(None, feeds)
    np.testing.assert_array_equal(label, found.prediction)
    np.testing.assert_allclose(probabilities[:, 1], found.score, atol=1e-6)

    # The folder contains no pickle.
    assert {file.suffix for file in download(client, result.candidate).rglob("*") if file.is_file()} <= {
        "", ".json", ".onnx", ".skops", ".txt", ".yaml", ".yml",
    }  # fmt: skip


def test_the_model_folder_contains_the_contract_and_the_profile(client, store, learn):
    result = learn({"estimator": HGB, "params": {"max_iter": 10}})
    folder = download(client, result.candidate)
    contract = OnnxModel.load(folder).contract
    assert contract.metrics == result.metrics
    assert [feature.name for feature in contract.features] == FEATURES
    assert (contract.task, contract.label, contract.classes, contract.positive) == ("binary", "late", [0, 1], 1)
    assert (contract.dataset_name, contract.dataset_id) == (result.dataset.name, result.dataset.id)
    known = ModelProfile.model_validate_json((folder / "mlops/profile.json").read_text())
    assert known.features.rows == 600
    assert set(known.features.columns) == set(FEATURES)
    assert known.scores.rows == 300
    assert set(known.scores.columns) == {"score"}
    assert set(known.importance) == set(FEATURES)
    assert sum(known.importance.values()) == pytest.approx(1)
    assert max(known.importance, key=known.importance.__getitem__) == "distance"
    assert set(known.segments.losses) == set(REALISED["binary"])
    for metric, value in (("roc_auc", 1 - contract.metrics["roc_auc"]), ("brier", contract.metrics["brier"])):
        for found in known.segments.losses[metric].values():
            assert sum(found.rows) == 300
            assert np.average(found.mean, weights=found.rows) == pytest.approx(value)
    assert known.calibration.rows == 300
    held_out = OnnxModel.load(folder).predict(open_dataset(store, result.dataset).table("test"))
    assert known.intervals[POSITIVES].value == np.mean(held_out.prediction == 1)


def test_the_run_contains_everything_about_the_training(client, learn):
    result = learn({"estimator": LOGISTIC, "params": {"C": 0.5}, "name": "small"}, seed=3, tags={"team": "delays"})
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == result.trainer == "small"
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    assert params["estimator"] == LOGISTIC
    assert (params["C"], params["seed"], params["train_rows"], params["test_rows"]) == ("0.5", "3", "600", "300")
    assert {name: metrics[name] for name in result.metrics} == pytest.approx(result.metrics)
    assert 0 < metrics["onnx_p99_difference"] <= metrics["onnx_max_difference"] < 1e-5
    assert metrics["onnx_label_flips"] <= metrics["onnx_near_threshold"] < 3
    assert metrics["fit_seconds"] > 0
    assert tags["mlops.dataset"] == result.dataset.id
    assert (tags["mlops.seed"], tags["mlops.dag_id"], tags["mlops.map_index"], tags["team"]) == (
        "3",
        "d",
        "2",
        "delays",
    )
    assert len(tags["mlops.code"]) == len(tags["mlops.environment"]) == 64
    assert tags["mlops.package"] == __version__
    (logged,) = run.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("late_training", result.dataset.id[:36])
    assert {item.path for item in client.list_artifacts(result.run_id)} >= {
        "environment.json", "code.json", "training.json",
    }  # fmt: skip

    version = client.get_model_version(result.candidate.model, str(result.candidate.version))
    assert version.status == "READY"
    assert version.tags["mlops.status"] == "candidate"
    assert version.tags["mlops.dataset"] == result.dataset.id
    assert version.run_id == result.run_id
    import mlflow.models

    info = mlflow.models.get_model_info(f"models:/{version.name}/{version.version}")
    assert info.signature.inputs.input_names() == FEATURES
    assert {"sklearn", "onnx", "python_function"} <= set(info.flavors)
    assert info.saved_input_example_info
    assert result.run_url.endswith(f"/runs/{result.run_id}")
    assert result.summary.startswith(
        f"Trained small on 600 rows of late_training and registered it as {result.candidate}. Metrics on "
    )


def test_a_training_that_gives_a_version_again_registers_none(client, store, learn, model):
    trainer = {"estimator": HGB, "params": {"max_iter": 10}}
    first, again = learn(trainer), learn(trainer, tags={"team": "delays"})
    assert again.candidate == first.candidate
    assert f"identical to {first.candidate}" in again.summary
    assert [version.version for version in versions(client, model)] == ["1"]
    # The second training has a separate run with its own metrics.
    assert again.run_id != first.run_id
    run = client.get_run(again.run_id)
    assert (run.info.status, run.data.tags["mlops.identical_to"]) == ("FINISHED", "1")
    assert {name: run.data.metrics[name] for name in again.metrics} == pytest.approx(first.metrics)
    # Each change of the model, or of the facts recorded about its origin, gives a new version.
    others = [
        learn({**trainer, "params": {"max_iter": 11}}),
        learn({**trainer, "name": "boosted"}),
        learn(trainer, seed=1),
        learn(trainer, tags={"mlops.code_version": "abc"}),
        learn(trainer, dataset=training_set(store, flights(601, seed=1))),
    ]
    assert [result.candidate.version for result in others] == [2, 3, 4, 5, 6]


def test_a_model_that_needs_float64_is_exported_evaluated_and_scored_in_float64(client, store, learn, tmp_path):
    import mlflow.sklearn

    features = [*FEATURES, "announced"]
    dataset = training_set(store, stamped(600, seed=1), stamped(300, seed=2), features=features)
    result = learn({"estimator": LOGISTIC}, dataset=dataset)
    parity = OnnxModel.load(download(client, result.candidate)).contract.parity
    assert (parity.precision, parity.rows, parity.label_flips) == ("float64", 300, 0)
    assert parity.max_difference < 1e-12
    assert client.get_run(result.run_id).data.metrics["onnx_max_difference"] == parity.max_difference

    gates = [{"max_onnx_difference": 1e-12, "label_flips": 0}]
    context = StepContext(store, "evaluation")
    verdict = evaluate.run(EvaluateSpec(candidates=[result.candidate], gates=gates), context).verdict
    assert verdict.winner == result.candidate
    card = client.download_artifacts(result.run_id, "evaluation/model_card.md", str(tmp_path))
    assert f"| ONNX export | {parity} |" in Path(card).read_text()

    name = result.candidate.model
    client.set_registered_model_alias(name, "champion", str(result.candidate.version))
    scored = score.run(ScoreSpec(model=name, dataset=dataset, part="test"), StepContext(store))
    table = open_dataset(store, dataset).table("test")
    fitted = mlflow.sklearn.load_model(f"models:/{name}/1")
    expected = fitted.predict_proba(frame(table, feature_columns(table.schema, features)))[:, 1]
    found = open_dataset(store, scored.dataset).table()["score"].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_seed_determines_the_metrics(learn):
    trainer = {"estimator": "sklearn.ensemble.RandomForestClassifier", "params": {"n_estimators": 10}}
    first, second, other = learn(trainer), learn(trainer), learn(trainer, seed=1)
    assert first.run_id != second.run_id
    assert first.metrics == second.metrics
    assert first.metrics != other.metrics


@pytest.mark.parametrize(("task", "estimator"), [("multiclass", HGB), ("regression", "sklearn.linear_model.Ridge")])
def test_multiclass_models_and_regressions_are_trained(task, estimator, client, store, learn):
    import mlflow.pyfunc

    dataset = training_set(store, task=task)
    result = learn({"estimator": estimator, "params": {"max_iter": 10}}, dataset=dataset)
    assert {"multiclass": "roc_auc_ovr", "regression": "rmse"}[task] in result.metrics
    model = OnnxModel.load(download(client, result.candidate))
    table = flights(50, task, seed=7)
    answers = mlflow.pyfunc.load_model(f"models:/{result.candidate.model}/1").predict(
        frame(table, model.contract.features)
    )
    if task == "multiclass":
        assert model.contract.classes == ["early", "late", "on time"]
        assert (answers == model.predict(table).prediction).all()
    else:
        np.testing.assert_allclose(answers, model.predict(table).prediction, atol=1e-5)


# Retries


def test_a_retry_after_the_registration_registers_nothing(client, learn, model):
    first = learn({"estimator": LOGISTIC}, key="results/one.json")
    again = learn({"estimator": LOGISTIC}, key="results/one.json")
    assert again == first
    assert len(runs(client, model)) == len(versions(client, model)) == 1


@pytest.mark.parametrize(
    ("module", "point"),
    [(train, "write_package"), (train_record, "log_run"), (train_record, "log_model"), (train, "register")],
    ids=["package", "log_run", "log_model", "register"],
)
def test_a_retry_after_a_failure_continues_in_the_same_run(module, point, client, learn, model, monkeypatch):
    with monkeypatch.context() as broken:
        real = getattr(module, point)

        def fail(*args, **kwargs):
            # If the training is interrupted before the registration, the run keeps everything that was logged.
            if point != "register":
                real(*args, **kwargs)
            raise ConnectionError("the network went away")

        broken.setattr(module, point, fail)
        with pytest.raises(ConnectionError):
            learn({"estimator": LOGISTIC}, key="results/one.json")
        assert [run.info.status for run in runs(client, model)] == ["FAILED"]
        assert versions(client, model) == []
    result = learn({"estimator": LOGISTIC}, key="results/one.json")
    (run,) = runs(client, model)
    assert (run.info.run_id, run.info.status) == (result.run_id, "FINISHED")
    assert [int(found.version) for found in versions(client, model)] == [1]
    logged = client.search_logged_models([run.info.experiment_id])
    assert [item.status.value for item in logged] == ["READY"]


def test_every_candidate_has_its_own_run_and_version(client, store, learn, model):
    results = [learn({"estimator": LOGISTIC, "params": {"C": c}}, key=f"results/{c}") for c in (0.1, 1.0)]
    assert [result.candidate.version for result in results] == [1, 2]
    assert len({result.run_id for result in results}) == len(runs(client, model)) == 2
    assert models.model(store, model).candidate.version == 2


# Errors


def test_invalid_training_data_leave_no_run(client, store, learn, model):
    table = flights(100)
    same = table.set_column(table.schema.get_field_index("late"), "late", [[True] * 100])
    with pytest.raises(TrainingError, match="have the label"):
        learn({"estimator": LOGISTIC}, dataset=training_set(store, train=same))
    assert client.get_experiment_by_name(model) is None


def test_an_unavailable_server_is_an_error_that_may_be_retried(store, model):
    from airflow_mlops.core.connections import ConnectionInfo

    spec = TrainSpec(dataset=training_set(store), model=model, trainer={"estimator": LOGISTIC})
    nowhere = ConnectionInfo(conn_id="m", conn_type="mlflow", host="http://127.0.0.1:9")
    with pytest.raises(RegistryUnavailableError, match="does not respond"):
        train.run(spec, StepContext(store, "k", connection=lambda conn_id: nowhere))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text("""
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

class Wrong(LogisticRegression):
    def predict_proba(self, X):
        return super().predict_proba(X)[:, ::-1]

def numbers(X, y, *, params, seed):
    columns = make_column_transformer(("passthrough", ["hour", "weekend"]))
    return make_pipeline(columns, LogisticRegression(random_state=seed, **params)).fit(X, y)

def custom(X, y, *, params, seed):
    columns = make_column_transformer((FunctionTransformer(), ["hour", "weekend"]))
    return make_pipeline(columns, LogisticRegression()).fit(X, y)

def tuned(X, y, *, params, seed):
    from sklearn.model_selection import FixedThresholdClassifier
    columns = make_column_transformer((FunctionTransformer(), ["hour", "weekend"]))
    return make_pipeline(columns, FixedThresholdClassifier(LogisticRegression(), **params)).fit(X, y)

def wrong(X, y, *, params, seed):
    import skl2onnx
    from skl2onnx.operator_converters.linear_classifier import convert_sklearn_linear_classifier
    from skl2onnx.shape_calculators.linear_classifier import calculate_linear_classifier_output_shapes
    skl2onnx.update_registered_converter(
        Wrong, "Wrong", calculate_linear_classifier_output_shapes, convert_sklearn_linear_classifier,
        options={"zipmap": [True, False, "columns"], "nocl": [True, False], "output_class_labels": [True, False],
                 "raw_scores": [True, False]},
    )
    columns = make_column_transformer(("passthrough", ["hour", "weekend"]))
    return make_pipeline(columns, Wrong()).fit(X, y)
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_model", None)


def test_a_users_function_is_trained_and_scores(client, store, learn, mine):
    result = learn({"function": "my_model:numbers", "params": {"C": 0.3}})
    assert result.trainer == "numbers"
    run = client.get_run(result.run_id)
    assert (run.data.params["function"], run.data.params["C"]) == ("my_model:numbers", "0.3")
    model = OnnxModel.load(download(client, result.candidate))
    assert model.predict(flights(20)).score.shape == (20,)


def test_an_export_that_predicts_differently_is_refused(client, learn, model, mine):
    with pytest.raises(
        ModelFormatError,
        match=r"wrong .* 300 held-out rows in float32.* predicted labels that differ: 300;.* float64",
    ):
        learn({"function": "my_model:wrong"})
    assert [run.info.status for run in runs(client, model)] == ["FAILED"]
    assert versions(client, model) == []


def test_cloudpickle_is_used_only_if_serialization_selects_it(client, learn, mine):
    result = learn({"function": "my_model:custom", "serialization": "cloudpickle"})
    folder = download(client, result.candidate)
    assert (folder / "model.pkl").is_file()
    assert OnnxModel.load(folder).predict(flights(5)).score.shape == (5,)


# In Airflow


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import TrainOperator
from airflow_mlops.trainers import FunctionTrainer, SklearnTrainer

with DAG("train_{name}", schedule=None, default_args={{"model": "{name}"}}):
    TrainOperator.partial(task_id="train", dataset={dataset!r}, seed="{{{{ 4 + 3 }}}}", store={store!r}).expand(
        trainer=[
            SklearnTrainer("{logistic}", {{"C": 0.5}}, name="{{{{ 'tem' + 'plated' }}}}"),
            {{"estimator": "sklearn.tree.DecisionTreeClassifier", "params": {{"max_depth": 3}}}},
        ]
    )
"""


def test_a_dag_maps_over_candidates(client, store, model, run_dag, mlflow_connection, capfd):
    dataset = training_set(store)
    source = DAG.format(name=model, dataset=dataset.model_dump(mode="json"), store=store.url, logistic=LOGISTIC)
    run = run_dag(source)
    assert run.states() == {"train[0]": "success", "train[1]": "success"}
    results = [run.xcom("train", map_index=index) for index in (0, 1)]
    assert [result["trainer"] for result in results] == ["templated", "DecisionTreeClassifier"]
    assert {result["candidate"]["version"] for result in results} == {1, 2}
    assert client.get_run(results[0]["run_id"]).data.params["seed"] == "7"
    assert "Trained templated on 600 rows of late_training and registered it as " in capfd.readouterr().out


def test_a_mapped_trainer_is_serialised_and_shown():
    from airflow.sdk import DAG as Dag  # noqa: N811
    from airflow.serialization.serialized_objects import DagSerialization

    from airflow_mlops.operators import TrainOperator
    from airflow_mlops.trainers import FunctionTrainer, SklearnTrainer

    trainers = [SklearnTrainer(LOGISTIC, {"C": 1.0}), FunctionTrainer("mine:train")]
    with Dag("serialised", schedule=None) as dag:
        TrainOperator.partial(task_id="train", dataset={"name": "d"}, model="late").expand(trainer=trainers)
        TrainOperator(task_id="one", dataset={"name": "d"}, model="late", trainer=trainers[0])
    found = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    text = json.dumps(found)
    assert LOGISTIC in text
    assert "mine:train" in text
    again = DagSerialization.from_dict(found)
    assert again.task_dict["one"].trainer == trainers[0]
    assert again.task_dict["train"].expand_input.value["trainer"][1]["function"] == "mine:train"


def test_an_invalid_trainer_is_refused_when_the_dag_is_parsed():
    from airflow_mlops.core.errors import SpecError
    from airflow_mlops.operators import TrainOperator

    with pytest.raises(SpecError, match="The trainer of task 'train' cannot run as it is configured: parms"):
        TrainOperator(task_id="train", dataset={}, model="late", trainer={"estimator": LOGISTIC, "parms": {}})


TORCH = {"epochs": 3, "batch_size": 64, "checkpoint_every": 2}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_network_scores_like_its_pyfunc(task, client, store, learn):
    import mlflow.pyfunc
    import torch

    dataset = training_set(store, task=task)
    result = learn(TorchTrainer(**TORCH), dataset=dataset)
    assert result.trainer == "TabularNetwork"
    folder = download(client, result.candidate)
    onnx_model = OnnxModel.load(folder)
    test = open_dataset(store, dataset).table("test")
    seen = frame(test, onnx_model.contract.features)
    found = onnx_model.predict(test)
    uri = f"models:/{result.candidate.model}/{result.candidate.version}"
    answers = mlflow.pyfunc.load_model(uri).predict(seen)
    if task == "regression":
        np.testing.assert_allclose(answers, found.prediction, rtol=1e-5)
    else:
        assert list(answers) == list(found.prediction)
        assert len(set(answers)) > 1
    # The weights can be read without running any code.
    assert torch.load(folder / "weights.pt", weights_only=True)
    profile = ModelProfile.model_validate_json((folder / "mlops/profile.json").read_bytes())
    assert profile.features.rows == 600
    assert set(profile.features.columns) == set(FEATURES)


def test_the_loss_curve_of_a_network_is_logged_once_and_its_checkpoint_is_deleted(
    client, store, learn, model, monkeypatch
):
    from airflow_mlops.models.trainers.torch import trainer

    dataset, key = training_set(store), f"results/{uuid.uuid4().hex}.json"
    log_curves = trainer._log_curves
    monkeypatch.setattr(trainer, "_log_curves", lambda *_: (_ for _ in ()).throw(RuntimeError("evicted")))
    with pytest.raises(RuntimeError, match="evicted"):
        learn(TorchTrainer(**TORCH), key=key, dataset=dataset)
    checkpoint = f"checkpoints/{key.removesuffix('.json')}.pt"
    assert store.exists(checkpoint)
    monkeypatch.setattr(trainer, "_log_curves", log_curves)
    result = learn(TorchTrainer(**TORCH), key=key, dataset=dataset)
    (run,) = runs(client, model)
    assert run.info.run_id == result.run_id
    for name in ("train_loss", "validation_loss"):
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, name)] == [0, 1, 2]
    assert [item.path for item in client.list_artifacts(run.info.run_id, "tensorboard")]
    assert run.data.params["batch_size"] == "64"
    assert not store.exists(checkpoint)
    assert int(run.data.tags["mlops.peak_memory_mb"]) > 50


def test_every_training_of_a_script_computes(client, store, model):
    dataset, context = training_set(store), StepContext(store)
    first, second, again = (
        train.run(TrainSpec(dataset=dataset, model=model, trainer={"estimator": f"sklearn.{name}"}), context)
        for name in ("linear_model.LogisticRegression", "naive_bayes.GaussianNB", "naive_bayes.GaussianNB")
    )
    assert len({item.run_id for item in (first, second, again)}) == 3
    assert [item.candidate.version for item in (first, second, again)] == [1, 2, 2]
    assert (first.trainer, second.trainer) == ("LogisticRegression", "GaussianNB")
    assert first.metrics != second.metrics == again.metrics


def test_a_search_of_a_script_is_not_continued_by_the_next_one(client, store, model):
    trainer = {
        "kind": "search", "trainer": {"estimator": LOGISTIC}, "space": {"C": {"kind": "float", "low": 0.1, "high": 10}}, "trials": 2, "folds": 2,
    }  # fmt: skip
    spec, context = TrainSpec(dataset=training_set(store), model=model, trainer=trainer), StepContext(store)
    first, second = train.run(spec, context), train.run(spec, context)
    searches = [client.get_run(item.run_id).data.tags["mlops.search"] for item in (first, second)]
    assert len(set(searches)) == 2


def test_the_declared_positive_class_is_the_contracts(client, store, learn):
    words = [flights(count, seed=seed) for count, seed in ((600, 1), (300, 2))]
    parts = [
        table.set_column(table.schema.get_field_index("late"), "late", pa.array(np.where(table["late"], "bad", "good")))
        for table in words
    ]
    made = {
        positive: learn({"estimator": LOGISTIC}, dataset=training_set(store, *parts, positive=positive))
        for positive in ("bad", "good")
    }
    for positive, result in made.items():
        loaded = OnnxModel.load(download(client, result.candidate))
        assert (loaded.contract.classes, loaded.contract.positive) == (["bad", "good"], positive)
        found = loaded.predict(parts[1])
        assert (found.score == found.probabilities[:, loaded.contract.classes.index(positive)]).all()
        truth = np.asarray(parts[1]["late"]) == positive
        hits = (found.prediction == positive) & truth
        assert result.metrics["recall"] == pytest.approx(hits.sum() / truth.sum())
    bad, good = (made[positive].metrics for positive in ("bad", "good"))
    assert bad["roc_auc"] == pytest.approx(good["roc_auc"])
    assert bad["recall"] != good["recall"]


def test_a_tuned_threshold_decides_in_scoring(client, store, learn, mine):
    result = learn({"function": "my_model:tuned", "params": {"threshold": 0.6}})
    loaded = OnnxModel.load(download(client, result.candidate))
    assert loaded.contract.threshold == 0.6
    table = open_dataset(store, result.dataset).table("test")
    found = loaded.predict(table)
    assert (found.prediction == (found.score >= 0.6)).all()
    assert 0 < found.prediction.sum() < (found.score >= 0.5).sum()
    truth = table["late"].to_numpy()
    assert result.metrics["recall"] == pytest.approx((found.prediction.astype(bool) & truth).sum() / truth.sum())


def test_rows_of_a_class_that_only_the_held_out_part_has_are_errors(client, store, learn):
    parts = [flights(count, "multiclass", seed) for count, seed in ((600, 1), (300, 2))]
    rare = np.asarray(parts[1]["late"], dtype=object)
    rare[:3] = "cancelled"
    parts[1] = parts[1].set_column(parts[1].schema.get_field_index("late"), "late", pa.array(rare))
    result = learn({"estimator": LOGISTIC}, dataset=training_set(store, *parts, task="multiclass"))
    assert "3 of these rows ('cancelled') have a class that 'train' lacks" in result.summary
    loaded = OnnxModel.load(download(client, result.candidate))
    assert "cancelled" not in loaded.contract.classes
    found = loaded.predict(parts[1])
    assert result.metrics["accuracy"] == pytest.approx((found.prediction == rare).mean())
    context = StepContext(store)
    verdict = evaluate.run(EvaluateSpec(candidates=[result.candidate]), context).verdict
    assert verdict.candidates[0].metrics == pytest.approx(result.metrics)
