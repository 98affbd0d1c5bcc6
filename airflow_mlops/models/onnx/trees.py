"""Split large tree ensembles in ONNX into pieces that fit into a processor's cache.

ONNX Runtime evaluates all trees of an ensemble for one row before it starts the next row. An ensemble that is larger
than the cache is therefore loaded from memory again for every row. Prediction takes less than half the time if each
piece is evaluated for many rows before the next piece. The outputs of the pieces are added.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Approximate number of tree nodes per piece, which take about half a megabyte in ONNX Runtime.
NODES = 16_384


def split_forests(model: ModelProto) -> ModelProto:
    """Split the large tree ensembles in ``model``, in place.

    Inputs and outputs stay the same. Predictions change only by rounding.
    """
    nodes = [part for node in model.graph.node for part in _split(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _split(node: NodeProto) -> Iterator[NodeProto]:
    from onnx import helper

    ensemble = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if not _can_be_split(node, ensemble):
        yield node
        return
    classifier = node.op_type == "TreeEnsembleClassifier"
    scores = node.output[1] if classifier else node.output[0]
    classes: list[Any] = ensemble.get("classlabels_int64s") or ensemble.get("classlabels_strings") or []
    # For two classes, skl2onnx stores only the weights of the second class.
    one_of_two = classifier and len(set(ensemble["class_ids"])) == 1
    names = []
    for number, piece in enumerate(_pieces(ensemble, "class" if classifier else "target")):
        names.append(f"{scores}_piece_{number}")
        yield helper.make_node(
            "TreeEnsembleRegressor",
            list(node.input),
            [names[-1]],
            domain="ai.onnx.ml",
            n_targets=ensemble["n_targets"] if not classifier else 1 if one_of_two else len(classes),
            # The base values are added only once.
            **({"base_values": ensemble["base_values"]} if "base_values" in ensemble and number == 0 else {}),
            **piece,
        )
    if one_of_two:
        second, first, one = f"{scores}_second", f"{scores}_first", f"{scores}_one"
        yield helper.make_node("Sum", names, [second])
        yield helper.make_node("Constant", [], [one], value_float=1.0)
        yield helper.make_node("Sub", [one, second], [first])
        yield helper.make_node("Concat", [first, second], [scores], axis=1)
    else:
        yield helper.make_node("Sum", names, [scores])
    if classifier:
        known, best = f"{scores}_classes", f"{scores}_best"
        labels: dict[str, Any] = {"value_strings" if isinstance(classes[0], bytes) else "value_ints": classes}
        yield helper.make_node("Constant", [], [known], **labels)
        yield helper.make_node("ArgMax", [scores], [best], axis=1, keepdims=0)
        yield helper.make_node("Gather", [known, best], [node.output[0]])


def _can_be_split(node: NodeProto, ensemble: dict[str, Any]) -> bool:
    if node.op_type not in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
        return False
    if len(ensemble.get("nodes_treeids", ())) <= NODES or any(name.endswith("_as_tensor") for name in ensemble):
        return False
    if ensemble.get("post_transform", b"NONE") != b"NONE" or ensemble.get("aggregate_function", b"SUM") != b"SUM":
        return False
    if node.op_type == "TreeEnsembleRegressor":
        return True
    classes = ensemble.get("classlabels_int64s") or ensemble.get("classlabels_strings") or ()
    given = len(set(ensemble["class_ids"]))
    # With negative weights, the decision threshold between two classes is not 0.5.
    return given == len(classes) or (given == 1 and len(classes) == 2 and min(ensemble["class_weights"]) >= 0)


def _pieces(ensemble: dict[str, Any], leaf: str) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each piece, a smaller ensemble of whole trees with about :data:`NODES` nodes in total.

    :param ensemble: the attributes of the ensemble, by name
    :param leaf: prefix of the names of the attributes of leaves: ``class`` or ``target``
    """
    trees, first, sizes = np.unique(ensemble["nodes_treeids"], return_index=True, return_counts=True)
    order = np.argsort(first)
    ends = np.cumsum(sizes[order])
    piece_of = dict(zip(trees[order].tolist(), ((ends - 1) // NODES).tolist(), strict=True))
    by_node = np.array([piece_of[tree] for tree in ensemble["nodes_treeids"]])
    by_leaf = np.array([piece_of[tree] for tree in ensemble[f"{leaf}_treeids"]])
    for piece in np.unique(by_node):
        at_nodes, at_leaves = np.flatnonzero(by_node == piece), np.flatnonzero(by_leaf == piece)
        taken = {
            name: [values[index] for index in at_nodes]
            for name, values in ensemble.items()
            if name.startswith("nodes_")
        }
        for name in ("ids", "nodeids", "treeids", "weights"):
            values = ensemble[f"{leaf}_{name}"]
            taken[f"target_{name}"] = [values[index] for index in at_leaves]
        yield taken
