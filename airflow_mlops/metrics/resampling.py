"""Bootstrap of metrics: a metric is recomputed on random samples of rows that are drawn with replacement."""

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
"""Number of bootstrap rounds and of jackknife groups in :func:`resample_rows`, which calls the metric once for each."""
_AT_ONCE = 200


class Resampling:
    """A bootstrap of sums over the rows. Each round is a set of weights of groups of rows, so no rows are copied.

    If there are G groups, each round draws G groups with replacement (B. Efron, "Bootstrap Methods: Another Look at the
    Jackknife", Annals of Statistics 7, 1979). The weight of a group is the number of times that the group was drawn. If
    there are at most ``groups`` rows, each row is a group. Otherwise rows are assigned to groups at random, so that the
    cost does not grow with the number of rows. The estimated variance of a sum is then unbiased. The relative standard
    error of the estimated variance is ``sqrt(2 / groups)``, which is 1.4% by default (random groups, K. Wolter,
    "Introduction to Variance Estimation", 2007, chapter 2).

    Rows of one cluster are not independent. With clusters, whole clusters are drawn (the cluster bootstrap: A. Davison
    and D. Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8), so each cluster takes the place of a
    row.

    :param rows: number of rows
    :param clusters: number of the cluster of each row, shape (rows,); by default, rows are independent
    :param rounds: number of bootstrap samples
    :param groups: maximum number of groups
    :param seed: seed of the random weights
    """

    def __init__(
        self,
        rows: int,
        *,
        clusters: NDArray[np.int64] | None = None,
        rounds: int = ROUNDS,
        groups: int = GROUPS,
        seed: int = 0,
    ) -> None:
        self.rows = rows
        self.rounds = rounds
        self.clusters: NDArray[Any] | None = (
            None if clusters is None else np.unique(clusters, return_inverse=True)[1].astype(np.int64)
        )
        units = rows if self.clusters is None else int(self.clusters.max(initial=-1)) + 1
        self.groups = min(units, groups)
        self._random = np.random.default_rng(seed)
        unit: NDArray[Any] = (
            np.arange(units) if units <= groups else self._random.integers(self.groups, size=units, dtype=np.int32)
        )
        self._group: NDArray[Any] = unit if self.clusters is None else unit[self.clusters]

    @cached_property
    def _weights(self) -> NDArray[np.uint8]:
        """Draw the weight of each group in each round, shape (rounds, groups)."""
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
        """Compute the sum of each term in each group.

        :param terms: arrays with one number for each row
        :param index: positions of the rows that the terms belong to; all rows by default
        :return: sums, shape (groups, terms)
        """
        group = self._group if index is None else self._group[index]
        return np.stack([np.bincount(group, weights=term, minlength=self.groups) for term in terms], axis=1)

    def draw(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute each sum in each bootstrap round.

        :param totals: the result of :meth:`totals`; the results for several metrics and slices can be concatenated
            along the second axis
        :return: sums, shape (rounds, terms)
        """
        sums = np.empty((self.rounds, totals.shape[1]))
        for rounds in self._slices():
            np.matmul(self._weights[rounds].astype(np.float64), totals, out=sums[rounds])
        return sums

    def _slices(self) -> Iterator[slice]:
        return (slice(first, min(first + _AT_ONCE, self.rounds)) for first in range(0, self.rounds, _AT_ONCE))


class Draws(NamedTuple):
    """The values of one metric for several models on the same rows, and on resampled rows.

    :param values: the metric on all rows, shape (models,)
    :param draws: the metric in each bootstrap round, shape (rounds, models); NaN if it is undefined in a round
    :param influence: influence of each group of rows on the metric, up to a constant factor, shape (groups, models)
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
    clusters: NDArray[np.int64] | None = None,
) -> Draws:
    """Bootstrap a metric that is not a function of sums.

    Each round draws rows with replacement, and uses the same rows for all models. The influence is computed by the
    delete-a-group jackknife with random groups (K. Wolter, "Introduction to Variance Estimation", 2007, chapter 4).
    ``metric`` is called ``1 + rounds + groups`` times for each model.

    :param metric: function that computes the metric, or returns NaN if the metric is undefined
    :param models: the predictions of each model for the same rows
    :param rounds: number of bootstrap samples
    :param groups: number of jackknife groups
    :param seed: seed of the random samples and groups
    :param clusters: number of the cluster of each row, shape (n,). Whole clusters are drawn. By default, single rows
        are drawn
    """
    random, size = np.random.default_rng(seed), len(models[0])
    of_row = None if clusters is None else np.unique(clusters, return_inverse=True)[1]
    units = size if of_row is None else int(of_row.max()) + 1
    groups = min(units, groups)

    def at(index: NDArray[np.integer[Any]] | None) -> list[float]:
        return [metric(rows.take(index)) for rows in models]

    def drawn() -> NDArray[np.integer[Any]]:
        if of_row is None:
            return random.integers(size, size=size)
        weights = np.bincount(random.integers(units, size=units), minlength=units)
        return np.repeat(np.arange(size), weights[of_row])

    values = np.array(at(None))
    group = random.permutation(units) % groups
    if of_row is not None:
        group = group[of_row]
    draws = np.array([at(drawn()) for _ in range(rounds)])
    without = np.array([at(np.flatnonzero(group != number)) for number in range(groups)])
    return Draws(values, draws, np.nan_to_num(values - without))
