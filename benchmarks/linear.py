"""Ridge and logistic regression in a few matrix products, for benchmarks that fit thousands of small models."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Linear:
    """A linear model with the penalty of scikit-learn's ``Ridge()`` and ``LogisticRegression()``.

    :param mean: mean of each feature, shape (d,)
    :param weights: weight of each feature, shape (d,)
    """

    contract: ModelContract
    mean: NDArray[np.float64]
    weights: NDArray[np.float64]
    intercept: float

    @classmethod
    def fit(cls, contract: ModelContract, rows: pa.Table) -> Linear:
        """Fit a model to the features and the column ``label`` of ``rows``."""
        inputs, label = _matrix(contract, rows), rows.column(LABEL).to_numpy().astype(float)
        mean = inputs.mean(axis=0)
        inputs = inputs - mean
        if contract.task == "regression":
            gram = inputs.T @ inputs + np.eye(inputs.shape[1])
            level = float(label.mean())
            return cls(contract, mean, np.linalg.solve(gram, inputs.T @ (label - level)), level)
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
        return cls(contract, mean, found[1:], float(found[0]))

    def predict(self, rows: pa.Table) -> Predictions:
        """Predict every row of ``rows``."""
        score = self.intercept + (_matrix(self.contract, rows) - self.mean) @ self.weights
        if self.contract.task == "regression":
            return from_values(score[:, None], self.contract)
        chance = _logistic(score)
        return from_values(np.column_stack([1 - chance, chance]), self.contract)


def _matrix(contract: ModelContract, rows: pa.Table) -> NDArray[np.float64]:
    return np.column_stack([rows.column(feature.name).to_numpy() for feature in contract.features])


def _logistic(score: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(score, -_LARGEST, _LARGEST)))
    return found
