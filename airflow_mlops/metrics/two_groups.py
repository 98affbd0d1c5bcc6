"""Compare the mean losses of two models that predicted different rows, within strata of rows.

A group has the rows of one model, such as the requests answered by a canary. Within a stratum, such as a period with a
constant share of requests for the canary, chance alone decides to which group a row belongs. Differences are therefore
taken within strata. They are averaged with the weights of Mantel and Haenszel (``n1 * n2 / (n1 + n2)`` for groups of n1
and n2 rows), which give the smallest variance if all strata have the same variance. A mean over all rows would compare
the easy rows of one stratum with the difficult rows of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.metrics import intervals
from airflow_mlops.metrics.clusters import dense, design
from airflow_mlops.metrics.intervals import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """The rows of one group.

    :param values: a value of each row, such as a loss, shape (n,)
    :param strata: the number of the stratum of each row, from 0, shape (n,)
    :param clusters: the number of the cluster of each row, shape (n,); ``None`` for independent rows. Equal numbers in
        two groups do not mean the same cluster
    """

    values: NDArray[np.float64]
    strata: NDArray[np.int64]
    clusters: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Difference:
    """The difference of two means.

    :param means: weighted mean of each group
    :param rows: number of rows of each group in the strata that both groups share
    :param interval: the first mean minus the second, with bounds
    """

    means: tuple[float, float]
    rows: tuple[int, int]
    interval: Interval


def difference(first: Group, second: Group, z: float) -> Difference | None:
    """Compare the means of two groups. Strata in which a group has fewer than two rows are left out.

    The interval of each mean is computed by :func:`airflow_mlops.metrics.intervals.mean`, and widened for clusters. The
    two intervals are combined by MOVER (method of variance estimates recovery, G. Zou and A. Donner, "Construction of
    Confidence Limits About Effect Measures", Statistics in Medicine 27, 2008). If a cluster is in both groups, at
    different times, it counts as two clusters. This widens the interval.

    :param first: the rows of the first group
    :param second: the rows of the second group
    :param z: quantile of the normal distribution, such as 1.96
    :return: ``None`` if no stratum has at least two rows of each group
    """
    size = 1 + max((int(item.strata.max()) for item in (first, second) if len(item.strata)), default=-1)
    ones, others = (np.bincount(item.strata, minlength=size) for item in (first, second))
    weights = np.where((ones > 1) & (others > 1), ones * others / np.maximum(1, ones + others), 0.0)
    if not weights.any():
        return None
    weights /= weights.sum()
    (mean, own), (other_mean, other) = (_interval(item, weights, z) for item in (first, second))
    value = mean - other_mean
    low, high = value - math.hypot(own.low, other.high), value + math.hypot(own.high, other.low)
    kept = weights > 0
    return Difference((mean, other_mean), (int(ones[kept].sum()), int(others[kept].sum())), Interval(value, low, high))


def _interval(group: Group, weights: NDArray[np.float64], z: float) -> tuple[float, Interval]:
    """Return the weighted mean of a group, and the distances of its lower and upper confidence bounds from the mean."""
    inside = weights[group.strata] > 0
    values, strata = group.values[inside], group.strata[inside]
    counts = np.bincount(strata, minlength=len(weights))
    means = np.bincount(strata, weights=values, minlength=len(weights)) / np.maximum(1, counts)
    # The errors are scaled so that the standard error of their mean equals that of the weighted mean. The square root
    # replaces the divisor n in the variance of each stratum with n - 1.
    scale = weights / np.maximum(1, counts) * np.sqrt(counts / np.maximum(1, counts - 1))
    errors = len(values) * scale[strata] * (values - means[strata])
    found = intervals.mean(errors, z)
    factor = 1.0
    if group.clusters is not None:
        factor = design(errors, dense(group.clusters[inside])).factor(z)
    return float(weights @ means), Interval(
        0.0, factor * (found.value - found.low), factor * (found.high - found.value)
    )
