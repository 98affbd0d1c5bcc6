"""Since when something is different: change points of a level that was measured with known standard errors.

Binary segmentation (A. Scott and M. Knott, "A Cluster Analysis Method for Grouping Means in the Analysis of Variance",
1974): of all places where a series may be cut in two, the one with the largest likelihood ratio between two weighted
means and one; it is a change if a ratio as large is rare in series that have one level and the same standard errors,
which are simulated. Then either part is looked at by itself. A series without a change has one found in at most the
stated share of cases, since the first cut decides. A window that differs from both its neighbours is an outlier and no
level: it is left out, and the rest cut anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEAST, DRAWS, SEED = 2, 2_000, 0
"""Windows that make a level; simulated series."""
Floats = npt.NDArray[np.float64]


class Split(NamedTuple):
    """A change of level.

    :param at: position of the first measurement at the new level
    """

    at: int
    before: float
    after: float
    p_value: float


def splits(
    values: Sequence[float] | Floats, errors: Sequence[float] | Floats, rate: float, floor: float = 0.0
) -> list[Split]:
    """Where the level of a series changes.

    :param values: by time, shape (n,)
    :param errors: their standard errors, shape (n,), not all nought
    :param rate: the share of series without a change in which one may be found
    :param floor: levels that differ by less are one
    :return: by time, with the levels of the parts that lie on either side
    """
    known, spread = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    if len(known) < 2 * LEAST or not spread.max() > 0:
        return []
    # No measurement outweighs all others together.
    weights = 1 / np.square(np.maximum(spread, spread.max() / 1_000))
    kept = np.arange(len(known))
    while len(kept) >= 2 * LEAST:
        found = _cuts(known[kept], weights[kept], rate, floor)
        ends = [0, *sorted(found), len(kept)]
        lone = [start for start, end in pairwise(ends) if end - start < LEAST]
        if not lone:
            levels = [_level(known[kept[start:end]], weights[kept[start:end]]) for start, end in pairwise(ends)]
            return [
                Split(int(kept[at]), before, after, found[at])
                for at, (before, after) in zip(ends[1:-1], pairwise(levels), strict=True)
            ]
        kept = np.delete(kept, lone)
    return []


def _cuts(values: Floats, weights: Floats, rate: float, floor: float) -> dict[int, float]:
    """Where a series falls into parts, with the p-value of each cut; a part may be a single value."""
    random = np.random.default_rng(SEED)
    found: dict[int, float] = {}

    def search(start: int, end: int) -> None:
        if end - start < 2:
            return
        part, weight = values[start:end], weights[start:end]
        ratios = _ratios(part, weight)
        at = start + 1 + int(ratios.argmax())
        apart = _level(values[at:end], weights[at:end]) - _level(values[start:at], weights[start:at])
        if abs(apart) < floor:
            return
        chance = _ratios(random.normal(size=(DRAWS, end - start)) / np.sqrt(weight), weight).max(axis=1)
        p_value = (1 + int((chance >= ratios.max()).sum())) / (1 + DRAWS)
        if p_value <= rate:
            found[at] = p_value
            search(start, at)
            search(at, end)

    search(0, len(values))
    return found


def _ratios(values: Floats, weights: Floats) -> Floats:
    """Twice the log of the likelihood ratio of a cut before each value but the first, shape (..., n - 1)."""
    sums, mass = np.cumsum(values * weights, axis=-1), np.cumsum(weights)
    left, left_mass = sums[..., :-1], mass[:-1]
    right, right_mass = sums[..., -1:] - left, mass[-1] - left_mass
    apart = right / right_mass - left / left_mass
    ratios: Floats = np.square(apart) * left_mass * right_mass / mass[-1]
    return ratios


def _level(values: Floats, weights: Floats) -> float:
    return float(np.average(values, weights=weights))
