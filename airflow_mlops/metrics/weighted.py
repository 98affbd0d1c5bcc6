"""Means and shares of weighted rows, and the number of rows with equal weights that would give the same precision.

A weighted mean is the mean of *contributions*: ``mean + weight * (value - mean) / mean weight`` for each row. To first
order, the error of the weighted mean is the error of the mean of the contributions (the linearised ratio estimator: C.
Särndal, B. Swensson and J. Wretman, "Model Assisted Survey Sampling", 1992, section 5.6). Intervals and tests for means
can therefore be applied to the contributions, and then hold for the weighted mean. With equal weights, the
contributions are the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.metrics import intervals
from airflow_mlops.metrics.comparison import CREDIBLE
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.moments import Batches, Deviations, moments

if TYPE_CHECKING:
    from numpy.typing import NDArray


def scaled(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide weights by their mean.

    :param weight: weights, finite and at least 0, at least one above 0, shape (n,)
    :return: weights with the mean 1, shape (n,)
    """
    found = weight / weight.max()
    return np.asarray(found / found.mean())


def effective(weight: NDArray[np.float64] | None, rows: NDArray[np.bool_] | None = None, *, count: int = 0) -> float:
    """Return Kish's effective number of rows, ``sum(w)**2 / sum(w**2)``. Without weights, this is the number of rows.

    :param weight: the weight of each row, above 0, shape (n,); ``None`` if each row counts once
    :param rows: mask of the rows, shape (n,); all rows by default
    :param count: number of all rows, which is returned if neither ``weight`` nor ``rows`` is given
    """
    if weight is None:
        return float(count if rows is None else np.count_nonzero(rows))
    chosen = weight if rows is None else weight[rows]
    return float(chosen.sum() ** 2 / np.square(chosen).sum()) if len(chosen) else 0.0


def mean(values: NDArray[Any], weight: NDArray[np.float64] | None) -> float:
    """Return the mean of ``values``, shape (n,); the weighted mean unless ``weight`` is ``None``."""
    return float(values.mean() if weight is None else weight @ values / weight.sum())


def mean_of(batches: Iterable[tuple[NDArray[Any], NDArray[np.float64] | None]]) -> float:
    """Return the weighted mean of values, as :func:`mean`.

    :param batches: values and their weights, each of shape (n,); the weights are ``None`` if each value counts once
    """
    total, mass = 0.0, 0.0
    for values, weight in batches:
        total += float(values.sum() if weight is None else weight @ values)
        mass += float(len(values) if weight is None else weight.sum())
    return total / mass


def contributions(values: NDArray[np.float64], weight: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the contribution of each row to the weighted mean, shape (n,). Without weights, return ``values``."""
    if weight is None:
        return values
    middle = mean(values, weight)
    return np.asarray(middle + weight / weight.mean() * (values - middle))


def interval(values: NDArray[np.float64], weight: NDArray[np.float64] | None, z: float) -> Interval:
    """Compute the interval of the weighted mean of skewed values, such as losses, see :func:`interval_of`.

    :param values: shape (n,)
    :param weight: the weight of each row, above 0, shape (n,); ``None`` if each row counts once
    :param z: quantile of the normal distribution, such as 1.96
    """
    return interval_of(lambda: [(values, weight)], z)


def interval_of(batches: Batches, z: float) -> Interval:
    """Compute the interval of the weighted mean of skewed values, such as losses.

    See :func:`airflow_mlops.metrics.intervals.of_moments`.

    With weights, the standard error of the mean depends on few rows and is itself uncertain. Its uncertainty is its
    relative standard error. The interval is widened by the factor ``1 + 1.645 * d``, where d is the increase of this
    uncertainty by the weights, as in :class:`airflow_mlops.metrics.comparison.Estimate`. With equal weights, this is the
    interval without weights.

    :param batches: values and their weights, above 0, with at least one value
    :param z: quantile of the normal distribution, such as 1.96
    """
    known = moments(batches)
    found = intervals.of_moments(known, z)
    if known.own is known.plain:
        return found
    doubt = _relative_error(known.own, known.rows) - _relative_error(known.plain, known.rows)
    wider = 1 + CREDIBLE * max(0.0, doubt)
    return Interval(
        found.value, found.value - wider * (found.value - found.low), found.value + wider * (found.high - found.value)
    )


def _relative_error(deviations: Deviations, rows: int) -> float:
    """Compute :func:`airflow_mlops.metrics.comparison.relative_error` from the deviations of the values."""
    if not 0 < deviations.squares < math.inf:
        return 0.0
    return math.sqrt(max(0.0, deviations.concentration() - 1 / rows)) / 2


def share_of(batches: Iterable[tuple[NDArray[np.bool_], NDArray[np.float64] | None]], z: float) -> Interval:
    """Return the share of the rows that are hits, with its interval.

    Without weights, this is Wilson's interval. With weights, it is Wilson's interval with an effective number of rows,
    derived from the variance of the weighted share (:func:`airflow_mlops.metrics.intervals.bounded`). With equal
    weights, both intervals are the same.

    :param batches: whether rows are hits, and their weights, above 0, each of shape (n,); the weights are ``None`` if
        each row counts once. There is at least one row
    :param z: quantile of the normal distribution, such as 1.96
    """
    # The arrays of shape (2,) have an element for the rows that are not hits, and one for the hits.
    mass, squares, is_weighted = np.zeros(2), np.zeros(2), False
    for hits, weight in batches:
        is_weighted |= weight is not None
        mass += np.bincount(hits, weight, 2)
        squares += np.bincount(hits, None if weight is None else np.square(weight), 2)
    return share_of_sums(mass, squares, z, is_weighted=is_weighted)


def share_of_sums(mass: NDArray[np.float64], squares: NDArray[np.float64], z: float, *, is_weighted: bool) -> Interval:
    """Return the share of the rows that are hits, with its interval, see :func:`share_of`.

    :param mass: sum of the weights of the rows that are no hits, and of the hits, shape (2,). Without weights, the
        numbers of rows
    :param squares: as ``mass``, for the squared weights
    :param z: quantile of the normal distribution, such as 1.96
    :param is_weighted: whether the rows have weights
    """
    total = float(mass.sum())
    value = float(mass[1] / total)
    if not is_weighted:
        return intervals.proportion(value, total, z)
    variance = float(squares[1] * (1 - value) ** 2 + squares[0] * value**2) / total**2
    return intervals.bounded(value, variance, total**2 / float(squares.sum()), z)
