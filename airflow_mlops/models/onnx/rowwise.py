"""Let the predictions of an ONNX model depend on their own row only, to the last bit.

Some operators of ONNX Runtime compute a row differently at another place in a batch, or in a batch of another size, and
then round differently. Scores of single requests would differ from those of scoring in batches in the last bits.

- Functions of single numbers use vector instructions, except for the last numbers of a tensor. The rewritten model
  appends numbers to the tensor, so that all of its own numbers are computed in the same way.
- The order in which the numbers of a row are added depends on the address of the row in memory. The rewritten model
  multiplies the rows by a constant matrix of ones instead. If the length of the rows is not fixed, it computes
  cumulative sums, which are slower.

The affected operators were found by measurement: with onnxruntime 1.31 on processors with AVX2 and AVX-512, in single
and double precision, with rows of 1 to 300 numbers and batches of 2 to 3,001 rows. Products with constant matrices,
trees, ``Pow``, ``LayerNormalization``, the other reductions and all operators of ``ai.onnx.ml`` are not affected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.errors import ModelFormatError, one_line
from airflow_mlops.models.onnx.naming import unique, values
from airflow_mlops.models.onnx.serialised import serialised

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_FLOAT, _DOUBLE = "tensor(float)", "tensor(double)"
_NUMPY: dict[str, Any] = {_FLOAT: np.float32, _DOUBLE: np.float64}
_ONNX = {_FLOAT: 1, _DOUBLE: 11}
_UNKNOWN: tuple[str, list[Any]] = ("", [])
_BOTH = (_FLOAT, _DOUBLE)
# The affected functions of single numbers, and the types for which they are affected.
_FUNCTIONS = {
    **dict.fromkeys(("Atan", "Celu", "Cos", "Elu", "Log", "Mish", "Selu", "Sin", "Softplus"), _BOTH),
    **dict.fromkeys(("Exp", "Sigmoid", "Tanh"), (_DOUBLE,)),
}
_SUMS = ("ReduceSum", "ReduceMean")
# More numbers than any processor computes by one instruction.
_APPENDED = 64
# The oldest operator set whose operators are used.
_OPSET = 13
# From this operator set on, the axes of all reductions are inputs.
_AXES_ARE_INPUTS = 18


def rowwise(content: bytes) -> bytes:
    """Return the model with affected operators replaced. A model without affected operators is returned unchanged.

    Nodes of inner graphs (loops) are not replaced.

    :param content: the serialised ONNX model
    :raises ModelFormatError: the model has an operator set older than 13, and cannot be converted to it; or ONNX Runtime
        cannot load the model
    """
    import onnx

    model = onnx.load_from_string(content)
    affected = {*_FUNCTIONS, *_SUMS, "Softmax"}
    if not any(node.op_type in affected for node in model.graph.node):
        return content
    model = _converted(model)
    rewriting = _Rewriting(model.graph, _types(model), _version(model))
    nodes = [new for node in model.graph.node for new in rewriting.replaced(node)]
    if not rewriting.changed:
        return content
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return serialised(model)


def _converted(model: ModelProto) -> ModelProto:
    from onnx import version_converter

    version = _version(model)
    if version >= _OPSET:
        return model
    try:
        found: ModelProto = version_converter.convert_version(model, _OPSET)
    except Exception as error:
        raise ModelFormatError(
            f"The ONNX model has operator set {version}, and cannot be converted to {_OPSET}, which exact online scores need: "
            f"{one_line(error, 200)}. Export it with a newer operator set."
        ) from error
    return found


def _version(model: ModelProto) -> int:
    return max((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)


def _types(model: ModelProto) -> dict[str, tuple[str, list[Any]]]:
    """Return the type of each value of the graph, such as ``tensor(float)``, and the sizes of its dimensions.

    A size is text or ``None`` if it is not fixed. The list is empty if ONNX Runtime does not know the dimensions.

    :raises ModelFormatError: ONNX Runtime cannot load the model
    """
    import onnx
    import onnxruntime

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    present = {item.name for item in whole.graph.output}
    names = dict.fromkeys(name for node in whole.graph.node for name in node.output if name and name not in present)
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelFormatError(
            f"ONNX Runtime cannot load the exported model: {one_line(error, 300)}. Use operators that it supports."
        ) from error
    return {item.name: (item.type, list(item.shape or ())) for item in [*session.get_inputs(), *session.get_outputs()]}


class _Rewriting:
    """Replaces nodes of a graph.

    :param graph: the graph, which gets new constants
    :param types: types and sizes of its values
    :param version: version of its operator set
    """

    def __init__(self, graph: GraphProto, types: dict[str, tuple[str, list[Any]]], version: int) -> None:
        self._graph, self._types, self._taken, self._version = graph, types, set(values(graph)), version
        self._constants = {item.name: item for item in graph.initializer}
        self._constants |= {
            node.output[0]: attribute.t
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        self._nodes: list[NodeProto] = []
        self.changed = False

    def replaced(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield the nodes that compute the outputs of ``node``: the node itself, unless it is affected."""
        kind, _ = self._types.get(node.output[0], _UNKNOWN) if node.output else _UNKNOWN
        self._nodes = []
        if node.domain in ("", "ai.onnx") and kind in _NUMPY:
            if kind in _FUNCTIONS.get(node.op_type, ()):
                self._function(node.op_type, node.input[0], kind, _attributes(node))
            elif node.op_type == "Softmax" and kind == _DOUBLE:
                self._softmax(node)
            elif node.op_type in _SUMS:
                self._sum(node, kind)
        if not self._nodes:
            yield node
            return
        self.changed = True
        # The last node computes what the replaced node computed.
        self._nodes[-1].output[0] = node.output[0]
        yield from self._nodes

    def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = unique(f"rowwise {kind}", self._taken)
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _constant(self, value: Any, kind: Any) -> str:
        from onnx import numpy_helper

        name = unique("rowwise constant", self._taken)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def _function(self, name: str, given: str, kind: str, attributes: dict[str, Any]) -> str:
        flat = self._add("Reshape", given, self._constant([-1], np.int64))
        longer = self._add("Concat", flat, self._constant(np.ones(_APPENDED), _NUMPY[kind]), axis=0)
        found = self._add(name, longer, **attributes)
        own = self._add("Slice", found, self._constant([0], np.int64), self._constant([-_APPENDED], np.int64))
        return self._add("Reshape", own, self._add("Shape", given))

    def _softmax(self, node: NodeProto) -> None:
        given, axis = node.input[0], _attributes(node).get("axis", -1)
        if self._version < _AXES_ARE_INPUTS:
            largest = self._add("ReduceMax", given, axes=[axis], keepdims=1)
        else:
            largest = self._add("ReduceMax", given, self._constant([axis], np.int64), keepdims=1)
        power = self._function("Exp", self._add("Sub", given, largest), _DOUBLE, {})
        self._add("Div", power, self._total(power, [axis], _DOUBLE, self._types.get(given, _UNKNOWN)[1]))

    def _sum(self, node: NodeProto, kind: str) -> None:
        from onnx import numpy_helper

        attributes = _attributes(node)
        axes = attributes.get("axes")
        if axes is None and len(node.input) > 1 and node.input[1] in self._constants:
            axes = numpy_helper.to_array(self._constants[node.input[1]]).ravel().tolist()
        if not axes or 0 in axes:
            # The sum is over the rows, so it does not belong to a row.
            return
        found = self._total(node.input[0], axes, kind, self._types.get(node.input[0], _UNKNOWN)[1])
        if node.op_type == "ReduceMean":
            shape = self._add("Shape", node.input[0])
            sizes = self._add("Gather", shape, self._constant(axes, np.int64), axis=0)
            count = self._add("ReduceProd", sizes, keepdims=0)
            found = self._add("Div", found, self._add("Cast", count, to=_ONNX[kind]))
        if not attributes.get("keepdims", 1):
            self._add("Squeeze", found, self._constant(axes, np.int64))

    def _total(self, given: str, axes: list[int], kind: str, sizes: list[Any]) -> str:
        """Add nodes that sum the numbers along axes. The axes stay as dimensions of size 1."""
        for axis in axes:
            if axis in (-1, len(sizes) - 1) and sizes and isinstance(sizes[-1], int):
                # Only products with constants are computed alike in all batches.
                given = self._add("MatMul", given, self._constant(np.ones((sizes[-1], 1)), _NUMPY[kind]))
                continue
            # With ``reverse``, the cumulative sum of all numbers is in the first place.
            sums = self._add("CumSum", given, self._constant(axis, np.int64), reverse=1)
            given = self._add("Gather", sums, self._constant([0], np.int64), axis=axis)
        return given


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
