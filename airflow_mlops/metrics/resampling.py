"""The bootstrap by weights: what any sum over the rows would be on other samples of the same size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS, GROUPS = 2_000, 10_000
_AT_ONCE = 200


class Resampling:
    """Rounds of a bootstrap over the same rows. No row is ever copied: a round is a weight for each group of rows.

    In every round the groups are drawn with replacement, as often as there are groups (B. Efron, "Bootstrap Methods:
    Another Look at the Jackknife", Annals of Statistics 7, 1979); how often one was drawn is its weight. With at most
    ``groups`` rows each row is a group. More rows are put into groups at random, which keeps the variance of every sum
    right on average, and up to about 1.4% (one in the square root of half the groups) in one go (the random groups of
    K. Wolter, "Introduction to Variance Estimation", 2007, chapter 2). The cost then no longer grows with the rows.

    :param rows: how many rows there are
    :param rounds: how often they are drawn
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
        found = np.empty((self.rounds, self.groups), dtype=np.uint8)
        for rounds in self._slices():
            count = len(found[rounds])
            drawn = self._random.integers(self.groups, size=(count, self.groups))
            drawn += np.arange(count)[:, None] * self.groups
            found[rounds] = np.bincount(drawn.ravel(), minlength=count * self.groups).reshape(count, -1)
        return found

    def totals(
        self, terms: Iterable[NDArray[Any]], index: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Each term's sum in each group, shape (groups, terms).

        :param terms: arrays with a number for each row
        :param index: the positions of those rows; all rows unless given
        """
        group = self._group if index is None else self._group[index]
        return np.stack([np.bincount(group, weights=term, minlength=self.groups) for term in terms], axis=1)

    def draw(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each sum in each round, shape (rounds, terms).

        :param totals: of :meth:`totals`; those of many metrics and slices side by side cost one product
        """
        found = np.empty((self.rounds, totals.shape[1]))
        for rounds in self._slices():
            np.matmul(self._weights[rounds].astype(np.float64), totals, out=found[rounds])
        return found

    def _slices(self) -> Iterator[slice]:
        return (slice(first, min(first + _AT_ONCE, self.rounds)) for first in range(0, self.rounds, _AT_ONCE))
