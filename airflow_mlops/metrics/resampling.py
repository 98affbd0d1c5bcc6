"""Bootstraps: the value of a metric on other samples of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.metrics.rows import Rows

ROUNDS, GROUPS = 2_000, 10_000
ROW_ROUNDS, ROW_GROUPS = 500, 200
"""The rounds and jackknife groups of :func:`resample_rows`, which calls the metric once for each."""
_AT_ONCE = 200


class Resampling:
    """A bootstrap of sums over the rows. Rows are never copied: a round is a weight for each group of rows.

    In every round the groups are drawn with replacement, as often as there are groups (B. Efron, "Bootstrap Methods:
    Another Look at the Jackknife", Annals of Statistics 7, 1979); a group's weight is how often it was drawn. With at
    most ``groups`` rows each row is a group. More rows are assigned to groups at random, so that the cost no longer
    grows with the rows. The variance of every sum then is right on average, with a standard error of one in the square
    root of half the groups, 1.4% (the random groups of K. Wolter, "Introduction to Variance Estimation", 2007,
    chapter 2).

    :param rows: the number of rows
    :param rounds: how many samples are drawn
    :param groups: the largest number of groups
    :param seed: the same seed draws the same weights
    """

    def __init__(self, rows: int, *, rounds: int = ROUNDS, groups: int = GROUPS, seed: int = 0) -> None:
        self.rows = rows
        self.rounds = rounds
        self.groups = min(rows, groups)
        self._random = np.random.default_rng(seed)
        self._group: NDArray[Any] = (
            np.arange(rows) if rows <= groups else self._random.integers(self.groups, size=rows, dtype=np.int32)
        )

    @cached_property
    def _weights(self) -> NDArray[np.uint8]:
        """Shape (rounds, groups)."""
        weights = np.empty((self.rounds, self.groups), dtype=np.uint8)
        for rounds in self._slices():
            count = len(weights[rounds])
            drawn = self._random.integers(self.groups, size=(count, self.groups))
            drawn += np.arange(count)[:, None] * self.groups
            weights[rounds] = np.bincount(drawn.ravel(), minlength=count * self.groups).reshape(count, -1)
        return weights

    def totals(
        self, terms: Iterable[NDArray[Any]], index: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Each term's sum in each group, shape (groups, terms).

        :param terms: arrays with a number for each row
        :param index: the positions of these rows; all rows by default
        """
        group = self._group if index is None else self._group[index]
        return np.stack([np.bincount(group, weights=term, minlength=self.groups) for term in terms], axis=1)

    def draw(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each sum in each round, shape (rounds, terms).

        :param totals: returned by :meth:`totals`; those of several metrics and slices can be drawn side by side
        """
        sums = np.empty((self.rounds, totals.shape[1]))
        for rounds in self._slices():
            np.matmul(self._weights[rounds].astype(np.float64), totals, out=sums[rounds])
        return sums

    def _slices(self) -> Iterator[slice]:
        return (slice(first, min(first + _AT_ONCE, self.rounds)) for first in range(0, self.rounds, _AT_ONCE))


class Draws(NamedTuple):
    """A metric of several models on the same rows, and on resampled rows.

    :param values: on all rows, shape (models,)
    :param draws: in each bootstrap round, shape (rounds, models); NaN where the metric is undefined
    :param influence: what each group of rows adds to the value, up to a factor, shape (groups, models)
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    influence: NDArray[np.float64]


def resample_rows(
    metric: Callable[[Rows], float],
    models: Sequence[Rows],
    *,
    rounds: int = ROW_ROUNDS,
    groups: int = ROW_GROUPS,
    seed: int = 0,
) -> Draws:
    """Bootstrap any function of the rows, for metrics that are not functions of sums.

    Each round draws rows with replacement, the same for all models. The influence comes from the delete-a-group
    jackknife with random groups (K. Wolter, "Introduction to Variance Estimation", 2007, chapter 4). ``metric`` is
    called ``1 + rounds + groups`` times a model.

    :param metric: returns NaN where it is undefined
    :param models: one entry a model, with the same rows
    """
    random, size = np.random.default_rng(seed), len(models[0])
    groups = min(size, groups)

    def at(index: NDArray[np.integer[Any]] | None) -> list[float]:
        return [metric(rows.take(index)) for rows in models]

    values = np.array(at(None))
    group = random.permutation(size) % groups
    draws = np.array([at(random.integers(size, size=size)) for _ in range(rounds)])
    without = np.array([at(np.flatnonzero(group != number)) for number in range(groups)])
    return Draws(values, draws, np.nan_to_num(values - without))
