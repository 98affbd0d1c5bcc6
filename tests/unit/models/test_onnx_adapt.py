"""ONNX models from elsewhere get the inputs and the output that scoring expects."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from airflow_mlops.core.contract import FeatureColumn
from airflow_mlops.core.errors import ModelFormatError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.onnx.adapt import adapted
from airflow_mlops.models.trainers.onnx_file import OnnxFileModel
from airflow_mlops.models.training_data import read_part
from tests.support.training import training_set

NUMBERS = [FeatureColumn(name=name, kind="number") for name in ("x", "found", "3 big")]


def matrix(outputs=1, last="Sigmoid", rows=None, width=3, kind=TensorProto.FLOAT, name="x"):
    """A model ``last(input @ weights)`` with one input of shape (rows, width), which has the name of a feature, too."""
    weights = np.linspace(-1, 1, 3 * outputs).reshape(3, outputs).astype(np.float32)
    nodes = [helper.make_node("MatMul", [name, "weights"], ["found"]), helper.make_node(last, ["found"], ["answer"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, [rows, width])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [rows, outputs])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString(), weights


def run(content, rows, features=NUMBERS):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == [feature.name for feature in features]
    (found,) = session.run(None, {item.name: rows[:, [place]] for place, item in enumerate(features)})
    return found


ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["matrix", "found", "feature 1"])
def test_one_matrix_becomes_one_input_for_each_feature_in_order(name):
    content, weights = matrix(last="Identity", name=name if name != "found" else "input")
    found = run(adapted(content, "m", "regression", NUMBERS, 0), ROWS)
    np.testing.assert_allclose(found, ROWS @ weights, rtol=1e-5)


def test_one_column_is_the_probability_of_the_second_class():
    content, weights = matrix(name="input")
    second = 1 / (1 + np.exp(-(ROWS @ weights)[:, 0]))
    found = run(adapted(content, "m", "binary", NUMBERS, 2), ROWS)
    np.testing.assert_allclose(found, np.column_stack([1 - second, second]), atol=1e-6)


def test_a_model_of_scikit_learn_with_a_label_output_keeps_its_probabilities():
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(1)
    rows = random.normal(size=(60, 3)).astype(np.float32)
    estimator = LogisticRegression().fit(rows, random.integers(0, 3, 60))
    content = to_onnx(estimator, rows, options={"zipmap": False}).SerializeToString()
    found = run(adapted(content, "m", "multiclass", NUMBERS, 3), rows)
    np.testing.assert_allclose(found, estimator.predict_proba(rows), atol=1e-5)
    with pytest.raises(ModelFormatError, match="zipmap=False"):
        adapted(to_onnx(estimator, rows).SerializeToString(), "m", "multiclass", NUMBERS, 3)


@pytest.mark.parametrize(
    ("content", "task", "classes", "features", "expected"),
    [
        (matrix(name="i", rows=1)[0], "regression", 0, NUMBERS, "fixed number of 1 row"),
        (matrix(name="i", width=4)[0], "regression", 0, NUMBERS, "shape (n, 3)"),
        (matrix(name="i", outputs=3)[0], "binary", 2, NUMBERS, "3 columns"),
        (matrix(name="i", outputs=2)[0], "regression", 0, NUMBERS, "2 columns"),
        (matrix(name="i", outputs=1)[0], "multiclass", 3, NUMBERS, "1 column"),
        (matrix(name="x")[0], "regression", 0, NUMBERS, "shape (n, 1)"),
        (matrix(name="i")[0], "regression", 0, [*NUMBERS[:2], FeatureColumn(name="t", kind="string")], "'t' is text"),
        (b"no model", "regression", 0, NUMBERS, "not a valid ONNX model"),
    ],
)
def test_models_that_do_not_fit_are_refused(content, task, classes, features, expected):
    with pytest.raises(ModelFormatError) as caught:
        adapted(content, "m", task, features, classes)
    assert expected in str(caught.value)


def test_logits_and_nan_are_not_probabilities(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    details = {"features": ["distance", "hour", "flight"]}
    data = read_part(open_dataset(store, training_set(store, **details)), "train")
    logits, _ = matrix(name="i", outputs=2, last="Identity")
    nan = data.frame["distance"].isna().sum()
    assert nan
    with pytest.raises(TrainingError, match="NaN or infinity"):
        OnnxFileModel(logits, data, name="m", params={}, sources={})
    for column in data.frame:
        data.frame[column] = data.frame[column].fillna(0)
    with pytest.raises(TrainingError, match="softmax"):
        OnnxFileModel(logits, data, name="m", params={}, sources={})


def test_values_in_other_files_are_refused():
    content, _ = matrix(name="i")
    model = onnx.load_from_string(content)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(ModelFormatError, match="in a different file"):
        adapted(model.SerializeToString(), "m", "regression", NUMBERS, 0)
