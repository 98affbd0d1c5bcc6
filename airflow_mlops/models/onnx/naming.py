"""Give the inputs of an ONNX model the names of the features.

A converter changes the name of an input in two cases: the name has a space, a bracket or a leading digit, or a value of
the graph has the same name, such as ``label``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def name_inputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Rename the inputs of ``model`` in place. Other values that already have one of the new names get another name.

    :param model: the ONNX model
    :param names: the new name of each input, in the order of the inputs
    """
    present = set(values(model.graph))
    renamed = {item.name: name for item, name in zip(model.graph.input, names, strict=True)}
    taken = {*present, *names}
    renamed |= {name: unique(name, taken) for name in names if name in present and name not in renamed}
    _rename(model.graph, renamed)
    return model


def unique(name: str, taken: set[str]) -> str:
    """Append underscores to ``name`` until it is not in ``taken``, add the result to ``taken``, and return it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs inside a node, such as the branches of ``If``."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def values(graph: GraphProto) -> Iterator[str]:
    """Yield the names of all values of a graph and of its subgraphs, which share one namespace."""
    for items in (graph.input, graph.output, graph.initializer):
        yield from (item.name for item in items)
    for node in graph.node:
        yield from (*node.input, *node.output)
        for subgraph in subgraphs(node):
            yield from values(subgraph)


def _rename(graph: GraphProto, renamed: Mapping[str, str]) -> None:
    for items in (graph.input, graph.output, graph.initializer, graph.value_info):
        for item in items:
            item.name = renamed.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        for subgraph in subgraphs(node):
            _rename(subgraph, renamed)
