"""Foreign models: versions that were logged with MLflow's flavours are evaluated like those of TrainOperator."""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xgboost
import yaml
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.svm import LinearSVC

from airflow_mlops.core.errors import EvaluationError, ModelFormatError, SchemaError, SpecError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from tests.support.candidates import FEATURES, from_elsewhere, held_out, register, training_rows, training_set

GATES = [
    {"metric": "roc_auc", "min": 0.6},
    {"metric": "roc_auc", "better_than_champion_by": 0.0},
    {"metric": "log_loss", "slices": ["wind"], "not_worse_than_champion_by": 0.1},
    {"behaviour": "direction", "feature": "distance", "direction": "increasing"},
    {"max_latency_ms": 1_000},
    {"max_size_mb": 5},
    {"max_onnx_difference": 0},
]


@pytest.fixture
def context(tmp_path):
    return StepContext(store=ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def model(client):
    return f"delays_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def log(model):
    """``log(flavour, fitted, ...)`` registers a version with MLflow's public functions and returns it."""
    return partial(from_elsewhere, model)


def logistic(task="binary"):
    return LogisticRegression().fit(*training_rows(task))


def judge(context, *candidates, **options):
    return evaluate.run(EvaluateSpec(candidates=list(candidates), **options), context)


def truth(task="binary"):
    rows = held_out(task).to_pandas()
    return rows[list(FEATURES)], rows["label"]


def crown(client, version):
    client.set_registered_model_alias(version["model"], "champion", str(version["version"]))


def test_a_foreign_model_is_evaluated_promoted_and_champion(client, context, model, log, tmp_path, caplog):
    dataset = training_set(context.store)
    weak = register(client, tmp_path / "weak", dataset, (1, 2), model=model)
    client.set_registered_model_alias(model, "champion", str(weak.version))
    fitted = logistic()
    with caplog.at_level("INFO", logger="airflow_mlops.stages"):
        result = judge(context, log(mlflow.sklearn, fitted, answer=np.array([True])), dataset=dataset, gates=GATES)
    verdict = result.verdict
    assert verdict.winner is not None, verdict.reason
    rows, labels = truth()
    expected = roc_auc_score(labels, fitted.predict_proba(rows)[:, 1])
    assert verdict.for_candidate(verdict.winner).metrics["roc_auc"] == pytest.approx(expected, abs=1e-9)
    assert 0.6 < verdict.champion_metrics["roc_auc"] < expected
    # MLflow makes no run for a model that is logged outside of one.
    assert (result.run_id, result.reports, verdict.winner.run_id) == ("", [], "")
    assert "has no MLflow run" in caplog.text
    assert "trained on an unknown dataset" in caplog.text
    done = promote.run(PromoteSpec(verdict=verdict), context)
    assert done.promoted
    assert [entry.decision for entry in Ledger(context.store, model).entries()] == ["promoted"]
    # The next candidate is compared with the foreign champion.
    again = judge(context, weak, gates=GATES).verdict
    assert (again.winner, again.champion) == (None, verdict.winner)
    assert again.champion_metrics["roc_auc"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.plots
def test_verdict_and_plots_are_logged_to_the_run_of_a_foreign_model(client, context, log):
    dataset = training_set(context.store)
    with mlflow.start_run() as run:
        made = log(mlflow.sklearn, logistic(), answer=np.array([True]))
    result = judge(context, made, dataset=dataset)
    assert result.reports == [f"runs:/{run.info.run_id}/evaluation"]
    names = {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "evaluation")}
    assert names >= {"verdict.json", "roc.png", "calibration.png", "importance.png", "confusion.png"}
    assert client.get_run(run.info.run_id).data.tags["mlops.verdict"] == "won"


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_every_task_is_measured(task, context, log):
    dataset = training_set(context.store, task)
    rows, labels = training_rows(task)
    fitted = (LinearRegression() if task == "regression" else LogisticRegression()).fit(rows, labels)
    verdict = judge(context, log(mlflow.sklearn, fitted, answer=fitted.predict(rows)), dataset=dataset).verdict
    rows, labels = truth(task)
    metric, expected = (
        ("rmse", float(np.sqrt(np.mean((fitted.predict(rows) - labels) ** 2))))
        if task == "regression"
        else ("accuracy", accuracy_score(labels, fitted.predict(rows)))
    )
    assert verdict.candidates[0].metrics[metric] == pytest.approx(expected)
    assert verdict.winner is not None


def _revive(marker, fitted):
    Path(marker).touch()
    return fitted


class Loud(LogisticRegression):
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return _revive, (self.marker_, logistic())


@pytest.fixture
def loud(tmp_path, log):
    """A pickled version, and the file that exists once its code has run."""
    marker = tmp_path / "ran"
    fitted = Loud().fit(*training_rows("binary"))
    fitted.marker_ = str(marker)
    made = log(mlflow.sklearn, fitted, answer=np.array([True]), serialization_format="cloudpickle")
    marker.unlink(missing_ok=True)
    return made, marker


def test_a_pickle_is_refused_and_runs_no_code_unless_allowed(context, loud):
    dataset = training_set(context.store)
    made, marker = loud
    with pytest.raises(ModelFormatError) as refused:
        judge(context, made, dataset=dataset)
    for fact in (f"{made['model']} v1", "by mlflow.sklearn, in the format cloudpickle", "allow_pyfunc=True"):
        assert fact in str(refused.value)
    assert not marker.exists()
    assert judge(context, made, dataset=dataset, allow_pyfunc=True).verdict.winner is not None
    assert marker.exists()


def test_types_that_only_the_model_trusts_are_refused(context, log):
    # MLflow reads from the model's own files which types skops may load.
    fitted = Loud().fit(*training_rows("binary"))
    fitted.__class__ = type("Own", (LogisticRegression,), {"__module__": __name__})
    globals()["Own"] = type(fitted)
    trusted = {"serialization_format": "skops", "skops_trusted_types": [f"{__name__}.Own"]}
    made = log(mlflow.sklearn, fitted, answer=np.array([True]), **trusted)
    with pytest.raises(ModelFormatError, match="in the format skops"):
        judge(context, made, dataset=training_set(context.store))


def test_a_champion_that_may_not_be_loaded_is_not_measured(client, context, model, loud, tmp_path):
    dataset = training_set(context.store)
    (made, marker), good = loud, register(client, tmp_path / "good", dataset, (2, 0), model=model)
    crown(client, made)
    verdict = judge(context, good).verdict
    assert verdict.winner is None
    assert f"The champion {model} v1 could not be measured" in verdict.reason
    assert "allow_pyfunc=True" in verdict.reason
    assert not marker.exists()
    assert judge(context, good, allow_pyfunc=True).verdict.champion_metrics["roc_auc"] > 0.8


def code(folder, slope):
    """A module that is logged with a model, and the model as a script that MLflow runs (models from code)."""
    folder.mkdir()
    (folder / "slopes.py").write_text(
        f"def probability(rows):\n    return 1 / (1 + 2.718281828 ** -({slope} * rows))\n"
    )
    (folder / "script.py").write_text(
        "import mlflow\n"
        "class Own(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        from slopes import probability\n"
        "        return probability(model_input['distance'])\n"
        "mlflow.models.set_model(Own())\n"
    )
    return {"python_model": str(folder / "script.py"), "code_paths": [str(folder / "slopes.py")]}


def test_each_model_uses_the_modules_that_were_logged_with_it(context, log, tmp_path):
    dataset = training_set(context.store)
    right = log(mlflow.pyfunc, answer=np.array([0.5]), **code(tmp_path / "right", 2))
    wrong = log(mlflow.pyfunc, answer=np.array([0.5]), **code(tmp_path / "wrong", -2))
    with pytest.raises(ModelFormatError, match="with the modules in code"):
        judge(context, right, dataset=dataset)
    verdict = judge(context, right, wrong, dataset=dataset, allow_pyfunc=True).verdict
    first, second = (item.metrics["roc_auc"] for item in verdict.candidates)
    rows, labels = truth()
    assert first == pytest.approx(roc_auc_score(labels, rows["distance"]))
    assert second == pytest.approx(1 - first)
    assert verdict.winner.version == right["version"]


class Pickled(mlflow.pyfunc.PythonModel):
    def __init__(self, answer):
        self.answer = answer

    def predict(self, context, model_input, params=None):
        return self.answer(model_input)


def test_a_pickled_python_model(context, log):
    dataset = training_set(context.store)
    made = log(mlflow.pyfunc, python_model=Pickled(lambda rows: rows["distance"] > 0), answer=np.array([True]))
    gates = [{"metric": "accuracy", "min": 0.6}]
    with pytest.raises(ModelFormatError, match="the pickled python_model.pkl"):
        judge(context, made, dataset=dataset)
    verdict = judge(context, made, dataset=dataset, metric="accuracy", allow_pyfunc=True, gates=gates).verdict
    rows, labels = truth()
    assert verdict.candidates[0].metrics["accuracy"] == accuracy_score(labels, rows["distance"] > 0)
    assert verdict.winner is not None


def as_pandas_makes_them(store, **fields):
    """A training set whose labels 0 and 1 are floating-point numbers."""
    rows = held_out().to_pandas()
    return training_set(store, test=pa.table(rows.assign(label=rows["label"].astype(float))), parts=["test"], **fields)


def test_labels_that_are_numbers_are_measured_as_labels_or_as_probabilities(context, log):
    dataset = as_pandas_makes_them(context.store)
    rows, labels = truth()
    signal = rows["distance"].to_numpy()
    fitted = LogisticRegression().fit(training_rows()[0], training_rows()[1].astype(float))
    hard = log(
        mlflow.pyfunc, python_model=Pickled(lambda rows: (rows["distance"] > 0).astype(float)), answer=np.array([0.5])
    )
    soft = log(
        mlflow.pyfunc, python_model=Pickled(lambda rows: 1 / (1 + np.exp(-rows["distance"]))), answer=np.array([0.5])
    )
    # Some of these probabilities are exactly 0 or 1.
    steep = log(
        mlflow.pyfunc,
        python_model=Pickled(lambda rows: np.clip(rows["distance"] / 2 + 0.5, 0, 1)),
        answer=np.array([0.5]),
    )
    estimator = log(mlflow.sklearn, fitted, answer=np.array([1.0]))
    gates = [{"metric": "accuracy", "min": 0.5}]
    verdict = judge(
        context, hard, soft, steep, estimator, dataset=dataset, metric="accuracy", gates=gates, allow_pyfunc=True
    ).verdict
    found = [item.metrics for item in verdict.candidates]
    assert "roc_auc" not in found[0]
    for metrics, predicted in zip(found, [signal > 0, signal > 0, signal >= 0, fitted.predict(rows)], strict=True):
        assert metrics["accuracy"] == accuracy_score(labels, predicted)
    assert found[1]["roc_auc"] == pytest.approx(roc_auc_score(labels, signal))
    assert found[2]["roc_auc"] == pytest.approx(roc_auc_score(labels, np.clip(signal, -1, 1)))
    assert found[3]["roc_auc"] == pytest.approx(roc_auc_score(labels, fitted.predict_proba(rows)[:, 1]))


def test_an_unknown_class_counts_as_wrong_for_multiclass_and_is_refused_for_binary_models(context, log):
    gates = [{"metric": "accuracy", "min": 0.1}]
    fields = {"metric": "accuracy", "gates": gates, "allow_pyfunc": True}
    dataset = training_set(context.store, "multiclass")

    def answer(rows):
        return np.where(rows["distance"] > 1, "diverted", np.where(rows["distance"] > 0, "late", "early")).astype(
            object
        )

    several = log(mlflow.pyfunc, python_model=Pickled(answer), answer=np.array(["late"]))
    verdict = judge(context, several, dataset=dataset, **fields).verdict
    rows, labels = truth("multiclass")
    assert verdict.candidates[0].metrics["accuracy"] == accuracy_score(labels, answer(rows))
    two = log(
        mlflow.pyfunc, python_model=Pickled(lambda rows: np.where(rows["distance"] > 1, 2, 0)), answer=np.array([1])
    )
    with pytest.raises(EvaluationError, match="v2 returned 2 for .* rows, .* labels False, True"):
        judge(context, two, dataset=training_set(context.store), **fields)


def test_the_declared_positive_class_and_a_tuned_threshold_hold_for_a_foreign_model(context, log):
    rows, labels = training_rows()
    words = np.where(labels, "bad", "good")
    table = held_out().to_pandas()
    test = pa.table(table.assign(label=np.where(table["label"], "bad", "good")))
    dataset = training_set(context.store, test=test, parts=["test"], positive="bad")
    fitted = FixedThresholdClassifier(LogisticRegression(), threshold=0.8, pos_label="bad").fit(rows, words)
    made = log(mlflow.sklearn, fitted, answer=np.array(["bad"]))
    verdict = judge(context, made, dataset=dataset, allow_pyfunc=True).verdict
    rows, labels = truth()
    predicted = fitted.predict(rows) == "bad"
    found = verdict.candidates[0].metrics
    assert found["recall"] == pytest.approx((predicted & labels).sum() / labels.sum())
    assert found["accuracy"] == pytest.approx((predicted == labels).mean())


def test_a_torch_network(context, log):
    # Each test process collects this module, and importing the library takes seconds.
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid())
    with torch.no_grad():
        network[0].weight[:] = torch.tensor([[2.0, 0.1]])
    made = log(mlflow.pytorch, network, answer=pd.DataFrame({"p": [0.5]}), serialization_format="pickle")
    dataset = training_set(context.store)
    with pytest.raises(ModelFormatError, match=r"would run code .*\(by mlflow.pytorch\)"):
        judge(context, made, dataset=dataset)
    verdict = judge(context, made, dataset=dataset, allow_pyfunc=True).verdict
    rows, labels = truth()
    answers = network(torch.tensor(rows.to_numpy(dtype=np.float32))).detach().numpy()[:, 0]
    assert verdict.candidates[0].metrics["roc_auc"] == pytest.approx(roc_auc_score(labels, answers))


def boosted(kind):
    rows, labels = training_rows("binary")
    if kind == "lightgbm":
        made = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(rows, labels), 20)
        return mlflow.lightgbm, made, made.predict
    if kind == "xgboost":
        data = xgboost.DMatrix(rows, labels)
        made = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, data, 20)
        return mlflow.xgboost, made, lambda rows: made.predict(xgboost.DMatrix(rows))
    made = xgboost.XGBClassifier(n_estimators=20, max_depth=3).fit(rows, labels)
    return mlflow.xgboost, made, lambda rows: made.predict_proba(rows)[:, 1]


@pytest.mark.parametrize("kind", ["xgboost", "XGBClassifier", "lightgbm"])
def test_boosted_trees_in_their_own_format_run_no_code(kind, context, log):
    flavour, fitted, probability = boosted(kind)
    made = log(flavour, fitted, answer=np.array([0.5]))
    verdict = judge(context, made, dataset=training_set(context.store)).verdict
    rows, labels = truth()
    assert verdict.candidates[0].metrics["roc_auc"] == pytest.approx(roc_auc_score(labels, probability(rows)))
    assert verdict.winner is not None


@pytest.mark.parametrize("trap", ["class", "beside", "code"])
def test_a_forged_description_of_boosted_trees_is_refused(trap, client, context, model, tmp_path):
    _, fitted, _ = boosted("xgboost")
    folder, signature = tmp_path / "model", infer_signature(training_rows("binary")[0], np.array([0.5]))
    mlflow.xgboost.save_model(fitted, str(folder), signature=signature, pip_requirements=["mlflow"])
    described = yaml.safe_load((folder / "MLmodel").read_text())
    own, pyfunc = described["flavors"]["xgboost"], described["flavors"]["python_function"]
    if trap == "class":
        own["model_class"] = "tests.integration.stages.test_evaluate_foreign.Loud"
    elif trap == "code":
        pyfunc["code"] = "code"
    else:
        # MLflow reads the description again, from the folder of the file.
        (folder / "sub").mkdir()
        (folder / "sub" / "MLmodel").write_text((folder / "MLmodel").read_text())
        (folder / "model.ubj").rename(folder / "sub" / "model.ubj")
        pyfunc["data"] = "sub/model.ubj"
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder), "model")
    client.create_registered_model(model)
    client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id)
    with pytest.raises(ModelFormatError, match="would run code from its files"):
        judge(context, {"model": model, "version": 1}, dataset=training_set(context.store))


def test_a_classifier_without_probabilities_fails_gates_on_probabilities(client, context, model, log, tmp_path):
    dataset = training_set(context.store)
    fitted = LinearSVC().fit(*training_rows("binary"))
    made = log(mlflow.sklearn, fitted, answer=np.array([True]))
    gates = [{"metric": "accuracy", "min": 0.6}, {"metric": "log_loss", "max": 0.7}]
    verdict = judge(context, made, dataset=dataset, gates=gates).verdict
    assert verdict.winner is None
    found = verdict.candidates[0]
    assert [gate.passed for gate in found.gates] == [True, False, False, False]
    for fact in (f"{model} v1", "without probabilities", "log_loss", "f1, precision, recall, accuracy"):
        assert fact in found.gates[1].explanation
    # The model is measured by its predicted labels, so it can win and become champion.
    behaviour = {"behaviour": "direction", "feature": "distance", "direction": "increasing"}
    gates = [{"metric": "accuracy", "min": 0.6}, behaviour]
    verdict = judge(context, made, dataset=dataset, metric="accuracy", gates=gates).verdict
    assert verdict.winner is not None, verdict.reason
    rows, labels = truth()
    assert verdict.candidates[0].metrics["accuracy"] == accuracy_score(labels, fitted.predict(rows))
    crown(client, made)
    good = register(client, tmp_path / "good", dataset, (2, 0), model=model)
    against = judge(context, good).verdict
    assert against.winner is None
    assert f"roc_auc cannot be computed, because {model} v1 predicts labels without probabilities" in against.reason
    slices = [{"metric": "accuracy", "slices": ["wind"], "not_worse_than_champion_by": 0.05, "discover": True}]
    assert judge(context, good, gates=slices).verdict.winner is None
    verdict = judge(context, good, gates=[*slices, {"metric": "accuracy", "better_than_champion_by": -0.05}]).verdict
    assert verdict.winner is not None
    assert verdict.reason.endswith("(champion v1: unknown).")


def test_a_signature_that_does_not_fit_the_dataset_is_an_error(context, log):
    dataset = training_set(context.store)
    rows, labels = training_rows("binary")
    fitted = logistic()
    unsigned = log(mlflow.sklearn, fitted)
    with pytest.raises(SchemaError, match="v1 has no MLflow signature, .* Log the model with"):
        judge(context, unsigned, dataset=dataset)
    renamed = log(mlflow.sklearn, fitted, signature=infer_signature(rows.rename(columns={"wind": "rain"}), labels))
    with pytest.raises(SchemaError, match="v2 needs the feature 'rain', which dataset 'delays_training' does not have"):
        judge(context, renamed, dataset=dataset)
    text = log(mlflow.sklearn, fitted, signature=infer_signature(rows.assign(wind="calm"), labels))
    with pytest.raises(
        SchemaError,
        match="Feature 'wind' has the type string in the MLflow signature of .* v3, but .*'delays_training'",
    ):
        judge(context, text, dataset=dataset)
    tensor = log(mlflow.sklearn, fitted, signature=infer_signature(rows.to_numpy(), labels.to_numpy()))
    with pytest.raises(SchemaError, match="The MLflow signature of .* v4 has no column names"):
        judge(context, tensor, dataset=dataset)
    whole = log(mlflow.sklearn, fitted, signature=infer_signature(rows.astype({"wind": "int64"}), labels))
    with pytest.raises(SchemaError, match="Feature 'wind' cannot be converted to int64"):
        judge(context, whole, dataset=dataset)
    other = LogisticRegression().fit(rows, np.where(labels, "late", "early"))
    words = log(mlflow.sklearn, other, answer=np.array(["late"]))
    with pytest.raises(
        SchemaError, match="v6 predicts the classes 'early', 'late', but dataset .* has the labels False"
    ):
        judge(context, words, dataset=dataset)


def test_a_foreign_model_needs_a_dataset(context, log):
    made = log(mlflow.sklearn, logistic(), answer=np.array([True]))
    with pytest.raises(SpecError, match="training set is unknown.*`dataset`"):
        judge(context, made)


def test_a_failing_candidate_is_an_error_and_a_failing_champion_is_not_measured(client, context, model, log, tmp_path):
    dataset = training_set(context.store)
    made = log(mlflow.pyfunc, python_model=Pickled(lambda rows: 1 / 0), answer=np.array([0.5]))
    with pytest.raises(EvaluationError, match=f"{model} v1 raised ZeroDivisionError: division by zero"):
        judge(context, made, dataset=dataset, allow_pyfunc=True)
    crown(client, made)
    good = register(client, tmp_path / "good", dataset, (2, 0), model=model)
    verdict = judge(context, good, allow_pyfunc=True).verdict
    assert (verdict.winner, verdict.champion_metrics) == (None, {})
    assert "v1 raised ZeroDivisionError" in verdict.reason


def test_allow_pyfunc_is_not_templated(run_dag, mlflow_connection, context, model, loud):
    from airflow_mlops.operators import EvaluateOperator

    assert "allow_pyfunc" not in EvaluateOperator.template_fields
    dataset = training_set(context.store)
    made, marker = loud
    source = """
    from airflow.sdk import DAG
    from airflow_mlops.operators import EvaluateOperator

    with DAG({name!r}):
        EvaluateOperator(task_id="evaluate", candidates=[{made!r}], dataset={dataset!r}, store={store!r}{more})
    """
    fields = {"made": made, "dataset": dataset.model_dump(mode="json"), "store": context.store.url}
    assert run_dag(source.format(name=f"refused_{model}", more="", **fields)).state == "failed"
    assert not marker.exists()
    outcome = run_dag(source.format(name=f"allowed_{model}", more=", allow_pyfunc=True", **fields))
    assert outcome.state == "success"
    assert outcome.xcom("evaluate")["verdict"]["winner"]["version"] == 1
