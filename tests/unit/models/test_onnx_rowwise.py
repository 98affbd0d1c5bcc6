"""A prediction of an ONNX model does not depend on the other rows of a batch, nor on its place in the batch."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from airflow_mlops.models.onnx.rowwise import rowwise

ROWS, WIDTH = 3001, 5
KINDS = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
AXES = numpy_helper.from_array(np.array([1], np.int64), "axes")


def model(kind, *nodes, constants=(AXES,), opset=18, shape=(WIDTH,)):
    """A model of rows ``x`` whose last node has the output ``y``."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", KINDS[kind], [None, *shape])],
        [helper.make_tensor_value_info("y", KINDS[kind], None)],
        list(constants),
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return made.SerializeToString()


def run(content, rows):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0]


def rows_of(kind, shape=(WIDTH,)):
    return np.abs(np.random.default_rng(0).normal(size=(ROWS, *shape))).astype(kind) + 0.01


def depends_on_place(content, kind, shape=(WIDTH,)):
    rows = rows_of(kind, shape)
    whole = run(content, rows)
    return any(
        run(content, rows[start : start + count].copy()).tobytes() != whole[start : start + count].tobytes()
        for count in (2, 3, 7, 17, 33, 65, 127, 333)
        for start in (0, 1, 8, 77)
    )


NODES = {
    name: [helper.make_node(name, ["x"], ["y"])]
    for name in ("Atan", "Celu", "Cos", "Elu", "Exp", "Log", "Mish", "Selu", "Sigmoid", "Sin", "Softplus", "Tanh")
}
NODES |= {
    "Elu with a parameter": [helper.make_node("Elu", ["x"], ["y"], alpha=0.5)],
    "Softmax": [helper.make_node("Softmax", ["x"], ["y"], axis=1)],
    "ReduceSum": [helper.make_node("ReduceSum", ["x", "axes"], ["y"])],
    "ReduceSum without the dimension": [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
    "ReduceMean": [helper.make_node("ReduceMean", ["x", "axes"], ["y"])],
    "two": [helper.make_node("ReduceSum", ["x", "axes"], ["sum"]), helper.make_node("Log", ["sum"], ["y"])],
}
# ONNX Runtime computes these in single precision alike at every place.
SINGLE = {"Exp", "Sigmoid", "Softmax", "Tanh"}


# ONNX Runtime has no double precision for these.
ONLY_SINGLE = {"Atan", "Celu"}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in NODES for kind in KINDS if kind == "float32" or name not in ONLY_SINGLE]
)
def test_a_row_is_computed_alike_at_every_place(name, kind):
    given = model(kind, *NODES[name])
    changed = rowwise(given)
    assert (changed == given) == (kind == "float32" and name in SINGLE)
    assert not depends_on_place(changed, kind)
    rows = rows_of(kind)
    before, after = run(given, rows), run(changed, rows)
    assert (before.shape, before.dtype) == (after.shape, after.dtype)
    np.testing.assert_allclose(after, before, rtol=1e-6 if kind == "float32" else 1e-14)
    # The same model again has the same bytes.
    assert rowwise(given) == changed


def test_sums_over_several_dimensions():
    axes = numpy_helper.from_array(np.array([2, -2], np.int64), "axes")
    for keep in (0, 1):
        for name in ("ReduceSum", "ReduceMean"):
            given = model(
                "float64", helper.make_node(name, ["x", "axes"], ["y"], keepdims=keep), constants=[axes], shape=(3, 7)
            )
            changed = rowwise(given)
            assert not depends_on_place(changed, "float64", (3, 7))
            rows = rows_of("float64", (3, 7))
            np.testing.assert_allclose(run(changed, rows), run(given, rows), rtol=1e-14)


def test_special_values_stay_special():
    rows = np.array([[np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0], [800.0, -800.0]])
    for name in ("Exp", "Sigmoid", "Softmax", "Log", "ReduceSum"):
        given = model("float64", *NODES[name], shape=(2,))
        np.testing.assert_allclose(run(rowwise(given), rows), run(given, rows), rtol=1e-14, equal_nan=True)


def test_older_operator_sets():
    given = model("float64", helper.make_node("ReduceSum", ["x"], ["y"], axes=[1]), constants=[], opset=11)
    assert not depends_on_place(rowwise(given), "float64")
    softmax = model("float64", helper.make_node("Softmax", ["x"], ["y"], axis=1), constants=[], opset=13)
    assert not depends_on_place(rowwise(softmax), "float64")


def test_a_sum_over_the_rows_and_other_models_are_unchanged():
    rows = numpy_helper.from_array(np.array([0], np.int64), "axes")
    for given in (
        model("float32", helper.make_node("ReduceSum", ["x", "axes"], ["y"]), constants=[rows]),
        model("float64", helper.make_node("Relu", ["x"], ["y"])),
    ):
        assert rowwise(given) == given
