"""Losses of single rows. The mean of the losses is a metric, such as log loss or Brier score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBABILITY_MARGIN = float(np.finfo(np.float64).eps)
"""Log loss clips probabilities to ``[PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN]`` (2.2e-16), as scikit-learn does for
float64. Therefore the largest loss of a row is 36.04 and not infinity."""
# Largest relative rounding error of a prediction that a model computes in single precision.
_ROUNDING = 1e-6


def log_losses(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the logarithmic loss of each row.

    :param probability: predicted probability of the true class, shape (n,)
    :return: losses, shape (n,)
    """
    clipped: NDArray[np.float64] = np.clip(probability, PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    return -np.log(clipped)


def binary_log_losses(positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the logarithmic loss of each row for a binary ML task.

    :param positive: whether the true class is the positive class, shape (n,)
    :param probability: predicted probability of the positive class, shape (n,)
    :return: losses, shape (n,)
    """
    return log_losses(np.where(positive, probability, 1 - probability))


def squared_errors(truth: NDArray[Any] | float, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the squared error of each row.

    If ``value`` is the probability of the positive class, the mean of the squared errors is the Brier score.

    :param truth: true values, or 1 for the positive class and otherwise 0, shape (n,)
    :param value: predicted values or probabilities, shape (n,)
    :return: losses, shape (n,)
    """
    found: NDArray[np.float64] = np.square(value - truth)
    return found


def deviances(power: float, truth: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the deviance of each row, see :mod:`airflow_mlops.metrics.deviances`.

    :param power: the power of the deviance, from 1 (Poisson) to 2 (gamma)
    :param truth: true values, at least 0, and above 0 for the power 2, shape (n,)
    :param value: predicted values, above 0, shape (n,)
    :return: losses, shape (n,)
    """
    if power == 1:
        # The first term is 0 for a label of 0, because y * log(y) approaches 0 with y.
        entropy = truth * np.log(np.where(truth > 0, truth, value) / value)
        return np.asarray(2 * (entropy - truth + value))
    if power == 2:
        return np.asarray(2 * (np.log(value / truth) + truth / value - 1))
    constant = truth ** (2 - power) / ((1 - power) * (2 - power))
    return np.asarray(2 * (constant - truth * value ** (1 - power) / (1 - power) + value ** (2 - power) / (2 - power)))


def scaled_errors(truth: NDArray[Any], value: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the absolute error of each row, divided by the row's scale.

    :param truth: true values, shape (n,)
    :param value: predicted values, shape (n,)
    :param scale: scales of at least 0, shape (n,)
    :return: losses, shape (n,); 0 if the scale is 0
    """
    errors = absolute_errors(truth, value)
    return np.asarray(np.divide(errors, scale, out=np.zeros(len(errors)), where=scale > 0))


def percentage_errors(truth: NDArray[Any], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the symmetric absolute percentage error of each row, as a share from 0 to 2.

    :param truth: true values, shape (n,)
    :param value: predicted values, shape (n,)
    :return: losses, shape (n,); 0 if both values are 0
    """
    # The sum of two large numbers could overflow, so their halves are added.
    size = np.abs(truth) / 2 + np.abs(value) / 2
    return np.asarray(np.divide(absolute_errors(truth, value), size, out=np.zeros(len(size)), where=size > 0))


def pinball(alpha: float, truth: NDArray[Any], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the pinball loss of each row, see :mod:`airflow_mlops.metrics.quantiles`.

    :param alpha: the predicted quantile, between 0 and 1
    :param truth: true values, shape (n,)
    :param value: predicted quantiles, shape (n,)
    :return: losses, shape (n,)
    """
    above = truth - value
    return np.asarray(np.maximum(alpha * above, (alpha - 1) * above))


def at_most(truth: NDArray[Any], value: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each label is at most the predicted quantile, shape (n,).

    ONNX models compute in single precision. A label that is above the prediction only because of this rounding is covered.
    """
    covered: NDArray[np.bool_] = truth <= value + _ROUNDING * np.abs(value)
    return covered


def absolute_errors(truth: NDArray[Any], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the absolute error of each row.

    :param truth: true values, shape (n,)
    :param value: predicted values, shape (n,)
    :return: losses, shape (n,)
    """
    found: NDArray[np.float64] = np.abs(value - truth)
    return found
