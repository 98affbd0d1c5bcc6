"""What evaluation and scoring ask of a model, wherever it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.metrics.predictions import Predictions

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


class Scorer(Protocol):
    """A loaded model.

    :param size_bytes: how large its stored form is
    """

    contract: ModelContract
    size_bytes: int

    @property
    def engine(self) -> str:
        """What computes the predictions, for logs and reports."""

    def predict(self, data: pa.RecordBatch | pa.Table) -> Predictions:
        """Predict every row of ``data``; it may have more columns than the features, in any order.

        :raises SchemaError: a feature is missing, or has another type than the model takes
        """


def from_values(found: NDArray[np.float64], contract: ModelContract) -> Predictions:
    """The predictions of a model that gives a probability for each class, shape (n, k), or a value, shape (n, 1)."""
    if contract.task == "regression":
        return Predictions(found[:, 0], found[:, 0], None)
    classes = class_labels(contract)
    if contract.task == "multiclass":
        return Predictions(classes[found.argmax(axis=1)], found.max(axis=1), found)
    positive = contract.classes.index(contract.positive)
    score = np.ascontiguousarray(found[:, positive])
    return Predictions(classes[np.where(score >= contract.threshold, positive, 1 - positive)], score, found)


def class_labels(contract: ModelContract) -> NDArray[Any]:
    """The contract's classes, shape (k,); text as objects."""
    classes = np.asarray(contract.classes)
    return classes.astype(object) if classes.dtype.kind == "U" else classes
