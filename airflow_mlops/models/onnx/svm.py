"""Rewrite support vector machines in ONNX as matrix products.

ONNX Runtime's SVMRegressor and SVMClassifier compare one row with one support vector at a time. A matrix product of
many rows and many support vectors computes the same kernel in a tenth of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Support vectors per matrix product. The result for some thousand rows fits into the processor's cache.
VECTORS = 512


def multiply_kernels(model: ModelProto) -> ModelProto:
    """Rewrite the support vector machines in ``model`` as matrix products, in place.

    Inputs and outputs stay the same. Predictions change only by rounding. Classifiers of more than two classes and
    classifiers with built-in probabilities (``SVC(probability=True)``) stay unchanged, because scikit-learn computes
    their probabilities by an iteration that stops early.

    :param model: the ONNX model
    :return: the same object
    """
    nodes: list[NodeProto] = []
    precision = np.float64 if _is_double(model) else np.float32
    for node in model.graph.node:
        nodes.extend(_Machine(node, model.graph.initializer, precision).nodes if _is_supported(node) else [node])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _is_double(model: ModelProto) -> bool:
    from onnx import TensorProto

    return any(item.type.tensor_type.elem_type == TensorProto.DOUBLE for item in model.graph.input)


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _is_supported(node: NodeProto) -> bool:
    if node.op_type == "SVMRegressor":
        return True
    if node.op_type != "SVMClassifier":
        return False
    svm = _attributes(node)
    return len(svm["vectors_per_class"]) == 2 and "prob_a" not in svm


class _Machine:
    """Builds the ONNX nodes that replace one support vector machine."""

    def __init__(self, node: NodeProto, initializers: Any, precision: type) -> None:
        self._svm = _attributes(node)
        self._rows, self._prefix = node.input[0], node.output[-1]
        self._initializers = initializers
        self._precision = precision
        self.nodes: list[NodeProto] = []
        if node.op_type == "SVMRegressor":
            self._add("Identity", self._decision(), output=node.output[0])
        else:
            self._classify(self._decision(), *node.output)

    def _add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{self._prefix}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _constant(self, value: Any, kind: type | None = None) -> str:
        from onnx import numpy_helper

        name = f"{self._prefix}_constant_{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.asarray(value, dtype=kind or self._precision), name))
        return name

    def _decision(self) -> str:
        """Add the nodes that compute the decision function, shape (n, 1)."""
        svm = self._svm
        width = svm.get("n_supports") or sum(svm["vectors_per_class"])
        vectors = np.reshape(svm["support_vectors"], (width, -1))
        weights = np.reshape(svm["coefficients"], (width, 1))
        parts = [self._constant([svm["rho"][:1]])]
        if svm["kernel_type"] == b"LINEAR":
            parts.append(self._add("MatMul", self._rows, self._constant(vectors.T @ weights)))
            return self._add("Sum", *parts)
        lengths = self._lengths(vectors.shape[1]) if svm["kernel_type"] == b"RBF" else ""
        for first in range(0, width, VECTORS):
            kernel = self._kernel(vectors[first : first + VECTORS], lengths)
            parts.append(self._add("MatMul", kernel, self._constant(weights[first : first + VECTORS])))
        return self._add("Sum", *parts)

    def _lengths(self, width: int) -> str:
        squares = self._add("Mul", self._rows, self._rows)
        return self._add("MatMul", squares, self._constant(np.full((width, 1), self._svm["kernel_params"][0])))

    def _kernel(self, vectors: Any, lengths: str) -> str:
        kind, (gamma, offset, degree) = self._svm["kernel_type"], self._svm["kernel_params"]
        if kind == b"RBF":
            # exp(-gamma |x - v|^2), where |x - v|^2 = |x|^2 - 2 x v + |v|^2
            own = self._constant(-gamma * (vectors**2).sum(axis=1))
            inner = self._add("Gemm", self._rows, self._constant(2 * gamma * vectors), own, transB=1)
            return self._add("Exp", self._add("Sub", inner, lengths))
        # (gamma x v + offset) ^ degree, or its tanh
        inner = self._add(
            "Gemm", self._rows, self._constant(gamma * vectors), self._constant(np.full(len(vectors), offset)), transB=1
        )
        return self._add("Pow", inner, self._constant(degree)) if kind == b"POLY" else self._add("Tanh", inner)

    def _classify(self, decision: str, label: str, scores: str) -> None:
        # For two classes, ONNX Runtime outputs scikit-learn's decision function first and its negative second.
        opposite = self._add("Neg", decision)
        self._add("Concat", opposite, decision, output=scores, axis=1)
        best = self._add("ArgMin", scores, axis=1, keepdims=0)
        names, numbers = self._svm.get("classlabels_strings"), self._svm.get("classlabels_ints")
        classes = (
            self._constant([name.decode() for name in names], object) if names else self._constant(numbers, np.int64)
        )
        self._add("Gather", classes, best, output=label)
