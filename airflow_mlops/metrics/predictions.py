"""The predictions of a model for a batch of rows."""

from __future__ import annotations

from collections.abc import Iterable
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
        (multiclass), or the value (regression). For a classifier without probabilities: 1 for the positive and 0 for
        the negative class (binary), or the position of the predicted label among the classes of the model contract
        (multiclass). The position of a label that is not one of these classes is -1
    :param probabilities: float64, shape (n, k), in the order of the classes of the model contract; ``None`` for a
        regression and for a classifier without probabilities
    """

    prediction: NDArray[Any]
    score: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None


def concatenate(parts: Iterable[Predictions], contract: ModelContract) -> Predictions:
    """Concatenate the predictions of several batches of rows.

    A binary model may return the labels 0 and 1 for one batch and probabilities for another batch. The labels then
    count as the probabilities 0 and 1.

    :param parts: predictions of each batch, in order
    :param contract: contract of the model
    """
    labels, scores, shares = [], [], []
    labels_only = True
    for part in parts:
        labels.append(part.prediction)
        scores.append(part.score)
        if part.probabilities is not None:
            labels_only = False
            if contract.task != "binary":
                shares.append(part.probabilities)
    prediction, score = np.concatenate(labels), np.concatenate(scores)
    if labels_only:
        return Predictions(prediction, score, None)
    if contract.task != "binary":
        return Predictions(prediction, score, np.concatenate(shares))
    return of_score(prediction, score, contract)


def of_score(prediction: NDArray[Any], score: NDArray[np.float64], contract: ModelContract) -> Predictions:
    """Return the predictions of a binary model from the probabilities of the positive class.

    :param prediction: the predicted labels, shape (n,)
    :param score: probability of the positive class, shape (n,)
    :param contract: contract of the model
    """
    probabilities = np.empty((len(score), 2))
    column = int(contract.classes[-1] == contract.positive)
    probabilities[:, column] = score
    np.subtract(1, score, out=probabilities[:, 1 - column])
    return Predictions(prediction, score, probabilities)
