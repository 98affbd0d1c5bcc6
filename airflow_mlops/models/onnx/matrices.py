"""Let an ONNX model with many numeric inputs take them as matrices.

A stored model has one input of shape (n, 1) for each feature. For each run, ONNX Runtime searches the list of inputs for the name
of each input, creates a tensor for each, and copies all of them into one matrix (the operator ``Concat``). With
thousands of inputs, this takes much longer than the model itself. The changed model takes the matrix instead. The
numbers that reach the model are the same, so the predictions are equal.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from airflow_mlops.models.onnx.feeds import Matrix
from airflow_mlops.models.onnx.naming import unique, values

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, ValueInfoProto


def with_matrices(content: bytes) -> tuple[bytes, list[Matrix]]:
    """Replace neighbouring numeric inputs that the model joins to a matrix by one input.

    An input that the model uses more than once, or for something else, stays an input of shape (n, 1).

    :param content: the serialised ONNX model
    :return: the changed model, and its inputs that replace several features. Content that is not an ONNX model is
        returned unchanged, because ONNX Runtime reports the error
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        return content, []
    graph = model.graph
    joinable = _joinable(graph)
    taken, matrices = set(values(graph)), list[Matrix]()
    for node in graph.node:
        if node.op_type != "Concat" or node.domain not in ("", "ai.onnx") or not _joins_columns(node):
            continue
        joined: list[str] = []
        for run in _runs(node, joinable):
            if len(run) < 2:
                joined += run
                continue
            kind = joinable[run[0]]
            matrices.append(Matrix(unique(f"matrix {len(matrices)}", taken), run, _TYPES[kind]))
            joined.append(matrices[-1].name)
            graph.input.append(onnx.helper.make_tensor_value_info(matrices[-1].name, kind, [None, len(run)]))
        del node.input[:]
        node.input.extend(joined)
    replaced = {name for matrix in matrices for name in matrix.columns}
    kept = [item for item in graph.input if item.name not in replaced]
    del graph.input[:]
    graph.input.extend(kept)
    changed: bytes = model.SerializeToString()
    return changed, matrices


# Types of ONNX (TensorProto.FLOAT and DOUBLE), and their names in ONNX Runtime.
_TYPES = {1: "tensor(float)", 11: "tensor(double)"}


def _joinable(graph: GraphProto) -> dict[str, int]:
    """Return the type of each input that can become a column of a matrix, by name."""
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        # An inner graph may use inputs of the outer graph.
        return {}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(item.name for item in graph.output)
    constants = {item.name for item in graph.initializer}
    return {
        item.name: item.type.tensor_type.elem_type
        for item in graph.input
        if uses[item.name] == 1 and item.name not in constants and _is_column_of_numbers(item)
    }


def _is_column_of_numbers(item: ValueInfoProto) -> bool:
    tensor = item.type.tensor_type
    return tensor.elem_type in _TYPES and len(tensor.shape.dim) == 2 and tensor.shape.dim[1].dim_value == 1


def _joins_columns(node: NodeProto) -> bool:
    return any(attribute.name == "axis" and attribute.i in (1, -1) for attribute in node.attribute)


def _runs(node: NodeProto, joinable: dict[str, int]) -> list[list[str]]:
    """Divide the inputs of a node into runs of neighbouring inputs of the same joinable type, and single other inputs."""
    runs: list[list[str]] = []
    for name in node.input:
        kind = joinable.get(name)
        if kind is not None and runs and joinable.get(runs[-1][-1]) == kind:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs
