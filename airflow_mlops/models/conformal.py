"""The margin of prediction intervals, by split conformal prediction.

The interval of a row is its prediction, plus and minus a quantile of the absolute residuals of n rows to which the
model was not fitted. The quantile is the k-th smallest residual with ``k = ceil((n + 1) * coverage)``. If the n rows
and the new row are exchangeable, the label of the new row lies in its interval with a probability of at least
``coverage``. Without ties, the probability is less than ``coverage + 1 / (n + 1)``. Both bounds apply to every model
and distribution.

Source: J. Lei, M. G'Sell, A. Rinaldo, R. Tibshirani and L. Wasserman, "Distribution-Free Predictive Inference for
Regression", Journal of the American Statistical Association 113 (2018), algorithm 2 and theorem 2. MAPIE's
``SplitConformalRegressor`` computes the same margin, but needs a scikit-learn estimator around the ONNX model, also for
scoring. The residuals are absolute, so the margin is never negative, and an interval always contains its prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.models.rules.interval import rank

if TYPE_CHECKING:
    from numpy.typing import NDArray


def margin(truth: NDArray[np.float64], value: NDArray[np.float64], coverage: float) -> float:
    """Return the margin, which is half the width of the intervals.

    :param truth: labels of the rows, finite, shape (n,), where n is at least
        :func:`~airflow_mlops.models.rules.interval.fewest_rows`
    :param value: predictions for the rows, finite, shape (n,)
    :param coverage: nominal coverage: share of the labels that should lie in their interval, between 0 and 1
    """
    place = rank(len(truth), coverage) - 1
    return float(np.partition(residuals(truth, value), place)[place])


def residuals(truth: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the absolute residual of each row, shape (n,).

    The ends of an interval (prediction minus margin, and prediction plus margin) are rounded. With the exact residual
    as margin, the interval could therefore miss the label by the last digit. If labels are integers, many rows have the
    same residual, and the intervals of all these rows could miss their labels. Residuals are therefore rounded up where
    necessary, so that the interval of a row with its own residual as margin contains its label.

    :param truth: labels of the rows, shape (n,)
    :param value: predictions for the rows, shape (n,)
    """
    found: NDArray[np.float64] = np.abs(truth - value)
    missed = (value - found > truth) | (value + found < truth)
    # A residual is at most twice as large as the larger of the two numbers, so this sum changes at least its last
    # digit.
    found[missed] += 2 * np.spacing(np.maximum(np.abs(truth), np.abs(value)))[missed]
    return found
