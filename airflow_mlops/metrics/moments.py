"""Sums of powers of many values, which are computed one batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Batches: TypeAlias = "Callable[[], Iterable[tuple[NDArray[Any], NDArray[np.float64] | None]]]"
"""Yields values and their weights, each of shape (n,), in batches. Each call yields the same batches. The weights are
``None`` if each value counts once."""


class GroupMoments:
    """The mass, the mean and the sum of squared deviations of values in k groups.

    Source: T. Chan, G. Golub and R. LeVeque, "Algorithms for Computing the Sample Variance", The American Statistician
    37 (1983).

    :param groups: the number k of groups
    :ivar mass: sum of the weights of each group, shape (k,)
    :ivar mean: weighted mean of each group, shape (k,); 0 for a group without weight
    :ivar squares: weighted sum of squared deviations from the mean, shape (k,)
    """

    def __init__(self, groups: int) -> None:
        self.mass = np.zeros(groups)
        self.mean, self.squares = np.zeros(groups), np.zeros(groups)

    def add(
        self, codes: NDArray[np.integer[Any]], values: NDArray[np.float64], weight: NDArray[np.float64] | None = None
    ) -> None:
        """Add a batch of values.

        :param codes: the number of the group of each value, shape (n,)
        :param values: shape (n,)
        :param weight: the weight of each value, shape (n,); ``None`` if each value counts once
        """
        groups = len(self.mass)
        mass = np.bincount(codes, weight, groups).astype(float)
        each, total = above_0(mass), above_0(self.mass + mass)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.bincount(codes, values if weight is None else weight * values, groups) / each
            squares = np.square(values - mean[codes])
            apart = mean - self.mean
            self.squares += np.bincount(codes, squares if weight is None else weight * squares, groups)
            self.squares += np.square(apart) * self.mass * mass / total
            self.mean += apart * mass / total
        self.mass += mass

    def around(self, centre: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sum of squared deviations from ``centre``, shape (k,)."""
        return np.asarray(self.squares + self.mass * np.square(self.mean - centre))


def above_0(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace 0 by 1, to avoid a division by 0."""
    return np.where(values > 0, values, 1.0)


class Deviations(NamedTuple):
    """Sums of powers of the deviations of n values from a centre.

    :param squares: sum of the squares
    :param shares: sum of the squares of the scaled deviations, which are the deviations divided by ``scale``
    :param cubes: sum of the cubes of the scaled deviations
    :param fourths: sum of the fourth powers of the scaled deviations
    :param scale: the largest absolute value of the n values. The sums of powers of the scaled deviations are therefore
        finite
    """

    squares: float
    shares: float
    cubes: float
    fourths: float
    scale: float

    def skewness(self, rows: int) -> float:
        """Return the skewness: the mean cube of the deviations, divided by the cube of their standard deviation (``ddof=1``).

        :param rows: number of values, at least 2
        """
        cubed = (self.shares / (rows - 1)) ** 1.5
        return self.cubes / rows / cubed if cubed > 0 else 0.0

    def concentration(self) -> float:
        """Return the sum of the squared shares that the values have in ``squares``; 0 if all deviations are 0."""
        squared = self.shares**2
        return self.fourths / squared if squared > 0 else 0.0


class Moments(NamedTuple):
    """The mean of n values, and their deviations from it.

    With weights, ``own`` describes the contributions of the values to the weighted mean
    (:func:`airflow_mlops.metrics.weighted.contributions`).

    :param rows: the number n of values
    :param mean: the mean, weighted if the values have weights
    :param own: deviations of the values, or of their contributions, from ``mean``
    :param plain: deviations of the values from their unweighted mean
    :param effective: Kish's effective number of rows; n without weights
    """

    rows: int
    mean: float
    own: Deviations
    plain: Deviations
    effective: float


def moments(batches: Batches) -> Moments:
    """Compute the moments of values in two passes.

    :param batches: the values and their weights, with at least one value
    """
    rows, mass, squared, total, own, largest = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    for values, weight in batches():
        rows += len(values)
        total += float(values.sum())
        largest = max(largest, float(np.abs(values).max(initial=0.0)))
        if weight is not None:
            mass += float(weight.sum())
            squared += float(np.square(weight).sum())
            own += float(weight @ values)
    is_weighted = mass > 0
    plain = total / rows
    mean = own / mass if is_weighted else plain
    sums = np.zeros((2, 4))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for values, weight in batches():
            _add(sums[0], values - plain, largest)
            if weight is not None:
                _add(sums[1], weight / (mass / rows) * (values - mean), largest)
    each = [Deviations(squares, shares, cubes, fourths, largest) for squares, shares, cubes, fourths in sums.tolist()]
    return Moments(rows, mean, each[int(is_weighted)], each[0], mass**2 / squared if is_weighted else float(rows))


def _add(sums: NDArray[np.float64], deviations: NDArray[np.float64], scale: float) -> None:
    sums[0] += np.square(deviations).sum()
    if scale > 0 and math.isfinite(scale):
        shares = deviations / scale
        squares = np.square(shares)
        sums[1] += squares.sum()
        sums[2] += (squares * shares).sum()
        sums[3] += np.square(squares).sum()
