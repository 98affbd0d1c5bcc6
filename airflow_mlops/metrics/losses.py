"""The loss of each row: what the averaged metrics are means of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBABILITY_MARGIN = float(np.finfo(np.float64).eps)
"""Log loss clips probabilities to ``[PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN]`` (2.2e-16), as scikit-learn does for
float64. A row that the model calls impossible therefore costs 36.04, not infinity."""


def log_losses(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithmic loss.

    :param probability: what the model gave the true class, shape (n,)
    :return: shape (n,)
    """
    clipped: NDArray[np.float64] = np.clip(probability, PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    return -np.log(clipped)


def binary_log_losses(positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithmic loss of a binary task.

    :param positive: whether the true class is the positive one, shape (n,)
    :param probability: of the positive class, shape (n,)
    """
    return log_losses(np.where(positive, probability, 1 - probability))


def squared_errors(truth: NDArray[Any] | float, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The squared difference of a value from the truth; for the probability of the positive class, Brier's score."""
    found: NDArray[np.float64] = np.square(value - truth)
    return found


def absolute_errors(truth: NDArray[Any], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The absolute difference of a value from the truth."""
    found: NDArray[np.float64] = np.abs(value - truth)
    return found
