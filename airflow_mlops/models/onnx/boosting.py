"""Export boosted trees of XGBoost, LightGBM and CatBoost to ONNX, with their categories and missing values.

The graph encodes the values of text features as category codes, evaluates all trees in a ``TreeEnsembleRegressor``,
adds the base score in double precision, and applies the link function of the objective. A split by a few categories
becomes a chain of ``BRANCH_EQ`` nodes that share one child. For a split by many categories, such a chain would be slow.
Instead, a table gives each category 1 or 0, and the split compares the column of these numbers with 0.5.

``onnxmltools`` (1.16) is not used: it takes 20 ms for each tree, expects one numeric input, and does not export
CatBoost models. CatBoost's own export refuses models with categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from airflow_mlops.core.contract import FeatureColumn
from airflow_mlops.models.onnx.trees import split_forests

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

OPSET = 18
_ML = "ai.onnx.ml"

Link = Literal["identity", "log", "logit", "softmax"]
# Largest number of categories in a split that becomes a chain. Splits by more categories compare a column of a table.
_CHAIN = 3
# Names of the comparisons in ONNX.
BELOW, AT_MOST, ABOVE, IN = "BRANCH_LT", "BRANCH_LEQ", "BRANCH_GT", "BRANCH_EQ"


@dataclass
class Tree:
    """A decision tree. All arrays have one entry for each node, and node 0 is the root.

    :param feature: column that the node compares; -1 for a leaf
    :param mode: comparison of the node: ``BRANCH_LT``, ``BRANCH_LEQ``, ``BRANCH_GT``, or ``BRANCH_EQ`` for categories
    :param threshold: the number that the node compares with
    :param true: child for rows for which the comparison is true
    :param false: child for other rows
    :param missing_true: whether a missing value takes the branch ``true``
    :param leaves: value of each leaf for each of ``targets``, shape (nodes, targets)
    :param targets: outputs to which the tree adds
    :param members: for each node that tests categories, the category codes of the branch ``true``
    """

    feature: NDArray[np.int64]
    mode: NDArray[Any]
    threshold: NDArray[np.float32]
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    missing_true: NDArray[np.bool_]
    leaves: NDArray[np.float64]
    targets: Sequence[int] = (0,)
    members: dict[int, NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True)
class CategoryNumbers:
    """A column that replaces each category of a text feature with a number, such as a target statistic of CatBoost.

    :param feature: position of the text feature
    :param values: number of each category code, followed by the number of all other values
    """

    feature: int
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Ensemble:
    """The trees of a boosted model.

    The columns that the trees compare are the features in order, followed by ``extra``.

    :param trees: the trees
    :param base: start value of each output, to which the trees add
    :param link: name of the function that converts the sums to probabilities or values
    :param extra: columns of numbers that replace categories of text features
    :param scale: factor of the sums
    """

    trees: list[Tree]
    base: NDArray[np.float64]
    link: Link
    extra: Sequence[CategoryNumbers] = ()
    scale: float = 1.0


def to_onnx(
    ensemble: Ensemble, features: Sequence[FeatureColumn], vocabularies: dict[str, list[str]], unknown: str = "missing"
) -> ModelProto:
    """Convert boosted trees to ONNX, with one input per feature.

    The output is ``probabilities``, shape (n, k), or ``value``, shape (n, 1), in double precision.

    :param ensemble: the trees
    :param features: the features, in the order in which the model was fitted
    :param vocabularies: for each text feature, its values in the order of their category codes
    :param unknown: ``missing`` if a value without a code is a missing value; ``category`` if it is one more category
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph({item.name for item in features})
    columns, inputs = [], []
    for item in features:
        text = item.kind == "string"
        kind = TensorProto.STRING if text else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(item.name, kind, [None, 1]))
        columns.append(_codes(graph, item.name, vocabularies[item.name], unknown) if text else item.name)
    positions: dict[int, str] = {}

    def table(feature: int, values: NDArray[Any], kind: Any) -> str:
        """Add the nodes that replace the category of each row with a value.

        :param feature: position of the text feature
        :param values: the value of each category code, followed by the value for all texts without a code
        :param kind: NumPy type of the values
        """
        name = features[feature].name
        if feature not in positions:
            known = vocabularies[name]
            codes = list(range(len(known))) or [0]
            positions[feature] = graph.add(
                "LabelEncoder", name, keys_strings=known or [""], values_int64s=codes, default_int64=len(known)
            )
        return graph.add("Gather", graph.constant(values, kind), positions[feature])

    columns += [table(extra.feature, extra.values, np.float32) for extra in ensemble.extra]
    trees, sets = _with_sets(
        ensemble,
        {place: len(vocabularies[item.name]) for place, item in enumerate(features) if item.kind == "string"},
        len(columns),
    )
    for feature, members in sets:
        found = graph.add("Squeeze", table(feature, members, np.uint8), graph.constant([1], np.int64))
        columns.append(graph.add("Cast", found, to=TensorProto.FLOAT))
    ensemble = replace(ensemble, trees=trees)
    rows = graph.add("Concat", *columns, axis=1)
    scores = graph.add("TreeEnsembleRegressor", rows, n_targets=len(ensemble.base), **_attributes(_centred(ensemble)))
    total = graph.add("Cast", scores, to=TensorProto.DOUBLE)
    base = ensemble.base + _offset(ensemble)
    total = graph.add("Add", total, graph.constant(base.reshape(1, -1), np.float64))
    if ensemble.scale != 1:
        total = graph.add("Mul", total, graph.constant(ensemble.scale, np.float64))
    output = _answer(graph, total, ensemble)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_ML, 3)]
    model: ModelProto = helper.make_model(
        helper.make_graph(graph.nodes, "boosting", inputs, [output], graph.constants),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    onnx.checker.check_model(model)
    return split_forests(model)


def _codes(graph: _Graph, name: str, known: list[str], unknown: str) -> str:
    other = float("nan") if unknown == "missing" else float(len(known))
    return graph.add(
        "LabelEncoder",
        name,
        # ONNX Runtime refuses a table without entries.
        keys_strings=known or [""],
        values_floats=[float(code) for code in range(len(known))] or [other],
        default_float=other,
    )


def _answer(graph: _Graph, total: str, ensemble: Ensemble) -> Any:
    from onnx import TensorProto, helper

    classes = len(ensemble.base)
    if ensemble.link in ("identity", "log"):
        found = graph.add("Identity" if ensemble.link == "identity" else "Exp", total, output="value")
        return helper.make_tensor_value_info(found, TensorProto.DOUBLE, [None, 1])
    if ensemble.link == "softmax":
        found = graph.add("Softmax", total, output="probabilities", axis=1)
    else:
        positive, classes = graph.add("Sigmoid", total), 2
        negative = graph.add("Sub", graph.constant(1, np.float64), positive)
        found = graph.add("Concat", negative, positive, output="probabilities", axis=1)
    return helper.make_tensor_value_info(found, TensorProto.DOUBLE, [None, classes])


class _Graph:
    """The nodes and constants of a graph. Their names differ from those of the features."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self.nodes: list[NodeProto] = []
        self.constants: list[Any] = []

    def _name(self, wanted: str) -> str:
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = self._name(output or f"{kind} {len(self.nodes)}")
        domain = {"domain": _ML} if kind in ("LabelEncoder", "TreeEnsembleRegressor") else {}
        self.nodes.append(helper.make_node(kind, inputs, [name], **domain, **attributes))
        return name

    def constant(self, value: Any, kind: Any) -> str:
        from onnx import numpy_helper

        name = self._name(f"constant {len(self.constants)}")
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name


def _means(tree: Tree) -> NDArray[np.float64]:
    return np.asarray(tree.leaves[tree.feature < 0].mean(axis=0))


def _offset(ensemble: Ensemble) -> NDArray[np.float64]:
    total = np.zeros_like(ensemble.base)
    for tree in ensemble.trees:
        total[list(tree.targets)] += _means(tree)
    return total


def _centred(ensemble: Ensemble) -> list[tuple[Tree, NDArray[np.float64]]]:
    """Return each tree with the values of its leaves minus the mean of these values.

    ONNX Runtime adds the leaves of all trees in float32, where sums of smaller numbers have smaller rounding errors.
    """
    return [(tree, tree.leaves - _means(tree)) for tree in ensemble.trees]


def _attributes(trees: list[tuple[Tree, NDArray[np.float64]]]) -> dict[str, Any]:
    parts: dict[str, list[NDArray[Any]]] = {}

    def put(**arrays: Any) -> None:
        for name, values in arrays.items():
            parts.setdefault(name, []).append(np.asarray(values))

    for number, (compact, leaves) in enumerate(trees):
        tree = _with_chains(compact)
        count, leaf = len(tree.feature), tree.feature < 0
        put(
            nodes_treeids=np.full(count, number),
            nodes_nodeids=np.arange(count),
            nodes_featureids=np.where(leaf, 0, tree.feature),
            nodes_modes=np.where(leaf, "LEAF", tree.mode),
            nodes_values=np.where(leaf, 0, tree.threshold).astype(np.float32),
            nodes_truenodeids=np.where(leaf, 0, tree.true),
            nodes_falsenodeids=np.where(leaf, 0, tree.false),
            nodes_missing_value_tracks_true=np.where(leaf, False, tree.missing_true).astype(np.int64),
        )
        places = np.flatnonzero(compact.feature < 0)
        width = len(tree.targets)
        put(
            target_treeids=np.full(len(places) * width, number),
            target_nodeids=np.repeat(places, width),
            target_ids=np.tile(np.asarray(tree.targets), len(places)),
            target_weights=leaves[places].ravel(),
        )
    return {name: np.concatenate(values).tolist() for name, values in parts.items()}


def _with_sets(
    ensemble: Ensemble, sizes: dict[int, int], first: int
) -> tuple[list[Tree], list[tuple[int, NDArray[np.uint8]]]]:
    """Replace each split by more than ``_CHAIN`` categories with a comparison of a new column of zeros and ones.

    :param ensemble: the trees
    :param sizes: number of categories of each text feature, by position of the feature
    :param first: number of columns before the new columns
    :return: two items: the trees, and a list of pairs, one for each text feature with new columns. A pair is the
        position of the feature and a table of shape (categories + 1, new columns) with the value of each column for
        each category. The last row of the table is for all values without a category code
    """
    found: dict[int, dict[bytes, int]] = {}
    rows: dict[int, list[NDArray[np.uint8]]] = {}
    splits: list[tuple[int, int, int, int]] = []
    for number, tree in enumerate(ensemble.trees):
        for node, codes in tree.members.items():
            if len(codes) <= _CHAIN:
                continue
            feature = int(tree.feature[node])
            values = np.zeros(sizes[feature] + 1, np.uint8)
            # A code beyond the vocabulary stands for no text.
            values[codes[codes < sizes[feature]]] = 1
            values[-1] = tree.missing_true[node]
            place = found.setdefault(feature, {}).setdefault(values.tobytes(), len(found[feature]))
            if place == len(rows.setdefault(feature, [])):
                rows[feature].append(values)
            splits.append((number, node, feature, place))
    starts, end = {}, first
    for feature, columns in rows.items():
        starts[feature], end = end, end + len(columns)
    trees = list(ensemble.trees)
    for number, node, feature, place in splits:
        if trees[number] is ensemble.trees[number]:
            tree = trees[number]
            trees[number] = replace(
                tree,
                feature=tree.feature.copy(),
                mode=tree.mode.copy(),
                threshold=tree.threshold.copy(),
                members=dict(tree.members),
            )
        tree = trees[number]
        tree.feature[node], tree.mode[node], tree.threshold[node] = starts[feature] + place, ABOVE, 0.5
        del tree.members[node]
    return trees, [(feature, np.stack(columns, axis=1)) for feature, columns in rows.items()]


def _with_chains(tree: Tree) -> Tree:
    """Return the tree with a chain of comparisons, one for each category, in place of each split by categories."""
    if not tree.members:
        return tree
    fields: dict[str, list[Any]] = {
        name: getattr(tree, name).tolist() for name in ("feature", "mode", "threshold", "true", "false", "missing_true")
    }
    for node, given in tree.members.items():
        # No category has the code -1, so the comparison is never true.
        codes = given if len(given) else np.array([-1])
        last = fields["false"][node]
        place = node
        for position, code in enumerate(codes.tolist()):
            if position:
                fields["false"][place] = len(fields["feature"])
                place = len(fields["feature"])
                for name, value in (
                    ("feature", fields["feature"][node]),
                    ("true", fields["true"][node]),
                    ("missing_true", fields["missing_true"][node]),
                    ("mode", IN),
                    ("threshold", 0.0),
                    ("false", last),
                ):
                    fields[name].append(value)
            fields["threshold"][place], fields["mode"][place] = float(code), IN
        fields["false"][place] = last
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in fields.items()}
    return Tree(**arrays, leaves=tree.leaves, targets=tree.targets)
