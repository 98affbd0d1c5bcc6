"""Prediction intervals are found on rows that the model is not fitted to, and go with the version wherever it predicts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SchemaError, SpecError, TrainingError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.columns import INTERVAL_COLUMNS, PREDICTION_COLUMNS
from airflow_mlops.data.predictions.privacy import KEEP_ALL
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.evidence import Evidence, HeldOut, Measurement
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.metrics.comparison import estimate
from airflow_mlops.metrics.interval_ends import covers
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.values import measure
from airflow_mlops.models.conformal import margin
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.refitting import refit
from airflow_mlops.operators import EvaluateOperator, TrainOperator
from airflow_mlops.serving.http import protocol
from airflow_mlops.serving.http.endpoint import _predictions
from airflow_mlops.serving.log.spool import Answer, _logged
from airflow_mlops.serving.rows.request import InputColumns
from airflow_mlops.serving.versions.loaded import Served
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score.scoring import _scored
from airflow_mlops.stages.train.candidate import fit_candidate, load_data
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import Float, LightGBMTrainer, Search, SklearnTrainer
from tests.support.training import timed, training_set

LINEAR = SklearnTrainer("sklearn.linear_model.Ridge")
TREES = LightGBMTrainer(params={"num_leaves": 7, "min_child_samples": 5, "num_threads": 1}, rounds=5, validation=0.1)
REF = ModelVersionRef(model="late", version=3, run_id="r")


def fit(store, trainer=LINEAR, rows=None, task="regression", **fields):
    rows = timed(500, 1, task) if rows is None else rows
    ref = training_set(store, rows, timed(200, 2, task), task=task, timestamp="at")
    spec = TrainSpec(dataset=ref, model="late", trainer=trainer, **fields)
    context = StepContext(store, "results/t.json")
    dataset, train, test = load_data(spec, store)
    return fit_candidate(spec, context, dataset, train, test, unlogged_run(context, dataset)), test


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture(scope="module")
def linear(store):
    return fit(store, interval=0.9)


@pytest.mark.parametrize("trainer", [LINEAR, TREES], ids=["sklearn", "lightgbm"])
def test_the_margin_is_that_of_the_newest_rows_to_which_the_model_is_not_fitted(store, trainer):
    rows = timed(500, 1, "regression")
    newest = np.argsort(np.argsort(rows["at"].to_numpy())) >= 400
    found, test = fit(store, trainer, interval={"coverage": 0.9})
    alone, _ = fit(store, trainer, rows.filter(pa.array(~newest)))
    assert found.exported == alone.exported
    assert alone.contract.interval is None

    interval, aside = found.contract.interval, rows.filter(pa.array(newest))
    value = OnnxModel(found.exported, found.contract).predict(aside).score
    assert interval.margin == margin(aside["late"].to_numpy(), value, 0.9)
    # ceil(101 * 0.9) = 91 of the 100 rows.
    assert covers(interval, aside["late"].to_numpy(), value).sum() == 91
    assert (interval.coverage, interval.rows, interval.source) == (0.9, 100, "the newest rows")
    inside = np.abs(found.predictions.score - test.labels) <= interval.margin
    assert found.metrics["interval_coverage"] == inside.mean()
    assert found.metrics["interval_width"] == pytest.approx(2 * interval.margin)
    assert list(alone.metrics) == list(found.metrics)[:-2] == ["rmse", "mae", "r2"]
    assert ModelContract.model_validate_json(found.contract.model_dump_json()) == found.contract


def test_a_contract_without_intervals_is_read_and_scored_as_before(linear):
    found, test = linear
    old = ModelContract.model_validate(found.contract.model_dump(mode="json", exclude={"interval"}))
    assert old.interval is None
    names = _scored(test.table.to_batches()[0], OnnxModel(found.exported, old), REF).schema.names
    assert names == [*test.table.schema.names, *PREDICTION_COLUMNS]
    assert "interval_coverage" not in measure(predicted(test.labels, found.predictions, old))


def test_a_refit_keeps_the_margin_and_sets_no_rows_aside(store, linear):
    interval = linear[0].contract.interval
    found, _ = fit(store, interval={"coverage": 0.9, "margin": interval.margin})
    assert len(found.train.labels) == 500
    assert (found.contract.interval.margin, found.contract.interval.rows) == (interval.margin, 0)
    # A challenger has other residuals.
    rows = timed(300, 3, "regression")
    rows = rows.rename_columns(["label" if name == "late" else name for name in rows.column_names])
    spec = TrainSpec(dataset={"name": "d", "id": "i", "rows": 1}, model="late", trainer=LINEAR).trainer
    assert refit(spec, 0, linear[0].contract, rows).contract.interval is None


def test_batches_and_the_server_give_the_same_ends_bit_for_bit(linear):
    found, test = linear
    model = OnnxModel(found.exported, found.contract)
    (batch,) = test.table.combine_chunks().to_batches()
    scored = _scored(batch, model, REF)
    names = list(PREDICTION_COLUMNS)
    assert scored.schema.names == [*batch.schema.names, *names[:2], *INTERVAL_COLUMNS, *names[2:]]
    lower, upper = (scored[name].to_pylist() for name in INTERVAL_COLUMNS)
    assert all(
        below < value < above for below, value, above in zip(lower, scored["score"].to_pylist(), upper, strict=True)
    )

    columns = InputColumns(found.contract)
    served = Served(REF, model, columns)
    rows = columns.rows([{**row, "weekend": row["weekend"]} for row in batch.to_pylist()])
    predictions = served.predict(rows)
    answer = json.loads(_predictions(served, predictions, "one", []).body)["predictions"]
    assert [list(item) for item in answer[:1]] == [["prediction", "score", *INTERVAL_COLUMNS]]
    for name, column in zip(INTERVAL_COLUMNS, (lower, upper), strict=True):
        assert [item[name] for item in answer] == column
    outputs = {item["name"]: item for item in protocol.answer(served, predictions, "one", {})[0]["outputs"]}
    described = {item["name"]: item["datatype"] for item in protocol.metadata(served, ["3"])["outputs"]}
    assert {name: item["datatype"] for name, item in outputs.items()} == described
    assert (outputs["prediction_lower"]["data"], outputs["prediction_upper"]["data"]) == (lower, upper)
    asked = {"outputs": [{"name": "prediction_upper", "parameters": {"binary_data": True}}]}
    assert np.frombuffer(protocol.answer(served, predictions, "one", asked)[1][0], "<f8").tolist() == upper
    # The server logs the same columns as ScoreOperator writes.
    logged = _logged([Answer(served, rows, predictions, "one", 0.0, 1.0)], KEEP_ALL, 1.0)
    assert [logged[name].to_pylist() for name in INTERVAL_COLUMNS] == [lower, upper]


def test_coverage_and_width_are_gates(linear):
    found, test = linear
    rows = predicted(test.labels, found.predictions, found.contract)
    metrics = measure(rows)
    data = HeldOut(None, "test", "late", "regression", test.labels)
    without = Measurement("late v1", {"rmse": 2.0})
    evidence = Evidence(
        task="regression", truth=test.labels, candidate=Measurement("late v3", metrics, found.predictions, rows),
        baseline=Measurement("baseline", {}), champion=without, data=data, resampling=Resampling(len(rows)),
    )  # fmt: skip

    def check(declared, evidence=evidence):
        (gate,) = parse_gates([declared])
        gate.suits("regression")
        return gate.check(evidence)

    value = metrics["interval_coverage"]
    assert check({"metric": "interval_coverage", "min": value}).passed
    assert not check({"metric": "interval_coverage", "max": value - 0.001}).passed
    assert check({"metric": "interval_width", "max": metrics["interval_width"] + 1e-9, "confidence": 0.95}).passed
    bounded = check({"metric": "interval_coverage", "min": value, "confidence": 0.95})
    assert not bounded.passed
    # The error of a proportion.
    assert bounded.low == pytest.approx(value - 1.645 * np.sqrt(value * (1 - value) / len(rows)), abs=0.012)
    assert estimate("interval_width", rows, Resampling(len(rows))).standard_error == pytest.approx(0, abs=1e-9)
    for declared in ({"better_than_champion_by": 0}, {"better_than_champion_by": 0, "confidence": None}):
        compared = check({"metric": "interval_width", **declared})
        assert not compared.passed
        assert compared.explanation.startswith(
            "interval_width cannot be computed, because late v1 has no prediction intervals"
        )
    bare = Evidence(task="regression", truth=test.labels, candidate=without, baseline=Measurement("baseline", {}))
    assert not check({"metric": "interval_coverage", "min": 0.88}, bare).passed
    (gate,) = parse_gates([{"metric": "interval_coverage", "min": 0.88}])
    with pytest.raises(SpecError, match="'interval_coverage' is not a metric for binary tasks"):
        gate.suits("binary")
    assert measure(rows.take(np.arange(50)))["interval_width"] == pytest.approx(metrics["interval_width"])


def test_models_without_an_interval_are_refused_when_the_task_runs(store):
    for task, estimator in (("binary", "LogisticRegression"), ("multiclass", "LogisticRegression")):
        with pytest.raises(SpecError, match=f"`interval` is set, but a {task} model predicts classes"):
            fit(store, SklearnTrainer(f"sklearn.linear_model.{estimator}"), task=task, interval=0.9)
    with pytest.raises(
        TrainingError, match=r"interval=0.999 needs the residuals of 999 training rows .* only 100 are set"
    ):
        fit(store, interval=0.999)
    assert fit(store, interval=0.99)[0].contract.interval.rows == 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interval": 90}, "the coverage is 90"),
        ({"interval": 0.9, "threshold": 0.4}, "`interval` is set, which is for regression models, and `threshold`"),
        ({"interval": 0.9, "calibration": "sigmoid"}, "and `calibration`, which is for classifiers"),
        ({"interval": 0.9, "class_weight": "balanced"}, "and `class_weight`, which is for classifiers"),
        ({"interval": 0.9, "sample_weight": "w"}, "`sample_weight` is set, but the margin of prediction intervals"),
    ],
)
def test_options_that_exclude_an_interval_are_refused_when_the_dag_is_parsed_and_when_the_task_runs(fields, message):
    with pytest.raises(SpecError, match=message):
        TrainOperator(task_id="train", dataset={"name": "d"}, model="m", trainer=LINEAR, **fields)
    given = {"dataset": {"name": "d", "id": "i", "rows": 1}, "model": "m", "trainer": LINEAR, **fields}
    with pytest.raises(SpecError, match=message):
        parse(TrainSpec, given, "Task 'train'")


def test_a_template_is_checked_when_it_is_rendered():
    operator = TrainOperator(
        task_id="train", dataset={"name": "d"}, model="m", trainer=LINEAR, interval="{{ params.coverage }}",
        threshold="{{ params.threshold }}",
    )  # fmt: skip
    assert operator.interval == "{{ params.coverage }}"


def test_no_model_is_chosen_by_the_metrics_of_intervals():
    for metric in ("interval_coverage", "interval_width"):
        with pytest.raises(SpecError, match=f"'{metric}' cannot select the best model"):
            EvaluateOperator(task_id="evaluate", candidates=[], metric=metric)
        with pytest.raises(SpecError, match=f"'{metric}' cannot select the best model"):
            Search(LINEAR, space={"alpha": Float(0.1, 1)}, trials=1, metric=metric)


def test_a_column_with_the_name_of_an_end_is_refused(store):
    from airflow_mlops.stages.score.scoring import _carried_columns

    manifest = SimpleNamespace(name="d", details={}, column_names=["distance", "prediction_upper"])
    contract = SimpleNamespace(features=[SimpleNamespace(name="distance")], watched=[])
    with pytest.raises(SchemaError, match="has the column 'prediction_upper', which scoring adds as well"):
        _carried_columns([SimpleNamespace(manifest=manifest)], contract, REF)
