"""Export Explainable Boosting Machines (EBM) to ONNX.

An EBM looks up the bin of each feature value and adds the scores of these bins in double precision. In the ONNX graph,
a decision tree finds the bin of a numeric feature, and a dictionary finds the bin of a text feature. The package
``ebm2onnx`` (3.3) is not used: it cannot export regression and multiclass models with interactions, and the inputs of
its graphs differ from the inputs of the other models in this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import FeatureColumn
from airflow_mlops.core.errors import ModelFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, ValueInfoProto

OPSET = 18
_ML = "ai.onnx.ml"
# Bin of nulls. The last bin is for values that do not occur in the training data.
MISSING = 0


def to_onnx(ebm: Any, features: Sequence[FeatureColumn]) -> ModelProto:
    """Convert an EBM to ONNX, with one input per feature.

    The outputs are ``label`` and ``probabilities`` for a classifier, and ``value`` for a regressor.

    :param ebm: a fitted ExplainableBoostingClassifier or ExplainableBoostingRegressor
    :param features: the features that the EBM was fitted to. A feature that no term uses does not become an input
    :raises ModelFormatError: the EBM was fitted to columns that are not features, treats a text feature as numeric or a
        numeric feature as text, or has a link function that is not supported
    """
    import onnx
    from onnx import helper

    graph = _Graph(ebm, features)
    outputs = graph.build()
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_ML, 3)]
    model: ModelProto = helper.make_model(
        helper.make_graph(graph.nodes, "ebm", graph.inputs, outputs, graph.constants),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    onnx.checker.check_model(model)
    return model


def bins(ebm: Any, feature: int, width: int) -> Any:
    """Return the bins of a feature.

    The bins of a feature in main effects may differ from the bins of the same feature in interactions. Bins are
    numbered from 1.

    :param ebm: a fitted EBM
    :param feature: position of the feature
    :param width: number of features in the term, 1 for a main effect and 2 or more for an interaction
    :return: text feature: ``{text: bin}``; numeric feature: the ascending cuts between the bins. A value equal to a cut
        belongs to the bin above that cut
    """
    levels = ebm.bins_[feature]
    return levels[min(len(levels), width) - 1]


class _Graph:
    """Builds the ONNX graph of an EBM: its nodes, constants and inputs."""

    def __init__(self, ebm: Any, features: Sequence[FeatureColumn]) -> None:
        self._ebm = ebm
        self._features = _fitted_features(ebm, features)
        self._names = {feature.name for feature in features}
        self.nodes: list[NodeProto] = []
        self.constants: list[Any] = []
        self.inputs: list[ValueInfoProto] = []
        # Name of the value with the bins, by (position of the feature, number of features in the term).
        self._bins: dict[tuple[int, int], str] = {}

    def build(self) -> list[ValueInfoProto]:
        """Create all nodes, and return the graph's outputs."""
        from onnx import TensorProto, helper

        # The pairs (position of the feature, number of features in the term), one for each set of bins in use.
        used = dict.fromkeys(
            (feature, min(len(self._ebm.bins_[feature]), len(term)))
            for term in self._ebm.term_features_
            for feature in term
        )
        for feature in dict.fromkeys(feature for feature, _ in used):
            kind = TensorProto.STRING if self._is_text(feature) else TensorProto.FLOAT
            self.inputs.append(helper.make_tensor_value_info(self._features[feature].name, kind, [None, 1]))
        self._number_bins([item for item in used if not self._is_text(item[0])])
        for feature, width in used:
            if self._is_text(feature):
                self._text_bins(feature, width)
        terms = [self._term(number) for number in range(len(self._ebm.term_features_))]
        score = self._add("Sum", *terms, self._constant(np.reshape(self._ebm.intercept_, (1, -1)), np.float64))
        return self._answer(score)

    def _is_text(self, feature: int) -> bool:
        return self._features[feature].kind == "string"

    def _name(self, wanted: str) -> str:
        """Return a unique name that starts with ``wanted``."""
        while wanted in self._names:
            wanted += "_"
        self._names.add(wanted)
        return wanted

    def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = self._name(attributes.pop("output", f"{kind} {len(self.nodes)}"))
        domain = {"domain": _ML} if kind in ("LabelEncoder", "TreeEnsembleRegressor") else {}
        self.nodes.append(helper.make_node(kind, inputs, [output], **domain, **attributes))
        return output

    def _constant(self, value: Any, kind: Any) -> str:
        from onnx import numpy_helper

        name = self._name(f"constant {len(self.constants)}")
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def _number_bins(self, used: list[tuple[int, int]]) -> None:
        """Add a decision tree for each numeric feature and each number of features in a term.

        :param used: the pairs (position of the feature, number of features in the term)
        """
        from onnx import TensorProto

        if not used:
            return
        columns = list(dict.fromkeys(feature for feature, _ in used))
        rows = self._add("Concat", *(self._features[feature].name for feature in columns), axis=1)
        trees = _Trees()
        for target, (feature, width) in enumerate(used):
            trees.add(_single(bins(self._ebm, feature, width)), columns.index(feature), target)
        found = self._add("TreeEnsembleRegressor", rows, n_targets=len(used), **trees.attributes)
        places = self._add("Cast", found, to=TensorProto.INT64)
        for target, (feature, width) in enumerate(used):
            self._bins[feature, width] = self._add("Gather", places, self._constant([target], np.int64), axis=1)

    def _text_bins(self, feature: int, width: int) -> None:
        known = bins(self._ebm, feature, width)
        self._bins[feature, width] = self._add(
            "LabelEncoder",
            self._features[feature].name,
            keys_strings=list(known),
            values_int64s=[int(place) for place in known.values()],
            default_int64=max(known.values(), default=0) + 1,
        )

    def _term(self, number: int) -> str:
        """Add the nodes that compute a term's contribution to the scores, shape (n, k)."""
        features, scores = self._ebm.term_features_[number], self._ebm.term_scores_[number]
        place = ""
        for feature, size in zip(features, scores.shape, strict=False):
            own = self._bins[feature, min(len(self._ebm.bins_[feature]), len(features))]
            place = self._add("Add", self._add("Mul", place, self._constant(size, np.int64)), own) if place else own
        table = scores.reshape(int(np.prod(scores.shape[: len(features)])), -1)
        found = self._add("Gather", self._constant(table, np.float64), place, axis=0)
        return self._add("Squeeze", found, self._constant([1], np.int64))

    def _answer(self, score: str) -> list[ValueInfoProto]:
        from onnx import TensorProto, helper

        link, double = self._ebm.link_, TensorProto.DOUBLE
        if link in ("identity", "log"):
            value = self._add("Identity" if link == "identity" else "Exp", score, output="value")
            return [helper.make_tensor_value_info(value, double, [None, 1])]
        if link == "logit":
            positive = self._add("Sigmoid", score)
            negative = self._add("Sub", self._constant(1, np.float64), positive)
            found = self._add("Concat", negative, positive, output="probabilities", axis=1)
        elif link == "mlogit":
            found = self._add("Softmax", score, output="probabilities", axis=1)
        else:
            raise ModelFormatError(
                f"An EBM with the link function {link!r} cannot be exported to ONNX. In `params`, set an `objective` with "
                "the link function identity, log, logit or mlogit."
            )
        classes = self._ebm.classes_
        text = classes.dtype.kind in "OU"
        known = self._constant(classes, object if text else np.int64)
        best = self._add("ArgMax", found, axis=1, keepdims=0)
        label = self._add("Gather", known, best, output="label")
        return [
            helper.make_tensor_value_info(label, TensorProto.STRING if text else TensorProto.INT64, [None]),
            helper.make_tensor_value_info(found, double, [None, len(classes)]),
        ]


def _fitted_features(ebm: Any, features: Sequence[FeatureColumn]) -> list[FeatureColumn]:
    """Return the features in the order in which the EBM was fitted to them.

    :raises ModelFormatError: the EBM was fitted to a column that is not a feature, or treats a feature as the wrong
        type
    """
    known = {feature.name: feature for feature in features}
    for place, name in enumerate(ebm.feature_names_in_):
        if name not in known:
            raise ModelFormatError(
                f"The EBM was fitted to the column {name!r}, which is not a feature. In the training function, fit "
                "the EBM to the DataFrame `X`, which has column names, and not to an array."
            )
        # A feature that no term uses has no bins.
        if ebm.bins_[place] and (known[name].kind == "string") != isinstance(bins(ebm, place, 1), dict):
            raise ModelFormatError(
                f"The EBM treats the {'text' if known[name].kind == 'string' else 'numeric'} feature {name!r} as "
                f"{ebm.feature_types_in_[place]!r}. In `params`, set `feature_types` to 'continuous' for each numeric "
                "feature and to 'nominal' for each text feature, or remove `feature_types`."
            )
    return [known[name] for name in ebm.feature_names_in_]


def _single(cuts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round the cuts up to single precision. Each float32 value stays in the same bin as with the original cuts."""
    rounded = cuts.astype(np.float32)
    return np.where(rounded < cuts, np.nextafter(rounded, np.float32(np.inf)), rounded)


class _Trees:
    """Decision trees that find bins by binary search, in one TreeEnsembleRegressor. The leaves are bin numbers."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {
            f"nodes_{name}": []
            for name in (
                "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
                "missing_value_tracks_true",
            )
        } | {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}  # fmt: skip

    def add(self, cuts: NDArray[np.float32], feature: int, target: int) -> None:
        self._feature, self._target, self._size = feature, target, 0
        # No number is below minus infinity, so only nulls (NaN) take this branch.
        root = self._node("BRANCH_LT", -np.inf, missing=True)
        self._branches(root, self._leaf(MISSING), self._search(cuts, 0, len(cuts)))

    def _search(self, cuts: NDArray[np.float32], low: int, high: int) -> int:
        if low == high:
            return self._leaf(low + 1)
        middle = (low + high) // 2
        node = self._node("BRANCH_LT", float(cuts[middle]))
        self._branches(node, self._search(cuts, low, middle), self._search(cuts, middle + 1, high))
        return node

    def _branches(self, node: int, true: int, false: int) -> None:
        place = len(self.attributes["nodes_nodeids"]) - self._size + node
        self.attributes["nodes_truenodeids"][place] = true
        self.attributes["nodes_falsenodeids"][place] = false

    def _node(self, mode: str, value: float, missing: bool = False) -> int:
        number, self._size = self._size, self._size + 1
        fields = {
            "treeids": self._target, "nodeids": number, "featureids": self._feature, "modes": mode, "values": value,
            "truenodeids": 0, "falsenodeids": 0, "missing_value_tracks_true": int(missing),
        }  # fmt: skip
        for name, field in fields.items():
            self.attributes[f"nodes_{name}"].append(field)
        return number

    def _leaf(self, number: int) -> int:
        node = self._node("LEAF", 0.0)
        fields = {"treeids": self._target, "nodeids": node, "ids": self._target, "weights": float(number)}
        for name, field in fields.items():
            self.attributes[f"target_{name}"].append(field)
        return node
