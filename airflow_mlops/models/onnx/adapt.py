"""Convert an ONNX model that this package did not export to the inputs and the output that scoring expects.

Scoring feeds one input of shape (n, 1) for each feature, and reads one output: probabilities of shape (n, classes), or
values of shape (n, 1). Other ONNX models often take all features as one matrix, or return the probability of one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import FeatureColumn, Task
from airflow_mlops.core.errors import ModelFormatError, one_line
from airflow_mlops.models.onnx.embedded import require_embedded
from airflow_mlops.models.onnx.naming import name_inputs, unique, values
from airflow_mlops.models.onnx.serialised import serialised

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto


def adapted(content: bytes, name: str, task: Task, features: Sequence[FeatureColumn], classes: int) -> bytes:
    """Return the model with one input for each feature, and one output.

    - A model takes either one input of shape (n, 1) for each feature, with the name of the feature, or one float32
      input of shape (n, features), with the features in order. All features must then be numeric.
    - For a classification, the last output has the probabilities of the classes in sorted order. If it has one column,
      this is the probability of the second of two classes.
    - For a regression, the first output has the values.

    :param content: the serialised ONNX model
    :param name: name of the model in errors
    :param task: the ML task
    :param features: the features, in order
    :param classes: number of classes; 0 for a regression
    :raises ModelFormatError: the content is not an ONNX model with such inputs and outputs
    """
    import onnx

    require_embedded(content)
    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelFormatError(f"{name} is not a valid ONNX model: {one_line(error, 300)}. Export it again.") from error
    if all(item.domain not in ("", "ai.onnx") for item in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", 18))
    _adapt_inputs(model, name, features)
    _adapt_output(model, name, task, classes)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelFormatError(
            f"{name} cannot be adapted to the inputs and outputs of scoring: {one_line(error, 300)}. Export it with a newer opset."
        ) from error
    return serialised(model)


def _adapt_inputs(model: ModelProto, name: str, features: Sequence[FeatureColumn]) -> None:
    from onnx import TensorProto, helper

    graph = model.graph
    constants = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    kinds = {feature.name: feature.kind for feature in features}
    for item in inputs:
        if (size := _size(item, 0)) is not None:
            raise ModelFormatError(
                f"Input {item.name!r} of {name} has a fixed number of {size} row{'' if size == 1 else 's'}, but scoring needs any "
                "number of rows. Export the model with a dynamic first dimension."
            )
    if {item.name for item in inputs} <= kinds.keys():
        for item in inputs:
            expected = TensorProto.STRING if kinds[item.name] == "string" else TensorProto.FLOAT
            if item.type.tensor_type.elem_type != expected or _size(item, 1) not in (None, 1):
                raise ModelFormatError(
                    f"Input {item.name!r} of {name} is not a {'string' if expected == TensorProto.STRING else 'float32'} tensor of "
                    "shape (n, 1), which the feature of this name needs. Export the model with such an input."
                )
        _keep_inputs(graph, inputs)
        return
    if len(inputs) != 1:
        raise ModelFormatError(
            f"{name} has the inputs {', '.join(repr(item.name) for item in inputs)}, but needs one input for each feature, "
            "with the feature's name, or one input of shape (n, features). Export the model with such inputs."
        )
    (matrix,) = inputs
    if texts := [feature.name for feature in features if feature.kind == "string"]:
        raise ModelFormatError(
            f"{name} takes all features as one matrix of numbers, but feature {texts[0]!r} is text. Encode the text in the "
            "model, with one input for each feature, or leave the feature out of the training set."
        )
    width = _size(matrix, 1)
    rank = len(matrix.type.tensor_type.shape.dim) if matrix.type.tensor_type.HasField("shape") else 2
    if matrix.type.tensor_type.elem_type != TensorProto.FLOAT or rank != 2 or width not in (None, len(features)):
        raise ModelFormatError(
            f"Input {matrix.name!r} of {name} is not a float32 tensor of shape (n, {len(features)}), which the {len(features)} "
            "features need. Export the model with such an input."
        )
    taken = {*values(graph), *kinds}
    columns = [unique(f"feature {place}", taken) for place in range(len(features))]
    _keep_inputs(graph, [helper.make_tensor_value_info(column, TensorProto.FLOAT, [None, 1]) for column in columns])
    graph.node.insert(0, helper.make_node("Concat", columns, [matrix.name], axis=1))
    name_inputs(model, [feature.name for feature in features])


def _keep_inputs(graph: GraphProto, inputs: Sequence[ValueInfoProto]) -> None:
    kept = list(inputs)
    del graph.input[:]
    graph.input.extend(kept)


def _adapt_output(model: ModelProto, name: str, task: Task, classes: int) -> None:
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    output = graph.output[0 if task == "regression" else -1]
    kind = output.type.tensor_type.elem_type if output.type.HasField("tensor_type") else None
    if kind not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        zipmap = ", without ZipMap (zipmap=False in skl2onnx)" if output.type.HasField("sequence_type") else ""
        raise ModelFormatError(
            f"Output {output.name!r} of {name} is not a tensor of floating-point numbers. Export the "
            f"{'values' if task == 'regression' else 'probabilities of the classes'} as a tensor{zipmap}."
        )
    width, wanted = _size(output, 1), max(1, classes)
    dimensions = len(output.type.tensor_type.shape.dim) if output.type.tensor_type.HasField("shape") else None
    if dimensions == 1:
        width = 1
    one_column = classes == 2 and width == 1
    if width is not None and width != wanted and not one_column:
        raise ModelFormatError(
            f"Output {output.name!r} of {name} has {width} column{'' if width == 1 else 's'}, but the {task} task needs {wanted}. "
            "Export a model of this task."
        )
    taken = set(values(graph))
    shape, found, one, other = (unique(text, taken) for text in ("shape", "found", "one", "other"))
    final = unique("value" if task == "regression" else "probabilities", taken)
    columns = 1 if one_column else wanted
    graph.initializer.append(numpy_helper.from_array(np.array([-1, columns], np.int64), shape))
    last = final if not one_column else found
    graph.node.append(helper.make_node("Reshape", [output.name, shape], [last]))
    if one_column:
        number = np.float64 if kind == TensorProto.DOUBLE else np.float32
        graph.initializer.append(numpy_helper.from_array(np.ones(1, number), one))
        graph.node.append(helper.make_node("Sub", [one, found], [other]))
        graph.node.append(helper.make_node("Concat", [other, found], [final], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(final, kind, [None, wanted]))


def _size(item: ValueInfoProto, dimension: int) -> int | None:
    """Return the size of a dimension; ``None`` if it is not fixed, or unknown."""
    tensor = item.type.tensor_type
    if not tensor.HasField("shape") or len(tensor.shape.dim) <= dimension:
        return None
    found = tensor.shape.dim[dimension]
    return int(found.dim_value) if found.HasField("dim_value") else None
