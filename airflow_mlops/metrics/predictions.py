"""The predictions of a model for a batch of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.core.contract import ModelContract


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for n rows.

    :param prediction: the predicted class label or value, shape (n,)
    :param score: float64, shape (n,): the probability of the positive class (binary), the largest probability
        (multiclass), or the value (regression). For a classifier without probabilities: 1 for the positive and 0 for the
        negative class (binary), or the position of the predicted label among the classes of the model contract
        (multiclass). The position of a label that is not one of these classes is -1
    :param probabilities: float64, shape (n, k), in the order of the classes of the model contract; ``None`` for a
        regression and for a classifier without probabilities
    """

    prediction: NDArray[Any]
    score: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None


def concatenate(parts: Sequence[Predictions], contract: ModelContract) -> Predictions:
    """Concatenate the predictions of several batches of rows.

    A binary model may return the labels 0 and 1 for one batch and probabilities for another batch. The labels then
    count as the probabilities 0 and 1.

    :param parts: predictions of each batch, in order
    :param contract: contract of the model
    """
    whole = Predictions(
        np.concatenate([part.prediction for part in parts]), np.concatenate([part.score for part in parts]), None
    )
    if all(part.probabilities is None for part in parts):
        return whole
    if contract.task == "binary":
        shares = np.column_stack([1 - whole.score, whole.score])
        probabilities = shares if contract.classes[-1] == contract.positive else shares[:, ::-1]
    else:
        probabilities = np.concatenate([part.probabilities for part in parts if part.probabilities is not None])
    return Predictions(whole.prediction, whole.score, probabilities)
