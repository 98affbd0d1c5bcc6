"""The margin of prediction intervals, by split conformal prediction.

The interval of a row is its prediction, plus and minus a quantile of the absolute residuals of n rows to which the model was not
fitted. The quantile is the k-th smallest residual with ``k = ceil((n + 1) * coverage)``. If the n rows and the new row are
exchangeable, the label of the new row lies in its interval with a probability of at least ``coverage``, and of less than
``coverage + 1 / (n + 1)`` without ties, whatever the model and the distribution are.

Source: J. Lei, M. G'Sell, A. Rinaldo, R. Tibshirani and L. Wasserman, "Distribution-Free Predictive Inference for Regression",
Journal of the American Statistical Association 113 (2018), algorithm 2 and theorem 2. MAPIE's ``SplitConformalRegressor`` finds the
same number, but it needs a scikit-learn estimator around the ONNX model, also to predict, for what is one partial sort here. All
residuals have one sign only after ``abs``, so the margin is never negative and an interval always contains its prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.models.interval_rule import rank

if TYPE_CHECKING:
    from numpy.typing import NDArray


def margin(truth: NDArray[np.float64], value: NDArray[np.float64], coverage: float) -> float:
    """Return half the width of the intervals.

    :param truth: labels of the rows, finite, shape (n,) with n of at least :func:`~airflow_mlops.models.interval_rule.fewest_rows`
    :param value: predictions for the rows, finite, shape (n,)
    :param coverage: share of the labels that are to lie in their interval, between 0 and 1
    """
    place = rank(len(truth), coverage) - 1
    return float(np.partition(residuals(truth, value), place)[place])


def residuals(truth: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the absolute residual of each row, shape (n,), so large that the interval of the row reaches its label.

    Integer labels make many residuals equal. The end of an interval is rounded, and an end that is rounded to the other side of the
    label would leave all of these rows out.
    """
    found: NDArray[np.float64] = np.abs(truth - value)
    missed = (value - found > truth) | (value + found < truth)
    # Twice the distance of the doubles there is at least one such distance at the residual, which is at most twice as large.
    found[missed] += 2 * np.spacing(np.maximum(np.abs(truth), np.abs(value)))[missed]
    return found
