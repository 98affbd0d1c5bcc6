"""Append a calibration to the ONNX export of a classifier, in double precision.

:func:`airflow_mlops.models.calibration.calibrate` computes the same probabilities. The last bit of ONNX Runtime's
``Log``, ``Exp``, ``Sigmoid``, ``Softmax`` and ``ReduceSum`` in double precision depends on the number of rows. The
appended nodes therefore use powers of odds and probabilities, and cumulative sums. A row then has the same calibrated
probabilities in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import CalibrationMap, CalibrationMethod
from airflow_mlops.core.errors import ModelFormatError, one_line
from airflow_mlops.models.calibration import EDGE
from airflow_mlops.models.onnx.naming import unique, values
from airflow_mlops.models.onnx.serialised import serialised

if TYPE_CHECKING:
    from onnx import GraphProto

# The oldest operator set that contains all operators. Converters choose the oldest set that their own operators need.
# The appended nodes have the same meaning in all later sets.
_OPSET = 11
_LARGE = 500


def append(exported: bytes, method: CalibrationMethod, maps: Sequence[CalibrationMap], classes: int) -> bytes:
    """Return the ONNX model with calibrated probabilities, shape (n, k), as its only output.

    Other outputs, such as the label without calibration, are removed.

    :param exported: an ONNX model whose last output has the probabilities
    :param method: the calibration method
    :param maps: the fitted functions
    :param classes: number of classes
    :raises ModelFormatError: the model has an operator set older than 11, and cannot be converted to it
    """
    import onnx
    from onnx import TensorProto, helper, version_converter

    model = onnx.load_from_string(exported)
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if version < _OPSET:
        try:
            model = version_converter.convert_version(model, _OPSET)
        except Exception as error:
            raise ModelFormatError(
                f"The probabilities cannot be calibrated, because the ONNX export has operator set {version}, and a calibration needs "
                f"{_OPSET} or newer ({one_line(error, 200)}). Use a newer converter, or remove `calibration`."
            ) from error
    graph = _Graph(model.graph)
    given = graph.add("Cast", model.graph.output[-1].name, to=TensorProto.DOUBLE)
    given = graph.add("Reshape", given, graph.constant([-1, classes], np.int64))
    found = _calibrated(graph, method, maps, given, classes)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(found, TensorProto.DOUBLE, [None, classes]))
    onnx.checker.check_model(model)
    return serialised(model)


def _calibrated(
    graph: _Graph, method: CalibrationMethod, maps: Sequence[CalibrationMap], given: str, classes: int
) -> str:
    if classes == 2:
        given = graph.add("Gather", given, graph.constant([1], np.int64), axis=1)
    if method == "isotonic":
        found = _interpolated(graph, maps, given)
    else:
        inner = graph.add("Min", graph.add("Max", given, graph.constant(EDGE)), graph.constant(1 - EDGE))
        if method == "temperature" and classes > 2:
            found = _sharpened(graph, maps[0].slope, inner)
        else:
            found = _logistic(graph, maps, inner)
    if classes == 2:
        return graph.add("Concat", graph.add("Sub", graph.constant(1), found), found, axis=1)
    total = graph.add("CumSum", found, graph.constant(1, np.int64))
    total = graph.add("Gather", total, graph.constant([classes - 1], np.int64), axis=1)
    some = graph.add("Less", graph.constant(0), total)
    share = graph.add("Div", found, graph.add("Where", some, total, graph.constant(1)))
    return graph.add("Where", some, share, graph.constant(1 / classes))


def _logistic(graph: _Graph, maps: Sequence[CalibrationMap], inner: str) -> str:
    """Add nodes that compute ``1 / (1 + exp(-intercept) * exp(x) ** -slope)``, where x is the log-odds of a class."""
    slopes, intercepts = (np.array([[getattr(each, name) for each in maps]]) for name in ("slope", "intercept"))
    # If exp(-intercept) is outside the range of doubles, the slope is large as well, and the factor moves into the
    # power.
    large = np.abs(intercepts) > _LARGE
    within = np.exp(np.divide(intercepts, slopes, out=np.zeros_like(slopes), where=large))
    odds = graph.add("Div", inner, graph.add("Sub", graph.constant(1), inner))
    power = graph.add("Pow", graph.add("Mul", odds, graph.constant(within)), graph.constant(-slopes))
    power = graph.add("Mul", power, graph.constant(np.exp(np.where(large, 0, -intercepts))))
    return graph.add("Div", graph.constant(1), graph.add("Add", graph.constant(1), power))


def _sharpened(graph: _Graph, slope: float, inner: str) -> str:
    """Add nodes that divide all class probabilities by the largest one, and raise them to the power ``slope``.

    The largest result is 1, so only small results can underflow to 0.
    """
    largest = graph.add("GatherElements", inner, graph.add("ArgMax", inner, axis=1, keepdims=1), axis=1)
    return graph.add("Pow", graph.add("Div", inner, largest), graph.constant(slope))


def _interpolated(graph: _Graph, maps: Sequence[CalibrationMap], given: str) -> str:
    """Add nodes that compute a piecewise linear function of each column of scores.

    The linear piece to which a score belongs is found by binary search, which needs little memory.
    """
    bits = max(len(each.scores) for each in maps).bit_length()
    size = 2**bits
    ends = np.full((len(maps), size), np.inf)
    heights, slopes = np.zeros_like(ends), np.zeros_like(ends)
    for place, each in enumerate(maps):
        scores, probabilities, pieces = np.array(each.scores), np.array(each.probabilities), len(each.scores)
        ends[place, :pieces], heights[place, :pieces] = scores, probabilities
        slopes[place, : pieces - 1] = np.diff(probabilities) / np.diff(scores)
    first = graph.constant([[each.scores[0] for each in maps]])
    last = graph.constant([[each.scores[-1] for each in maps]])
    score = graph.add("Min", graph.add("Max", given, first), last)
    table = graph.constant(ends.ravel())
    # For each row, the binary search begins at the first linear piece of the column.
    piece = graph.constant([[place * size for place in range(len(maps))]], np.int64)
    for bit in reversed(range(bits)):
        further = graph.add("Add", piece, graph.constant(2**bit, np.int64))
        beyond = graph.add("Less", score, graph.add("Gather", table, further))
        piece = graph.add("Where", beyond, piece, further)
    along = graph.add("Sub", score, graph.add("Gather", table, piece))
    rise = graph.add("Mul", graph.add("Gather", graph.constant(slopes.ravel()), piece), along)
    found = graph.add("Add", graph.add("Gather", graph.constant(heights.ravel()), piece), rise)
    # Rounding can lead to values slightly below 0 or above 1.
    return graph.add("Min", graph.add("Max", found, graph.constant(0)), graph.constant(1))


class _Graph:
    """Adds nodes and constants to a graph, with names that do not occur in the graph yet."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._taken = set(values(graph))

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = unique(f"calibration {kind}", self._taken)
        self._graph.node.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, value: Any, kind: Any = np.float64) -> str:
        from onnx import numpy_helper

        name = unique("calibration constant", self._taken)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name
