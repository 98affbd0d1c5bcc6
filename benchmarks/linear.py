"""Ridge and logistic regression in a few matrix products, for benchmarks that fit thousands of small models.

With a basis, they stand in for other kinds of models: products of features for interactions, and steps for trees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models.scorer import from_values

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_STEPS, _PRECISION, _LARGEST = 10, 1e-6, 30.0
Basis = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]


@dataclass(frozen=True)
class Linear:
    """A linear model with the penalty of scikit-learn's ``Ridge()`` and ``LogisticRegression()``.

    :param mean: mean of each input, shape (d,)
    :param weights: weight of each input, shape (d,)
    :param basis: computes the inputs from the features; ``None`` if the inputs are the features
    """

    contract: ModelContract
    mean: NDArray[np.float64]
    weights: NDArray[np.float64]
    intercept: float
    basis: Basis | None = None

    @classmethod
    def fit(cls, contract: ModelContract, rows: pa.Table, basis: Basis | None = None) -> Linear:
        """Fit a model to the features and the column ``label`` of ``rows``."""
        inputs, label = _matrix(contract, rows, basis), rows.column(LABEL).to_numpy().astype(float)
        mean = inputs.mean(axis=0)
        inputs = inputs - mean
        if contract.task == "regression":
            gram = inputs.T @ inputs + np.eye(inputs.shape[1])
            level = float(label.mean())
            return cls(contract, mean, np.linalg.solve(gram, inputs.T @ (label - level)), level, basis)
        inputs = np.column_stack([np.ones(len(inputs)), inputs])
        penalty = np.diag([0.0, *[1.0] * (inputs.shape[1] - 1)])
        found = np.zeros(inputs.shape[1])
        for _ in range(_STEPS):  # Newton's method
            chance = _logistic(inputs @ found)
            hessian = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + penalty
            step = np.linalg.solve(hessian, inputs.T @ (label - chance) - penalty @ found)
            found = found + step
            if np.abs(step).max() < _PRECISION:
                break
        return cls(contract, mean, found[1:], float(found[0]), basis)

    def predict(self, rows: pa.Table) -> Predictions:
        """Predict every row of ``rows``."""
        score = self.intercept + (_matrix(self.contract, rows, self.basis) - self.mean) @ self.weights
        if self.contract.task == "regression":
            return from_values(score[:, None], self.contract)
        chance = _logistic(score)
        return from_values(np.column_stack([1 - chance, chance]), self.contract)


def products(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the features and the product of each two neighbours, shape (n, 2d)."""
    return np.column_stack([features, features * np.roll(features, 1, axis=1)])


def steps(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return whether each feature is above -1, 0 and 1, shape (n, 3d)."""
    return np.column_stack([(features > edge).astype(float) for edge in (-1.0, 0.0, 1.0)])


def _matrix(contract: ModelContract, rows: pa.Table, basis: Basis | None) -> NDArray[np.float64]:
    features = np.column_stack([rows.column(feature.name).to_numpy() for feature in contract.features])
    return features if basis is None else basis(features)


def _logistic(score: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(score, -_LARGEST, _LARGEST)))
    return found
