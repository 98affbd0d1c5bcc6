"""The interface of a loaded model, used by evaluation and scoring."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.metrics.predictions import Predictions

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


class Scorer(Protocol):
    """A loaded model that predicts Arrow data.

    :param contract: the model contract (features, label, ML task)
    :param size_bytes: size of the stored model, in bytes
    """

    contract: ModelContract
    size_bytes: int

    @property
    def engine(self) -> str:
        """Return the name of the engine that computes the predictions, for logs and reports."""

    def predict(self, data: pa.RecordBatch | pa.Table) -> Predictions:
        """Predict every row of ``data``. Columns may be in any order, and other columns are ignored.

        :raises SchemaError: a feature is absent or has the wrong type
        """

    def shuffled(self, data: pa.Table) -> Callable[[str, NDArray[np.int64]], Predictions]:
        """Return a function that predicts ``data`` after the values of one feature were reordered.

        The function takes the name of the feature and, for each row, the position of the row whose value it gets. It is
        faster than :meth:`predict`, because the values of the other features are converted only once.

        :raises SchemaError: a feature is absent or has the wrong type
        """


def from_values(found: NDArray[np.float64], contract: ModelContract, labels: NDArray[Any] | None = None) -> Predictions:
    """Convert a model's output to predictions, with the classes and the threshold of the contract.

    :param found: classification: probabilities, shape (n, k); regression: values, shape (n, 1)
    :param contract: the model contract
    :param labels: :func:`class_labels` of the contract, if the caller has computed them
    """
    if contract.task == "regression":
        return Predictions(found[:, 0], found[:, 0], None)
    classes = class_labels(contract) if labels is None else labels
    if contract.task == "multiclass":
        return Predictions(classes[found.argmax(axis=1)], found.max(axis=1), found)
    positive = contract.classes.index(contract.positive)
    score = np.ascontiguousarray(found[:, positive])
    return Predictions(classes[np.where(score >= contract.threshold, positive, 1 - positive)], score, found)


def class_labels(contract: ModelContract) -> NDArray[Any]:
    """Return the class labels of the contract as an array of shape (k,). Text labels have the dtype object."""
    classes = np.asarray(contract.classes)
    return classes.astype(object) if classes.dtype.kind == "U" else classes
