"""Champions that TrainOperator did not make are promoted, scored, monitored and rolled back like any other."""

from __future__ import annotations

import uuid
from functools import partial

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import xgboost
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import LinearSVC

from airflow_mlops.core.errors import EvaluationError, ModelFormatError, SchemaError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.models import contracts
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.rollback import step as rollback
from airflow_mlops.stages.rollback.spec import RollbackSpec
from airflow_mlops.stages.score import scoring
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.candidates import FEATURES, from_elsewhere, held_out, training_rows, training_set
from tests.support.deployed import write
from tests.support.executors import LocalExecutors

LENIENT = [{"metric": "accuracy", "min": 0.6}, {"champion": "ignore"}]


class Own(mlflow.pyfunc.PythonModel):
    """A user's own model with the right slope or another one."""

    def __init__(self, slope):
        self.slope = slope

    def predict(self, context, model_input, params=None):
        return 1 / (1 + np.exp(-self.slope * model_input["distance"]))


class Words(Own):
    def predict(self, context, model_input, params=None):
        return np.where(model_input["distance"] > 100, 2, model_input["distance"] > 0)


@pytest.fixture
def model(client):
    return f"delays_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def log(model):
    return partial(from_elsewhere, model)


def trees():
    rows, labels = training_rows()
    return xgboost.XGBClassifier(n_estimators=20, max_depth=3).fit(rows, labels)


def step(store):
    """Each task has its own key."""
    return StepContext(store=store, key=f"results/{uuid.uuid4().hex}.json")


def judge(store, candidate, dataset, gates=LENIENT, **options):
    options = {"metric": "accuracy", "allow_pyfunc": True, **options}
    return evaluate.run(EvaluateSpec(candidates=[candidate], dataset=dataset, gates=gates, **options), step(store))


def crown(store, candidate, dataset, **options):
    verdict = judge(store, candidate, dataset, **options).verdict
    assert promote.run(PromoteSpec(verdict=verdict), step(store)).promoted, verdict.reason
    return verdict


def to_score(store, data, window="2013-04"):
    return write(store, "scoring", data, window, {"keys": ["flight"], "features": list(FEATURES)})


def predict(store, model, data, window="2013-04", **options):
    spec = ScoreSpec(model=model, dataset=to_score(store, data.drop_columns(["label"]), window), **options)
    result = score.run(spec, StepContext(store=store))
    return result, open_dataset(store, result.dataset).table()


def watch(store, model, scored, data, **policy):
    labels = write(store, "outcomes", data.select(["flight", "label"]), scored.dataset.window.label)
    spec = {"predictions": scored.dataset, "labels": labels, "on": ["flight"], "label": "label", "name": "joined"}
    joined = join_labels.run(JoinLabelsSpec(**spec), StepContext(store=store)).dataset
    return monitor.run(MonitorSpec(model=model, dataset=joined, policy=policy), StepContext(store=store))


def first_quarter(store):
    """A training set with a timestamp column."""
    details = {"label": "label", "task": "binary", "features": list(FEATURES), "keys": ["flight"]}
    with DatasetWriter(store, "delays_training") as writer:
        writer.write(held_out(rows=500, seed=1), "train")
        writer.write(held_out(), "test")
        return writer.commit(window=Window.model_validate("2013-01..2013-03"), details=details)[0].ref


def test_two_foreign_champions_are_promoted_scored_monitored_and_rolled_back(store, model, log):
    dataset, data, fitted = first_quarter(store), held_out(rows=2_000, seed=7), trees()
    verdict = crown(store, log(mlflow.xgboost, fitted, answer=np.array([0.5])), dataset, allow_pyfunc=False)
    scored, rows = predict(store, model, data)
    frame = data.select(FEATURES).to_pandas()
    np.testing.assert_allclose(rows["score"].to_numpy(), fitted.predict_proba(frame)[:, 1], rtol=1e-6)
    assert rows["prediction"].to_pylist() == (rows["score"].to_numpy() >= 0.5).tolist()
    assert rows.column_names[:3] == ["flight", *FEATURES]
    assert (scored.scored_by.version, scored.engine) == (1, f"mlflow.xgboost (mlflow {mlflow.__version__})")
    assert scored.engine in scored.summary
    assert open_dataset(store, scored.dataset).manifest.details["engine"] == scored.engine
    apart = ScoreSpec(model=model, dataset=to_score(store, data.drop_columns(["label"])), name="on_executors")
    there = score.run(apart, StepContext(store=store, executors=LocalExecutors(store.url)))
    assert there.engine == scored.engine
    assert open_dataset(store, there.dataset).table()["score"].equals(rows["score"])

    healthy = watch(store, model, scored, data, tolerance=0.05)
    assert healthy.decision == "healthy", healthy.reason
    assert healthy.metrics["roc_auc_reference"] == verdict.candidates[0].metrics["roc_auc"]
    assert 0 <= healthy.metrics["feature_drift"] < 0.1
    assert 0 <= healthy.metrics["prediction_drift"] < 0.1
    moved = data.set_column(1, "distance", pa.array(data["distance"].to_numpy() + 1))
    scored, _ = predict(store, model, moved, "2013-05")
    drifted = watch(store, model, scored, moved, max_age="P20D", tolerance=0.2)
    assert drifted.most_drifted == "distance"
    # The training data are unknown, so the data of its evaluation are used instead.
    assert "ended 61 days before the end of 2013-05" in drifted.reason
    report = Report.model_validate(store.read_json(f"reports/{model}/2013-05.json"))
    assert any(f"TrainOperator did not train model {model} v1" in note for note in report.notes)

    crown(store, log(mlflow.pyfunc, python_model=Own(2), answer=np.array([0.5])), dataset)
    with pytest.raises(ModelFormatError) as refused:
        predict(store, model, data)
    for fact in (f"{model} v2", "by mlflow.pyfunc.model, the pickled python_model.pkl", "allow_pyfunc=True"):
        assert fact in str(refused.value)
    scored, rows = predict(store, model, data, allow_pyfunc=True)
    np.testing.assert_allclose(rows["score"].to_numpy(), 1 / (1 + np.exp(-2 * data["distance"].to_numpy())))
    assert (scored.scored_by.version, scored.engine.partition(" ")[0]) == (2, "mlflow.pyfunc.model")
    assert watch(store, model, scored, data).decision == "healthy"

    back = rollback.run(RollbackSpec(model=model, reason="It was wrong about snow."), step(store))
    assert back.summary == f"Rolled {model} back from v2 to v1: It was wrong about snow."
    scored, rows = predict(store, model, data)
    assert scored.scored_by.version == 1
    np.testing.assert_allclose(rows["score"].to_numpy(), fitted.predict_proba(frame)[:, 1], rtol=1e-6)
    assert watch(store, model, scored, data, tolerance=0.05).metrics["roc_auc_reference"] == pytest.approx(
        verdict.candidates[0].metrics["roc_auc"]
    )


def test_a_classifier_without_probabilities_is_monitored_by_accuracy(store, model, log, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_ROWS", 700)
    dataset, data = training_set(store), held_out(rows=2_000, seed=7)
    rows, labels = training_rows()
    # The labels of the model are 0 and 1, those of the dataset False and True.
    fitted = LinearSVC().fit(rows, labels.astype(int))
    verdict = crown(store, log(mlflow.sklearn, fitted, answer=np.array([1])), dataset, allow_pyfunc=False)
    scored, found = predict(store, model, data)
    expected = fitted.predict(data.select(FEATURES).to_pandas())
    assert found["prediction"].to_pylist() == expected.astype(bool).tolist()
    assert found["score"].to_pylist() == expected.tolist()
    watched = watch(store, model, scored, data)
    assert (watched.decision, watched.metric) == ("healthy", "accuracy"), watched.reason
    assert watched.metrics["accuracy"] == (expected == data["label"].to_numpy()).mean()
    assert watched.metrics["accuracy_reference"] == verdict.candidates[0].metrics["accuracy"]
    assert watched.metrics["prediction_drift"] < 0.1
    asked = watch(store, model, scored, data, metric="roc_auc")
    assert asked.headline == "Realised performance is not judged because roc_auc was not measured at training"


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_are_scored_and_monitored(task, store, model, log):
    dataset, data = training_set(store, task), held_out(task, 2_000, seed=7)
    rows, labels = training_rows(task)
    regression = task == "regression"
    fitted = (LinearRegression() if regression else LogisticRegression()).fit(rows, labels)
    metric = "rmse" if regression else "accuracy"
    made = log(mlflow.sklearn, fitted, answer=fitted.predict(rows))
    crown(store, made, dataset, metric=metric, gates=[{"metric": metric, "better_than_baseline_by": 0.0}])
    scored, found = predict(store, model, data)
    frame = data.select(FEATURES).to_pandas()
    assert found["prediction"].to_pylist() == fitted.predict(frame).tolist()
    best = fitted.predict(frame) if regression else fitted.predict_proba(frame).max(axis=1)
    np.testing.assert_allclose(found["score"].to_numpy(), best)
    watched = watch(store, model, scored, data)
    assert (watched.decision, watched.metric) == ("healthy", metric), watched.reason


def test_a_champion_without_an_evaluation_is_an_error_until_it_is_evaluated(client, store, model, log):
    dataset, data = training_set(store), held_out(rows=300, seed=7)
    made = log(mlflow.xgboost, trees(), answer=np.array([0.5]))
    client.set_registered_model_alias(model, "champion", "1")
    message = (
        f"{model} v1 has no model contract (features, label, ML task), because TrainOperator did not train it and the "
        f"artifact store {store.url} contains no evaluation of it. Evaluate it with EvaluateOperator and promote it."
    )
    with pytest.raises(ModelFormatError) as unknown:
        predict(store, model, data)
    assert str(unknown.value) == message
    with pytest.raises(ModelFormatError) as unknown:
        monitor.run(MonitorSpec(model=model, dataset=None, window="2013-04"), StepContext(store=store))
    assert str(unknown.value) == message
    # Evaluating it is enough, even if it fails the gates.
    assert judge(store, made, dataset, gates=[{"metric": "accuracy", "min": 1}]).verdict.winner is None
    assert predict(store, model, data)[0].scored_by.version == 1


def test_only_a_promotion_changes_the_contract_of_a_champion(client, store, model, log):
    dataset = training_set(store)
    made = log(mlflow.pyfunc, python_model=Own(2), answer=np.array([0.5]))
    ref = version(client, model, 1)

    def known():
        return contracts.read(client, store, ref).contract

    # Before the first promotion the last evaluation counts, so a mistake can be corrected.
    mistaken = held_out()
    mistaken = mistaken.set_column(3, "label", pa.array(np.where(mistaken["label"], "late", "on time")))
    other = training_set(store, name="mistaken", test=mistaken, parts=["test"])
    assert judge(store, made, other).verdict.winner is None
    assert known().classes == ["late", "on time"]
    first = crown(store, made, dataset)
    assert (known().classes, known().dataset_id, known().timestamp) == ([False, True], dataset.id, None)
    assert known().metrics == first.candidates[0].metrics
    profile = contracts.read(client, store, ref).profile
    assert (profile["features"]["rows"], profile["scores"]["rows"]) == (500, 1_000)
    assert sum(profile["importance"].values()) == pytest.approx(1)
    assert all(sum(of["rows"]) == 1_000 for of in profile["segments"]["losses"]["accuracy"].values())
    (entry,) = Ledger(store, model).entries()
    sha256 = entry.candidates[0].contract_sha256
    assert client.get_model_version(model, "1").tags["mlops.contract"] == sha256
    judge(store, made, other)
    assert known().classes == [False, True]
    # A promotion on newer data uses the contract of its evaluation.
    newer = training_set(store, test=held_out(seed=3))
    crown(store, log(mlflow.pyfunc, python_model=Own(3), answer=np.array([0.5])), dataset)
    crown(store, made, newer)
    assert known().dataset_id == newer.id
    rollback.run(RollbackSpec(model=model, to_version=2, reason="v1 again?"), step(store))
    rollback.run(RollbackSpec(model=model, to_version=1, reason="v1 again."), step(store))
    assert known().dataset_id == newer.id


def test_a_changed_or_lost_contract_is_an_error(client, store, model, log):
    dataset, data = training_set(store), held_out(rows=50, seed=7)
    made = log(mlflow.xgboost, trees(), answer=np.array([0.5]))
    crown(store, made, dataset)
    (key,) = store.keys(f"models/{model}/1")
    stored = store.read_bytes(key)
    store.write_bytes(key, stored.replace(b'"threshold": 0.5', b'"threshold": 0.1'))
    with pytest.raises(ModelFormatError, match=f"The model contract of {model} v1 was changed .*{key} from a backup"):
        predict(store, model, data)
    store.delete(key)
    with pytest.raises(ModelFormatError, match="the artifact store .* contains no evaluation of it"):
        predict(store, model, data)
    judge(store, made, training_set(store, test=held_out(seed=3)))
    assert predict(store, model, data)[0].scored_by.version == 1


def test_rows_and_outputs_that_do_not_match_are_an_error(store, model, log):
    dataset, data = training_set(store), held_out(rows=50, seed=7)
    crown(store, log(mlflow.pyfunc, python_model=Words(2), answer=np.array([1])), dataset)
    with pytest.raises(SchemaError, match=f"'wind'.*{model} v1"):
        predict(store, model, data.drop_columns(["wind"]), allow_pyfunc=True)
    text = data.set_column(2, "wind", pa.array(["1"] * 50))
    with pytest.raises(SchemaError, match="Feature 'wind' has the type double .* but string in the data"):
        predict(store, model, text, allow_pyfunc=True)
    far = data.set_column(1, "distance", pa.array([200.0, *[1.0] * 49]))
    with pytest.raises(EvaluationError, match=rf"{model} v1 .*False, True"):
        predict(store, model, far, allow_pyfunc=True)
    assert predict(store, model, data.slice(0, 0), allow_pyfunc=True)[1].num_rows == 0


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import ScoreOperator

with DAG("{name}"):
    ScoreOperator(task_id="score", model="{model}", dataset={{"name": "scoring", "window": "2013-04"}}, store="{store}"{more})
"""


def test_only_the_dag_file_can_allow_a_champions_code(run_dag, store, model, log):
    from airflow_mlops.operators import ScoreOperator

    assert "allow_pyfunc" not in ScoreOperator.template_fields
    crown(store, log(mlflow.pyfunc, python_model=Own(2), answer=np.array([0.5])), training_set(store))
    to_score(store, held_out(rows=50))
    fields = {"model": model, "store": store.url}
    assert run_dag(DAG.format(name=f"refused_{model}", more="", **fields)).state == "failed"
    outcome = run_dag(DAG.format(name=f"allowed_{model}", more=", allow_pyfunc=True", **fields))
    assert outcome.state == "success"
    assert outcome.xcom("score")["engine"].startswith("mlflow.pyfunc.model (mlflow ")
