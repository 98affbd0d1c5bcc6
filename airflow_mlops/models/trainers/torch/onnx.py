"""Export a network and its encoding as one ONNX model, with one input per feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from airflow_mlops.core.isolation import quiet
from airflow_mlops.models.onnx.naming import name_inputs, subgraphs
from airflow_mlops.models.onnx.serialised import serialised
from airflow_mlops.models.trainers.torch.encoding import Encoding

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

    from airflow_mlops.models.trainers.torch.reader import Reader

OPSET = 18


def export(network: torch.nn.Module, reader: Reader) -> bytes:
    """Export to ONNX. The output is ``probabilities`` of the classes, or ``value`` for a regression.

    :param network: the trained network
    :param reader: the reader that encoded the training rows
    :return: the serialised ONNX model
    """
    import onnx
    from onnx import compose

    encoding, examples = _encoding(reader), _example_inputs(reader)
    inner = compose.add_prefix(network_to_onnx(network, examples), "network/")
    encoding.ir_version = inner.ir_version = min(encoding.ir_version, inner.ir_version)
    outputs = {item.name for item in encoding.graph.output}
    inputs = {item.name for item in inner.graph.input}
    links = [(name, f"network/{name}") for name in examples if name in outputs and f"network/{name}" in inputs]
    joined = compose.merge_models(encoding, inner, links)
    whole: ModelProto = compose.merge_models(joined, _answer(reader, joined.ir_version), [("network/found", "found")])
    name_inputs(whole, [feature.name for feature in reader.features])
    onnx.checker.check_model(whole)
    return serialised(whole)


def _example_inputs(reader: Reader) -> dict[str, torch.Tensor]:
    """Create example values of the network's inputs, by name."""
    if not isinstance(reader, Encoding):
        return {"values": torch.zeros(2, len(reader.features))}
    return {
        "numbers": torch.zeros(2, 2 * len(reader.numeric)),
        "texts": torch.zeros(2, len(reader.textual), dtype=torch.int64),
    }


def network_to_onnx(
    network: torch.nn.Module, examples: dict[str, torch.Tensor], *, sequences: bool = False
) -> ModelProto:
    """Export a network for any number of rows, without traces of its source code. The output is ``found``.

    :param network: the network
    :param examples: example values of the inputs, of two rows each, by name
    :param sequences: whether the second dimension of the inputs is the length of sequences, which may vary as well
    """
    varying: dict[int, Any] = {0: torch.export.Dim("rows")}
    if sequences:
        varying = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = tuple(varying for _ in examples)
    # Every pass of the exporter writes log messages, and torch warns that torchvision is not installed.
    with quiet():
        program = torch.onnx.export(
            network.cpu().eval(),
            tuple(examples.values()),
            input_names=list(examples),
            output_names=["found"],
            # The inputs are the variable arguments of a network of sequences.
            dynamic_shapes=(shapes,) if sequences else shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return _without_traces(program.model_proto)


def _without_traces(model: ModelProto) -> ModelProto:
    """Remove the exporter's notes from ``model`` in place, such as the file, the line and the source of each operator.

    Scoring does not use them. With them, the export would contain lines of the user's code, and its bytes would depend
    on the folder of the code.
    """
    _clear(model.graph)
    return model


def _clear(graph: GraphProto) -> None:
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
    for node in graph.node:
        for inner in subgraphs(node):
            _clear(inner)


def _input(place: int) -> str:
    """Return a temporary name of a feature's input. No other value of the graph has this name."""
    return f"feature {place}"


def _inputs(reader: Reader, *, texts: bool) -> list[str]:
    return [_input(place) for place, item in enumerate(reader.features) if (item.kind == "string") == texts]


def _encoding(reader: Reader) -> ModelProto:
    """Create the graph that maps one input per feature to the inputs of the network."""
    from onnx import TensorProto, helper

    inputs, nodes, outputs = [], [], []

    def output(name: str, kind: int, width: int) -> None:
        outputs.append(helper.make_tensor_value_info(name, kind, [None, width]))

    for place, feature in enumerate(reader.features):
        kind = TensorProto.STRING if feature.kind == "string" else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(_input(place), kind, [None, 1]))
    if not isinstance(reader, Encoding):
        nodes.append(helper.make_node("Concat", [item.name for item in inputs], ["values"], axis=1))
        output("values", TensorProto.FLOAT, len(reader.features))
        return _model(nodes, "values", inputs, outputs)
    nodes += _numbers(reader) if reader.numeric else _empty("numbers", reader, np.zeros(1, np.float32))
    output("numbers", TensorProto.FLOAT, 2 * len(reader.numeric))
    if not reader.textual:
        nodes += _empty("texts", reader, np.zeros(1, np.int64))
    else:
        for name, known in zip(_inputs(reader, texts=True), reader.vocabularies, strict=True):
            nodes.append(
                helper.make_node(
                    "LabelEncoder", [name], [f"index of {name}"], domain="ai.onnx.ml", default_int64=0,
                    keys_strings=known, values_int64s=list(range(1, len(known) + 1)),
                )
            )  # fmt: skip
        indices = [f"index of {name}" for name in _inputs(reader, texts=True)]
        nodes.append(helper.make_node("Concat", indices, ["texts"], axis=1))
    output("texts", TensorProto.INT64, len(reader.textual))
    return _model(nodes, "encoding", inputs, outputs)


def _empty(name: str, encoding: Encoding, kind: NDArray[Any]) -> list[NodeProto]:
    """Create the nodes of a network input of shape (n, 0), for a training set without features of this kind."""
    from onnx import helper, numpy_helper

    zero = numpy_helper.from_array(np.zeros(1, np.int64))
    return [
        helper.make_node("Shape", [_input(0)], [f"{name} rows"], start=0, end=1),
        helper.make_node("Constant", [], [f"{name} width"], value=zero),
        helper.make_node("Concat", [f"{name} rows", f"{name} width"], [f"{name} shape"], axis=0),
        helper.make_node("ConstantOfShape", [f"{name} shape"], [name], value=numpy_helper.from_array(kind)),
    ]


def _numbers(encoding: Encoding) -> list[NodeProto]:
    from onnx import helper, numpy_helper

    def constant(name: str, value: object) -> NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, np.float32)))

    return [
        helper.make_node("Concat", _inputs(encoding, texts=False), ["raw"], axis=1),
        helper.make_node("IsNaN", ["raw"], ["missing"]),
        constant("means", encoding.means),
        constant("scales", encoding.scales),
        constant("zero", 0.0),
        helper.make_node("Sub", ["raw", "means"], ["centred"]),
        helper.make_node("Div", ["centred", "scales"], ["standardised"]),
        helper.make_node("Where", ["missing", "zero", "standardised"], ["known"]),
        helper.make_node("Cast", ["missing"], ["indicators"], to=1),
        helper.make_node("Concat", ["known", "indicators"], ["numbers"], axis=1),
    ]


def _answer(reader: Reader, ir_version: int) -> ModelProto:
    """Create the graph that maps the network's output to probabilities, or to values in the unit of the label."""
    from onnx import TensorProto, helper, numpy_helper

    if reader.task == "regression":
        mean, scale = (np.asarray(value, np.float32) for value in reader.label)
        nodes = [
            helper.make_node("Constant", [], ["label scale"], value=numpy_helper.from_array(scale)),
            helper.make_node("Constant", [], ["label mean"], value=numpy_helper.from_array(mean)),
            helper.make_node("Mul", ["found", "label scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "label mean"], ["value"]),
        ]
        width, name = 1, "value"
    else:
        nodes = [helper.make_node("Softmax", ["found"], ["probabilities"], axis=1)]
        width, name = len(reader.classes), "probabilities"
    found = helper.make_tensor_value_info("found", TensorProto.FLOAT, [None, width])
    model = _model(nodes, "answer", [found], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])])
    model.ir_version = ir_version
    return model


def _model(
    nodes: list[NodeProto], name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
) -> ModelProto:
    from onnx import helper

    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    made: ModelProto = helper.make_model(helper.make_graph(nodes, name, inputs, outputs), opset_imports=opsets)
    return made
