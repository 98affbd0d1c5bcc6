"""Inputs of ONNX models have the names of the features, whatever these are."""

from __future__ import annotations

import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.onnx.naming import name_inputs
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.trainers.sklearn import trainer as sklearn
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec
from tests.support.odd_names import NUMBERS, TEXTS
from tests.support.online import assert_online_equals_batch


def difference() -> onnx.ModelProto:
    """A model that subtracts its second input, times 3 if it is negative, from its first input."""
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Mul", ["b", "three"], ["tripled"])], "then", [], [value("tripled", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["b"], ["kept"])], "else", [], [value("kept", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("ReduceMax", ["b"], ["largest"], keepdims=0),
        helper.make_node("Less", ["largest", "zero"], ["negative"]),
        helper.make_node("If", ["negative"], ["scaled"], then_branch=inner, else_branch=other),
        helper.make_node("Sub", ["a", "scaled"], ["value"]),
    ]
    constants = [numpy_helper.from_array(np.float32(number), name) for number, name in ((0, "zero"), (3, "three"))]
    inputs = [value(name, TensorProto.FLOAT, [None, 1]) for name in "ab"]
    graph = helper.make_graph(nodes, "g", inputs, [value("value", TensorProto.FLOAT, [None, 1])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


NAMES = st.one_of(
    st.text(min_size=1, max_size=8).filter(lambda name: "\x00" not in name),
    st.sampled_from(["a", "b", "value", "three", "scaled", "tripled", "kept", "zero", "value_"]),
)


@given(names=st.lists(NAMES, min_size=2, max_size=2, unique=True), negative=st.booleans())
@settings(max_examples=200)
def test_inputs_get_any_names_and_the_model_computes_the_same(names, negative):
    model = name_inputs(difference(), names)
    onnx.checker.check_model(model)
    assert [item.name for item in model.graph.input] == names
    table = pa.table({names[0]: [10.0, 20.0], names[1]: [-1.0, -2.0] if negative else [1.0, 2.0]})
    contract = ModelContract(
        task="regression", label="y", features=feature_columns(table.schema, names), dataset_name="d", dataset_id="0"
    )
    found = OnnxModel(model.SerializeToString(), contract).predict(table)
    assert found.score.tolist() == ([13.0, 26.0] if negative else [9.0, 18.0])


def rows(count=300):
    random = np.random.default_rng(0)
    return pa.table(
        {name: np.round(random.normal(size=count), 1) for name in NUMBERS}
        | {name: random.choice(["a", "b", "c"], count) for name in TEXTS}
    )


def contract(features):
    return ModelContract(
        task="binary", label="late", features=features, classes=[0, 1], positive=1, dataset_name="d", dataset_id="0"
    )


@pytest.mark.parametrize(
    "estimator",
    [
        "sklearn.linear_model.LogisticRegression",
        "sklearn.ensemble.RandomForestClassifier",
        "sklearn.ensemble.HistGradientBoostingClassifier",
        "sklearn.neighbors.KNeighborsClassifier",
        "interpret.glassbox.ExplainableBoostingClassifier",
    ],
)
def test_an_estimator_is_exported_with_features_of_any_name(estimator):
    random, table = np.random.default_rng(0), rows()
    labels = ((table[NUMBERS[0]].to_numpy() + (np.asarray(table[TEXTS[0]]) == "a")) > 0.3).astype(int)
    features = feature_columns(table.schema, table.column_names)
    data = TrainingData("binary", "late", features, table, frame(table, features), labels, [0, 1], 1)
    params = {"interactions": 2, "max_rounds": 20, "outer_bags": 2, "n_jobs": 1} if "glassbox" in estimator else {}
    model = sklearn.fit(SklearnTrainerSpec(estimator=estimator, params=params), data, 0)
    # Columns may be in any order, so each input must take the column of its name.
    shuffled = table.select(random.permutation(table.column_names).tolist())
    exported = OnnxModel(model.to_onnx(data), contract(features))
    assert_online_equals_batch(exported, shuffled)
    found = exported.predict(shuffled)
    np.testing.assert_allclose(found.probabilities, model.predict(data.frame), atol=1e-5)


def test_a_network_is_exported_with_features_of_any_name():
    torch = pytest.importorskip("torch")
    from airflow_mlops.models.trainers.torch.encoding import Encoding
    from airflow_mlops.models.trainers.torch.network import TabularNetwork
    from airflow_mlops.models.trainers.torch.onnx import export

    table = rows()
    features = feature_columns(table.schema, table.column_names)
    zeros, ones = np.zeros(len(NUMBERS), np.float32), np.ones(len(NUMBERS), np.float32)
    encoding = Encoding("binary", "late", features, [0, 1], zeros, ones, [["a", "b"]] * len(TEXTS), (0.0, 1.0), 300)
    network = TabularNetwork(**encoding.shape).eval()
    with torch.inference_mode():
        expected = torch.softmax(network(*map(torch.from_numpy, encoding.inputs(table))).double(), 1).numpy()
    exported = OnnxModel(export(network, encoding), contract(features))
    assert_online_equals_batch(exported, table)
    found = exported.predict(table.select(table.column_names[::-1]))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
