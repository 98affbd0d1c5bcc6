"""Attributions: with the base they add up to the margin of each row, and models without exact ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.core.contract import Calibration, ModelContract
from airflow_mlops.core.errors import EvaluationError, ModelFormatError
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models import attributions
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.scorer import from_values
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.boosting import catboost, lightgbm, xgboost
from airflow_mlops.models.trainers.boosting import trainer as boosting
from airflow_mlops.models.trainers.boosting.model import ENCODING_FILE, BoostedModel
from airflow_mlops.models.trainers.sklearn import linear
from airflow_mlops.models.trainers.sklearn import trainer as sklearn
from airflow_mlops.models.trainers.spec import (
    CatBoostTrainerSpec,
    LightGBMTrainerSpec,
    SklearnTrainerSpec,
    XGBoostTrainerSpec,
)
from airflow_mlops.models.training_data import read_part
from tests.support.training import FEATURES, flights

LINEAR = {
    "binary": "sklearn.linear_model.LogisticRegression",
    "multiclass": "sklearn.linear_model.LogisticRegression",
    "regression": "sklearn.linear_model.Ridge",
}
BOOSTED = {
    "xgboost": (XGBoostTrainerSpec, {"nthread": 1, "max_depth": 4}),
    "lightgbm": (LightGBMTrainerSpec, {"num_threads": 1, "num_leaves": 8}),
    "catboost": (CatBoostTrainerSpec, {"thread_count": 1, "depth": 4}),
}
# XGBoost computes in single precision.
TOLERANCE = {"xgboost": 1e-5}


class Case:
    """A fitted model, the folder of its version, and the margins that its library computes."""

    def __init__(
        self, kind: str, task: str, folder: Path, table: pa.Table | None = None, features=FEATURES, **params
    ) -> None:
        store, rows = ArtifactStore(f"file://{folder}/store"), flights(700, task, seed=1) if table is None else table
        with DatasetWriter(store, "late_training") as writer:
            writer.write(rows, "train")
            details = {"label": "late", "task": task, "features": features, "timestamp": None}
            dataset = open_dataset(store, writer.commit(details=details)[0].ref)
        self.data: TrainingData = read_part(dataset, "train")
        self.folder = folder / "model"
        self.folder.mkdir()
        if kind in BOOSTED:
            spec, usual = BOOSTED[kind]
            run = TrainingRun(dataset, "train", "checkpoints/one", lambda text: None, lambda *_: None, lambda *_: None)
            self.model = boosting.fit(spec(rounds=12, params={**usual, **params}), self.data, 0, run)
            write(self.model, self.folder)
        else:
            estimator = params.pop("estimator", LINEAR[task])
            self.model = sklearn.fit(SklearnTrainerSpec(estimator=estimator, params=params), self.data, 0)
            if (terms := linear.terms(self.model.estimator, self.data)) is not None:
                linear.write(self.folder, terms)

    def contract(self, **fields) -> ModelContract:
        data = self.data
        usual = {"classes": data.classes, "positive": data.positive, "dataset_name": "late", "dataset_id": "one"}
        return ModelContract(task=data.task, label=data.label, features=data.features, **{**usual, **fields})

    def predictions(self, table: pa.Table, contract: ModelContract | None = None) -> Predictions:
        return from_values(self.model.predict(frame(table, self.data.features)), contract or self.contract())

    def explainer(self, **fields) -> attributions.Explainer:
        return attributions.load(self.folder, self.contract(**fields), "late v1")

    def margins(self, table: pa.Table) -> np.ndarray:
        """Return the margins of all outputs, shape (n, k)."""
        rows = frame(table, self.data.features)
        if self.data.task == "multiclass":
            if isinstance(self.model, BoostedModel):
                return raw(self.model, table)
            return self.model.estimator.decision_function(rows)
        found = self.model.predict(rows)
        return np.log(found[:, 1:] / found[:, :1]) if self.data.task == "binary" else found


def raw(model: BoostedModel, table: pa.Table) -> np.ndarray:
    """Return the values before softmax from the library's own prediction."""
    matrix, booster = model.encoding.matrix(table), model.booster
    if isinstance(booster, lightgbm.LightGBMModel):
        return booster._booster.predict(matrix, raw_score=True)
    if isinstance(booster, xgboost.XGBoostModel):
        rows = booster._xgboost.DMatrix(matrix, feature_types=xgboost._types(model.encoding), enable_categorical=True)
        return booster._booster.predict(rows, output_margin=True)
    rows = booster._catboost.Pool(catboost._inputs(booster._catboost, matrix, model.encoding))
    return booster._model.predict(rows, prediction_type="RawFormulaVal")


def write(model: BoostedModel, folder: Path) -> None:
    (folder / model._file).write_bytes(model.booster.to_bytes())
    (folder / ENCODING_FILE).write_text(json.dumps(model.encoding.to_json()))


def odd(rows: int, task: str, seed: int) -> pa.Table:
    """Rows with nulls and unknown texts in every feature, among them a row of nulls only."""
    table, random = flights(rows, task, seed), np.random.default_rng(seed)
    for name in FEATURES:
        values = table[name].to_pylist()
        other = ["ZZ", "", None] if name in ("carrier", "tail") else [None]
        for place in [0, *np.flatnonzero(random.random(rows) < 0.2)]:
            values[place] = None if place == 0 else other[random.integers(len(other))]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, table[name].type))
    return table


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("kind", ["linear", *BOOSTED])
def test_base_and_attributions_add_up_to_the_margin_of_each_row(kind, task, tmp_path, monkeypatch):
    monkeypatch.setattr(attributions, "_ROWS", 128)
    case = Case(kind, task, tmp_path)
    for seed in range(3):
        table = odd(300, task, seed)
        batch = table.combine_chunks().to_batches()[0]
        found = case.predictions(table)
        given = case.explainer().attribute(batch, found)
        expected = case.margins(table)
        chosen = expected[:, 0] if task != "multiclass" else expected.max(axis=1)
        assert np.abs(given.base + given.values.sum(axis=1) - chosen).max() < TOLERANCE.get(kind, 1e-6)
        # `tail` has too many texts to be split by.
        assert (np.abs(given.values[:, :4]).max(axis=0) > 1e-3).all()


@pytest.mark.parametrize("kind", ["linear", *BOOSTED])
def test_each_attribution_is_that_of_its_feature(kind, tmp_path):
    table, features = flights(700, seed=1), ["hour", "carrier", "distance", "weekend"]
    for number, (name, late) in enumerate(
        {"carrier": pc.equal(table["carrier"], "B6"), "distance": pc.greater(table["distance"], 800)}.items()
    ):
        rows = table.set_column(table.schema.get_field_index("late"), "late", pc.fill_null(late, False))
        folder = tmp_path / str(number)
        folder.mkdir()
        case = Case(kind, "binary", folder, rows, features)
        found = case.explainer().attribute(rows.combine_chunks().to_batches()[0], case.predictions(rows))
        sizes = np.abs(found.values).mean(axis=0)
        assert features[sizes.argmax()] == name
        assert np.sort(sizes)[-2] < sizes.max() / 3


@pytest.mark.parametrize("kind", ["linear", *BOOSTED])
def test_attributions_explain_the_positive_class_whichever_it_is(kind, tmp_path):
    case, table = Case(kind, "binary", tmp_path), odd(50, "binary", 0)
    batch = table.combine_chunks().to_batches()[0]
    one = case.explainer().attribute(batch, case.predictions(table))
    contract = case.contract(positive=case.data.classes[0])
    other = case.explainer(positive=case.data.classes[0])
    given = other.attribute(batch, case.predictions(table, contract))
    assert np.array_equal(given.values, -one.values)
    assert np.array_equal(given.base, -one.base)
    assert other.scale == "log-odds of late = 0"


@pytest.mark.parametrize(("kind", "task", "params", "scale"), [
    ("lightgbm", "binary", {"sigmoid": 2.5}, "log-odds of late = 1"),
    ("lightgbm", "regression", {"objective": "poisson"}, "logarithm of late"),
    ("xgboost", "regression", {"objective": "count:poisson"}, "logarithm of late"),
    ("xgboost", "binary", {"base_score": 0.2}, "log-odds of late = 1"),
    ("catboost", "regression", {"loss_function": "Tweedie:variance_power=1.5"}, "logarithm of late"),
    ("catboost", "regression", {"loss_function": "Quantile:alpha=0.7"}, "late"),
    ("linear", "regression", {"estimator": "sklearn.linear_model.PoissonRegressor"}, "logarithm of late"),
])  # fmt: skip
def test_margins_of_other_links_and_scales(kind, task, params, scale, tmp_path):
    table = flights(700, task, seed=1)
    if task == "regression":
        late = np.exp(table["late"].to_numpy() / 2)
        table = table.set_column(table.schema.get_field_index("late"), "late", pa.array(late))
    case, rows = Case(kind, task, tmp_path, table, **params), odd(200, task, 1)
    given = case.explainer().attribute(rows.combine_chunks().to_batches()[0], case.predictions(rows))
    margins = case.margins(rows)[:, 0]
    expected = np.log(margins) if scale.startswith("logarithm") else margins
    assert np.abs(given.base + given.values.sum(axis=1) - expected).max() < TOLERANCE.get(kind, 1e-6)
    assert case.explainer().scale == scale


def test_the_attributions_of_a_linear_model_are_zero_on_average_over_the_training_rows(tmp_path):
    case, table = Case("linear", "binary", tmp_path), flights(700, seed=1)
    given = case.explainer().attribute(table.combine_chunks().to_batches()[0], case.predictions(table))
    assert np.abs(given.values.mean(axis=0)).max() < 1e-9
    calibrated = Calibration(method="sigmoid", maps=[])
    assert case.explainer(calibration=calibrated).scale.endswith("before the calibration")


def test_models_without_exact_attributions_are_refused(tmp_path):
    case = Case("sklearn", "binary", tmp_path, estimator="sklearn.ensemble.RandomForestClassifier", n_estimators=3)
    with pytest.raises(ModelFormatError, match="late v1.*LightGBM"):
        case.explainer()


@pytest.mark.parametrize("steps", ["polynomial", "min_max", "subclass"])
def test_other_transformers_and_estimators_have_no_terms(steps, tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler

    class Own(LogisticRegression):
        pass

    data = Case("linear", "binary", tmp_path).data
    numbers = [feature for feature in data.features if feature.kind == "number"]
    data = TrainingData(
        data.task, data.label, numbers, data.table, data.frame[["hour", "weekend"]], data.labels, data.classes
    )
    made = {
        "polynomial": (PolynomialFeatures(), LogisticRegression()),
        "min_max": (MinMaxScaler(), LogisticRegression()),
        "subclass": (StandardScaler(), Own()),
    }[steps]
    assert linear.terms(make_pipeline(*made).fit(data.frame, data.labels), data) is None


def test_a_value_that_is_not_finite_is_refused(tmp_path):
    case, table = Case("linear", "binary", tmp_path), flights(10)
    found = case.predictions(table)
    infinite = table.set_column(1, "distance", pa.array([np.inf] * 10)).combine_chunks().to_batches()[0]
    with pytest.raises(EvaluationError, match="'distance'"):
        case.explainer().attribute(infinite, found)


def test_a_scaler_that_does_not_centre_shifts_nothing(tmp_path):
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    case = Case("linear", "regression", tmp_path)
    data = case.data
    numbers = [feature for feature in data.features if feature.kind == "number"]
    names = [feature.name for feature in numbers]
    rows = data.frame[names].fillna(0.0)
    data = TrainingData(data.task, data.label, numbers, data.table, rows, data.labels, data.classes)
    fitted = make_pipeline(StandardScaler(with_mean=False), Ridge()).fit(rows, data.labels)
    terms = linear.terms(fitted, data)
    assert terms is not None
    every = terms.contributions(pa.RecordBatch.from_pandas(rows, preserve_index=False), names)
    assert np.abs(every[:, 0].sum(axis=1) - fitted.predict(rows)).max() < 1e-6


@pytest.mark.parametrize(("task", "multi_class"), [("multiclass", "ovr"), ("binary", "multinomial")])
def test_probabilities_that_do_not_follow_from_the_margins_are_refused(task, multi_class, tmp_path, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    def predict_proba(self, rows):
        # As scikit-learn computes it up to version 1.7 with multi_class=.
        margins = self.decision_function(rows)
        ovr = multi_class == "ovr"
        found = 1 / (1 + np.exp(-margins)) if ovr else np.exp(np.column_stack([-margins, margins]))
        return found / found.sum(axis=1, keepdims=True)

    assert Case("linear", task, tmp_path).explainer().features
    monkeypatch.setattr(LogisticRegression, "predict_proba", predict_proba)
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelFormatError, match="exact attributions"):
        Case("linear", task, tmp_path / "other").explainer()
