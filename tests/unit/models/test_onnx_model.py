"""The ONNX export of every supported estimator predicts like the estimator, for data of any form."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core import cpus
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import ModelFormatError, SchemaError
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.onnx import scorer as onnx_model
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.sklearn import trainer as sklearn
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec
from tests.support.online import assert_online_equals_batch
from tests.support.training import FEATURES, flights

CLASSIFIERS = {
    "sklearn.ensemble.ExtraTreesClassifier": {"n_estimators": 10},
    "sklearn.ensemble.GradientBoostingClassifier": {"n_estimators": 10},
    "sklearn.ensemble.HistGradientBoostingClassifier": {"max_iter": 10},
    "sklearn.ensemble.RandomForestClassifier": {"n_estimators": 10},
    "sklearn.linear_model.LogisticRegression": {},
    "sklearn.naive_bayes.BernoulliNB": {},
    "sklearn.neural_network.MLPClassifier": {"hidden_layer_sizes": [8], "max_iter": 20},
    "sklearn.tree.DecisionTreeClassifier": {"max_depth": 6},
}
REGRESSORS = {
    "sklearn.ensemble.GradientBoostingRegressor": {"n_estimators": 10},
    "sklearn.ensemble.HistGradientBoostingRegressor": {"max_iter": 10},
    "sklearn.ensemble.RandomForestRegressor": {"n_estimators": 10},
    "sklearn.linear_model.ElasticNet": {},
    "sklearn.linear_model.Ridge": {},
    "sklearn.neural_network.MLPRegressor": {"hidden_layer_sizes": [8], "max_iter": 20},
}


def data(task: str, names: Sequence[str] = FEATURES) -> TrainingData:
    table = flights(600, task, seed=1)
    features = feature_columns(table.schema, names)
    labels = table["late"].to_numpy()
    labels = labels.astype(int) if task == "binary" else labels
    classes = [] if task == "regression" else np.unique(labels).tolist()
    return TrainingData(task, "late", features, table, frame(table, features), labels, classes)


def trained(
    estimator: str, params: dict, task: str, names: Sequence[str] = FEATURES, labels: np.ndarray | None = None
) -> tuple[sklearn.SklearnModel, OnnxModel]:
    learned = data(task, names)
    learned = learned if labels is None else replace(learned, labels=labels)
    model = sklearn.fit(SklearnTrainerSpec(estimator=estimator, params=params), learned, 0)
    contract = ModelContract(
        task=task, label="late", features=learned.features, classes=learned.classes,
        positive=1 if task == "binary" else None, dataset_name="d", dataset_id="0",
    )  # fmt: skip
    return model, OnnxModel(model.to_onnx(learned), contract)


def strange(rows: int = 200, seed: int = 5) -> pa.Table:
    """Rows unlike those of the training: unknown carriers, a column of nulls, and numbers far outside of the range."""
    table = flights(rows, seed=seed)
    table = table.set_column(table.schema.get_field_index("tail"), "tail", pa.nulls(rows, pa.string()))
    table = table.set_column(
        table.schema.get_field_index("carrier"), "carrier", pa.array(["??", "ZZ", "", None] * (rows // 4))
    )
    return table.set_column(table.schema.get_field_index("distance"), "distance", pc.multiply(table["distance"], 1e6))


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_the_export_of_a_classifier_gives_the_same_probabilities(estimator, task):
    model, exported = trained(estimator, CLASSIFIERS[estimator], task)
    for table in (flights(300, seed=9), strange()):
        found = exported.predict(table)
        expected = model.predict(frame(table, exported.contract.features))
        np.testing.assert_allclose(found.probabilities, expected, atol=2e-5)
        assert_online_equals_batch(exported, table)
        classes = np.array(exported.contract.classes, dtype=object)
        if task == "multiclass":
            assert (found.prediction == classes[found.probabilities.argmax(axis=1)]).all()
            np.testing.assert_array_equal(found.score, found.probabilities.max(axis=1))
        else:
            np.testing.assert_array_equal(found.score, found.probabilities[:, 1])
            assert (found.prediction == (found.score >= 0.5)).all()


@pytest.mark.parametrize("names", [["distance", "hour"], ["hour"], ["carrier", "tail"], ["tail"]])
@pytest.mark.parametrize("estimator", list(CLASSIFIERS)[2:5])
def test_features_may_all_be_numbers_or_all_be_text(estimator, names):
    model, exported = trained(estimator, CLASSIFIERS[estimator], "binary", names)
    for table in (flights(300, seed=9), strange()):
        expected = model.predict(frame(table, exported.contract.features))
        np.testing.assert_allclose(exported.predict(table).probabilities, expected, atol=2e-5)


@pytest.mark.parametrize("estimator", REGRESSORS)
def test_the_export_of_a_regressor_gives_the_same_values(estimator):
    model, exported = trained(estimator, REGRESSORS[estimator], "regression")
    table = flights(300, seed=9)
    found = exported.predict(table)
    expected = model.predict(frame(table, exported.contract.features)).ravel()
    np.testing.assert_allclose(found.score, expected, atol=1e-4)
    assert_online_equals_batch(exported, table)
    assert found.probabilities is None
    np.testing.assert_array_equal(found.prediction, found.score)


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        ("sklearn.ensemble.HistGradientBoostingRegressor", {"loss": "poisson", "max_iter": 10}),
        ("sklearn.ensemble.HistGradientBoostingRegressor", {"loss": "gamma", "max_iter": 10}),
        ("sklearn.linear_model.PoissonRegressor", {}),
        ("sklearn.linear_model.GammaRegressor", {}),
        ("sklearn.linear_model.TweedieRegressor", {"power": 1.5}),
        ("sklearn.linear_model.TweedieRegressor", {"power": 1.5, "link": "log"}),
        ("sklearn.ensemble.RandomForestRegressor", {"criterion": "poisson", "n_estimators": 5}),
    ],
)
def test_the_export_of_a_regressor_of_counts_has_its_link(estimator, params):
    counts = np.round(np.exp(data("regression").labels / 2 + 1)) + 1
    model, exported = trained(estimator, params, "regression", labels=counts)
    table = flights(300, "regression", seed=9)
    found = exported.predict(table).score
    np.testing.assert_allclose(found, model.predict(frame(table, exported.contract.features)).ravel(), rtol=1e-5)
    assert_online_equals_batch(exported, table)
    assert found.min() > 0
    assert found.mean() == pytest.approx(counts.mean(), rel=0.2)


@pytest.fixture(scope="module")
def forest() -> OnnxModel:
    return trained("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5}, "binary")[1]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 9000),
    cuts=st.lists(st.integers(0, 9000), max_size=4),
    block=st.sampled_from([1000, 4096]),
)
def test_the_division_into_batches_changes_nothing(forest, rows, cuts, block):
    table = flights(9000, seed=3).slice(0, rows)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    chunked = pa.concat_tables(
        [table.slice(start, end - start) for start, end in zip(edges, edges[1:], strict=False)] or [table]
    )
    whole = forest.predict(table.combine_chunks())
    assert whole.score.shape == whole.prediction.shape == (rows,)
    before, onnx_model._ROWS = onnx_model._ROWS, block
    try:
        np.testing.assert_array_equal(forest.predict(chunked).score, whole.score)
        parts = [forest.predict(batch).score for batch in chunked.to_batches()]
    finally:
        onnx_model._ROWS = before
    np.testing.assert_array_equal(np.concatenate([*parts, np.empty(0)]), whole.score)


def test_rows_are_scored_by_one_thread_for_each_cpu_of_the_container(forest, monkeypatch, tmp_path):
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cpus, "_CPU_QUOTA", tmp_path / "cpu.max")
    started = []

    class Threads(ThreadPoolExecutor):
        def __init__(self, count):
            started.append(count)
            super().__init__(count)

    monkeypatch.setattr(onnx_model, "ThreadPoolExecutor", Threads)
    for quota in ("300000 100000", "100000 100000"):
        (tmp_path / "cpu.max").write_text(quota)
        forest.predict(flights(2 * onnx_model._ROWS))
    assert started == [3]


def test_columns_may_have_any_order_and_any_type_with_the_same_values(forest):
    table = flights(300, seed=4)
    expected = forest.predict(table).score
    same = pa.table(
        {
            "tail": table["tail"].combine_chunks().dictionary_encode(),
            "unrelated": table["flight"],
            "carrier": table["carrier"].cast(pa.large_string()),
            "weekend": table["weekend"].cast(pa.int8()),
            "hour": table["hour"].cast(pa.float64()),
            "distance": table["distance"],
        }
    )
    np.testing.assert_array_equal(forest.predict(same).score, expected)


@pytest.fixture(scope="module")
def numeric_forest() -> OnnxModel:
    numbers = ["distance", "hour"]
    return trained("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5}, "binary", numbers)[1]


@pytest.mark.parametrize("name", ["distance", "carrier", "not a feature"])
@pytest.mark.parametrize("rows", [300, 1, 0])
@pytest.mark.parametrize("model", ["forest", "numeric_forest"])
def test_the_values_of_one_feature_are_shuffled(request, model, rows, name):
    exported = request.getfixturevalue(model)
    table = flights(300, seed=9).slice(0, rows)
    order = np.random.default_rng(1).permutation(rows)
    predict = exported.shuffled(table)
    # The other features have their own values, also after one of them was shuffled.
    predict("hour", order)
    found = predict(name, order)
    if name in table.column_names:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].take(pa.array(order)))
    np.testing.assert_array_equal(found.probabilities, exported.predict(table).probabilities)


@pytest.mark.parametrize(
    ("estimator", "task", "names"),
    [
        ("sklearn.tree.DecisionTreeClassifier", "binary", FEATURES),
        ("sklearn.linear_model.LogisticRegression", "multiclass", ["distance", "hour"]),
        ("sklearn.linear_model.Ridge", "regression", ["distance", "hour", "carrier", "weekend", "tail"]),
    ],
)
def test_a_wide_model_takes_its_inputs_as_matrices_and_predicts_the_same(estimator, task, names, monkeypatch):
    model, narrow = trained(estimator, {}, task, names)
    monkeypatch.setattr(onnx_model, "_WIDE", 2)
    wide = OnnxModel(model.to_onnx(data(task, names)), narrow.contract)
    assert [feature for matrix in wide._matrices for feature in matrix.columns][:2] == ["distance", "hour"]
    assert {*wide._names} == {*narrow._names}
    for rows in (0, 1, 300):
        table = flights(300, seed=9).slice(0, rows)
        np.testing.assert_array_equal(wide.predict(table).score, narrow.predict(table).score)
        order = np.random.default_rng(1).permutation(rows)
        shuffled = [each.shuffled(table) for each in (wide, narrow)]
        for name in ("distance", "carrier", "hour", "distance", "not a feature"):
            np.testing.assert_array_equal(*(predict(name, order).score for predict in shuffled))
        values = table.to_pydict()
        np.testing.assert_array_equal(
            wide.predict_values(values, rows).score, narrow.predict_values(values, rows).score
        )
    with pytest.raises(SchemaError, match="'hour'"):
        wide.predict_values({name: values[name] for name in values if name != "hour"}, 300)
    with pytest.raises(SchemaError, match="'hour'"):
        wide.predict(table.drop_columns(["hour"]))
    with pytest.raises(ModelFormatError, match="cannot load the model"):
        OnnxModel(b"no model", narrow.contract)


def test_nan_counts_as_a_missing_number(forest):
    table = flights(300, seed=4)
    nan = pc.fill_null(table["distance"], float("nan"))
    np.testing.assert_array_equal(
        forest.predict(table.set_column(1, "distance", nan)).score, forest.predict(table).score
    )


def test_a_missing_column_is_named(forest):
    with pytest.raises(SchemaError, match="no column 'carrier', which is a feature of the model"):
        forest.predict(flights(3).drop_columns(["carrier"]))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("carrier", [1, 2, 3], "'carrier' was text in training.* int64"),
        ("hour", ["5", "6", "7"], "'hour' was numeric in training.* string"),
    ],
)
def test_a_column_of_another_type_is_named(forest, name, values, message):
    table = flights(3)
    with pytest.raises(SchemaError, match=message):
        forest.predict(table.set_column(table.schema.get_field_index(name), name, pa.array(values)))


def test_the_threshold_of_the_contract_determines_the_label(forest):
    table = flights(300, seed=4)
    forest.contract.__dict__["threshold"] = 0.8
    try:
        found = forest.predict(table)
    finally:
        forest.contract.__dict__["threshold"] = 0.5
    assert (found.prediction == (found.score >= 0.8)).all()
    assert 0 < found.prediction.sum() < (found.score >= 0.5).sum()


def test_the_engine_is_named(forest):
    assert forest.engine.startswith("onnxruntime ")
    assert "CPUExecutionProvider" in forest.engine


def test_the_error_about_an_invalid_folder_names_the_missing_file(tmp_path, forest):
    with pytest.raises(ModelFormatError, match=r"has no file mlops/contract.json, because TrainOperator did not train"):
        OnnxModel.load(tmp_path)
    (tmp_path / "mlops").mkdir()
    (tmp_path / "mlops/contract.json").write_text("{}")
    with pytest.raises(ModelFormatError, match="is not a valid model contract"):
        OnnxModel.load(tmp_path)
    (tmp_path / "mlops/contract.json").write_text(forest.contract.model_dump_json())
    with pytest.raises(ModelFormatError, match=r"has no file model.onnx"):
        OnnxModel.load(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"not onnx")
    with pytest.raises(ModelFormatError, match="ONNX Runtime cannot load the model"):
        OnnxModel.load(tmp_path)
