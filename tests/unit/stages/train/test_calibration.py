"""A calibration is fitted to training rows that the model is not fitted to, and becomes a part of the model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.calibration import calibrate, fit
from airflow_mlops.models.onnx.rowwise import rowwise
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.refitting import refit
from airflow_mlops.models.rules.calibration import METHODS, CalibrationRule
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.aside import divided
from airflow_mlops.stages.train.calibration import calibrated
from airflow_mlops.stages.train.candidate import fit_candidate, load_data
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import (
    CatBoostTrainer,
    FunctionTrainer,
    LightGBMTrainer,
    SklearnTrainer,
    TorchTrainer,
    XGBoostTrainer,
)
from tests.support.training import FEATURES, timed, training_set

LOGISTIC = SklearnTrainer("sklearn.linear_model.LogisticRegression", {"max_iter": 1_000})
# Trees with leaves of single rows are overconfident.
SURE = LightGBMTrainer(
    params={"num_leaves": 31, "min_child_samples": 1, "learning_rate": 0.5, "num_threads": 1}, rounds=25, validation=0
)
ROWS, NEWEST = 600, 120


def own_model(X, y, *, params, seed):  # noqa: N803
    """A training function, which FunctionTrainer calls."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline

    return make_pipeline(make_column_transformer((SimpleImputer(), ["distance", "hour"])), GaussianNB()).fit(X, y)


TRAINERS = {
    "sklearn": LOGISTIC,
    "lightgbm": SURE,
    "xgboost": XGBoostTrainer(params={"max_depth": 6, "eta": 0.9, "nthread": 1}, rounds=10, validation=0),
    "catboost": CatBoostTrainer(params={"depth": 4, "learning_rate": 0.9, "thread_count": 1}, rounds=10, validation=0),
    "torch": TorchTrainer(epochs=1, batch_size=64, validation=0.1, device="cpu"),
    "function": FunctionTrainer(f"{__name__}:own_model"),
}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path.as_uri())


def prepared(store, trainer, rows=None, task="binary", **fields):
    rows = timed(ROWS, 1, task) if rows is None else rows
    ref = training_set(store, rows, timed(400, 2, task), task=task, timestamp="at")
    spec = TrainSpec(dataset=ref, model="late", trainer=trainer, **fields)
    return spec, *load_data(spec, store)


def train(store, trainer, rows=None, task="binary", **fields):
    spec, dataset, learned, test = prepared(store, trainer, rows, task, **fields)
    context = StepContext(store, "results/t.json")
    return fit_candidate(spec, context, dataset, learned, test, unlogged_run(context, dataset)), test


def newest(rows, count):
    return np.argsort(np.argsort(rows["at"].to_numpy())) >= rows.num_rows - count


def check(store, trainer, method, task="binary"):
    """Train with a calibration, and compare the calibrated model with the model inside."""
    rows = timed(ROWS, 1, task)
    found, test = train(store, trainer, rows, task, calibration=method)
    inner = OnnxModel(found.model.inner.to_onnx(found.train), found.contract)
    aside = rows.filter(pa.array(newest(rows, NEWEST)))
    labels = aside["late"].to_numpy(zero_copy_only=False).astype(object)
    codes = np.searchsorted(found.contract.classes, labels)
    calibration = found.contract.calibration
    # The calibration functions depend only on the rows that are set aside.
    assert calibration.maps == fit(method, inner.predict(aside).probabilities, codes)
    assert (calibration.method, calibration.rows, calibration.source) == (method, NEWEST, "the newest rows")
    assert len(found.train.labels) == ROWS - NEWEST
    raw = inner.predict(test.table).probabilities
    expected = calibrate(method, calibration.maps, raw)
    np.testing.assert_allclose(found.predictions.probabilities, expected, atol=1e-9)
    assert {name: found.metrics[name] for name in calibration.after} == calibration.after
    loss = log_loss(test.labels, raw / raw.sum(axis=1, keepdims=True), labels=found.contract.classes)
    assert calibration.before["log_loss"] == pytest.approx(loss)
    # What is registered is the calibrated model, in Python and in ONNX.
    assert found.contract.parity.max_difference < 1e-3
    np.testing.assert_allclose(found.model.predict(test.frame), expected, atol=1e-3)
    scored = OnnxModel(found.exported, found.contract).predict(test.table)
    np.testing.assert_array_equal(scored.probabilities, found.predictions.probabilities)
    assert ModelContract.model_validate_json(found.contract.model_dump_json()) == found.contract
    return found


@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_models_of_every_trainer_are_calibrated(store, trainer):
    found = check(store, trainer, "sigmoid")
    assert set(found.contract.calibration.before) == {"log_loss", "brier", "ece"}
    assert sum(point.rows for point in found.contract.calibration.curve_before) == 400
    assert found.contract.with_positive(0).calibration.curve_before == []


@pytest.mark.parametrize("method", ["sigmoid", "temperature"])
def test_several_classes_with_texts_as_labels(store, method):
    found = check(store, SURE, method, "multiclass")
    assert found.contract.classes == ["early", "late", "on time"]
    assert len(found.contract.calibration.maps) == (3 if method == "sigmoid" else 1)
    assert (set(found.contract.calibration.before), found.contract.calibration.curve_before) == ({"log_loss"}, [])


@pytest.mark.parametrize("method", METHODS)
def test_an_overconfident_model_has_a_smaller_loss_after_calibration(store, method):
    found, _ = train(store, SURE, timed(5_100, 1), calibration=method)
    before, after = found.contract.calibration.before, found.contract.calibration.after
    assert after["brier"] < before["brier"]
    assert after["ece"] < 0.6 * before["ece"]
    # Isotonic functions give some rows the probability 0, and if one of these is positive, its loss is large.
    assert method == "isotonic" or after["log_loss"] < 0.95 * before["log_loss"]


def test_the_model_is_not_fitted_to_the_rows_that_are_set_aside(store):
    rows = timed(ROWS, 1)
    found, _ = train(store, SURE, rows, calibration="sigmoid")
    alone, _ = train(store, SURE, rows.filter(pa.array(~newest(rows, NEWEST))))
    assert rowwise(found.model.inner.to_onnx(found.train)) == alone.exported
    before = found.contract.calibration.before
    assert {name: alone.metrics[name] for name in before} == before
    assert found.metrics["roc_auc"] == pytest.approx(alone.metrics["roc_auc"], abs=1e-12)


def test_a_threshold_is_chosen_on_calibrated_scores_of_the_other_half(store):
    rows = timed(1_200, 1)
    spec, dataset, learned, _ = prepared(store, LOGISTIC, rows, calibration="sigmoid", threshold={"maximise": "f1"})
    parts = divided(spec, dataset, "train", learned.labels)
    last = np.sort(rows["at"].to_numpy())
    for part, start, end in (
        (parts.fitted, 0, 960),
        (parts.calibration.chosen, 960, 1_080),
        (parts.threshold.chosen, 1_080, 1_200),
    ):
        np.testing.assert_array_equal(np.sort(part.table("train")["at"].to_numpy()), last[start:end])
    found, _ = train(store, LOGISTIC, rows, calibration="sigmoid", threshold={"maximise": "f1"})
    calibration, choice = found.contract.calibration, found.contract.threshold_choice
    assert (len(found.train.labels), calibration.rows, choice.rows) == (960, 120, 120)
    assert calibration.source == choice.source == "one half of the newest rows"
    chosen = parts.threshold.chosen.table("train")
    score = OnnxModel(found.exported, found.contract).predict(chosen).score
    late = chosen["late"].to_numpy(zero_copy_only=False)
    assert choice.point.recall == pytest.approx((score[late] >= found.contract.threshold).mean())
    # A threshold that is given as a number needs no rows.
    found, _ = train(store, LOGISTIC, rows, calibration="sigmoid", threshold=0.3)
    assert (found.contract.threshold, found.contract.calibration.rows) == (0.3, 240)


def test_functions_of_an_earlier_training_are_kept_and_no_row_is_set_aside(store):
    first, _ = train(store, LOGISTIC, calibration="temperature")
    rule = CalibrationRule(method="temperature", maps=first.contract.calibration.maps)
    found, _ = train(store, LOGISTIC, calibration=rule)
    alone, test = train(store, LOGISTIC)
    assert (len(found.train.labels), found.contract.calibration.maps) == (ROWS, rule.maps)
    expected = calibrate("temperature", rule.maps, alone.predictions.probabilities)
    np.testing.assert_allclose(found.predictions.probabilities, expected, atol=1e-9)
    # A refit whose classes differ from those of the judged version fails its checks.
    three = alone.contract.model_copy(update={"task": "multiclass", "classes": ["a", "b", "c"]})
    rule = CalibrationRule(method="sigmoid", maps=rule.maps * 2)
    assert calibrated(rule, alone.model, three, None, None, found.train, test) == (alone.model, three)


def test_challengers_are_calibrated_on_rows_of_their_own(store):
    found, _ = train(store, SURE, calibration="sigmoid")
    spec = TrainSpec(dataset={"name": "d", "id": "i", "rows": 1}, model="late", trainer=SURE).trainer
    rows = timed(900, 3)
    rows = rows.select(FEATURES).append_column("label", rows["late"].cast(pa.int64()))
    challenger = refit(spec, 0, found.contract, rows)
    fresh, kept = challenger.contract.calibration, found.contract.calibration
    assert 150 < fresh.rows < 210
    assert (fresh.method, fresh.source) == ("sigmoid", "random rows")
    assert fresh.maps != kept.maps
    plain = refit(spec, 0, found.contract.model_copy(update={"calibration": None}), rows)
    assert plain.contract.calibration is None
    sure = [np.abs(model.predict(rows).score - 0.5).mean() for model in (challenger, plain)]
    assert sure[0] < sure[1]
    with pytest.raises(TrainingError, match="calibration='sigmoid' needs 100 training rows"):
        refit(spec, 0, found.contract, rows.slice(0, 300))


def test_models_that_cannot_be_calibrated_are_refused(store):
    with pytest.raises(SpecError, match="`calibration` is set, but a regression model has no probabilities"):
        train(store, SklearnTrainer("sklearn.linear_model.LinearRegression"), task="regression", calibration="sigmoid")
    with pytest.raises(TrainingError, match=r"'isotonic' needs 1,000 .* but there are 120 \(the newest rows\)"):
        train(store, LOGISTIC, calibration="isotonic")
    contract = ModelContract(task="binary", label="late", features=[], threshold=0.3, dataset_name="d", dataset_id="i")
    with pytest.raises(SpecError, match=r"the estimator has its own threshold \(0\.3\)"):
        calibrated(CalibrationRule(method="sigmoid"), None, contract, None, None, None, None)
