"""Find change points in a series of values with known standard errors.

The method is binary segmentation (A. Scott and M. Knott, "A Cluster Analysis Method for Grouping Means in the Analysis
of Variance", 1974). For each position at which the series can be cut in two, the likelihood ratio compares two weighted
means with one weighted mean. Only the cut with the largest ratio is tested. The cut is a change point if such a large
ratio is rare in simulated series with a constant level and the same standard errors. The search then continues before
and after the change point, and stops if the tested cut is not a change point.

The false-alarm rate is the probability of finding any change point in a series with a constant level. The first test
alone determines this rate: without a change point, the search stops there.

A single value that differs from both neighbours is an outlier and not a level. The search is repeated without outliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# The smallest number of values at one level, and the number of simulated series.
_MIN_LENGTH, _SIMULATIONS, _SEED = 2, 2_000, 0

Floats = npt.NDArray[np.float64]


class ChangePoint(NamedTuple):
    """A position in a series at which the level changes.

    :param at: position of the first value at the new level
    :param before: mean level from the previous change point to this change point; precise values have larger weights
    :param after: mean level from this change point to the next change point; precise values have larger weights
    :param p_value: probability of a likelihood ratio at least this large in a series with a constant level
    """

    at: int
    before: float
    after: float
    p_value: float


def change_points(
    values: Sequence[float] | Floats, errors: Sequence[float] | Floats, rate: float, min_change: float = 0.0
) -> list[ChangePoint]:
    """Find the positions at which the level of a series changes.

    :param values: the values, ordered by time, shape (n,)
    :param errors: standard errors of the values, shape (n,)
    :param rate: false-alarm rate: probability of finding any change point in a series with a constant level
    :param min_change: smallest difference between two levels that counts
    :return: change points ordered by time; empty for fewer than four values, or if all standard errors are 0
    """
    series, spread = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    if len(series) < 2 * _MIN_LENGTH or not spread.max() > 0:
        return []
    # Standard errors have a lower bound, so that no single value outweighs all others together.
    weights = 1 / np.square(np.maximum(spread, spread.max() / 1_000))
    index = np.arange(len(series))
    while len(index) >= 2 * _MIN_LENGTH:
        cuts = _cuts(series[index], weights[index], rate, min_change)
        bounds = [0, *sorted(cuts), len(index)]
        outliers = [start for start, end in pairwise(bounds) if end - start < _MIN_LENGTH]
        if not outliers:
            levels = [_mean(series[index[start:end]], weights[index[start:end]]) for start, end in pairwise(bounds)]
            return [
                ChangePoint(int(index[at]), before, after, cuts[at])
                for at, (before, after) in zip(bounds[1:-1], pairwise(levels), strict=True)
            ]
        index = np.delete(index, outliers)
    return []


def _cuts(values: Floats, weights: Floats, rate: float, min_change: float) -> dict[int, float]:
    """Return the p-value of each cut, by the position of the first value after the cut.

    Two cuts may have a single value between them.
    """
    random = np.random.default_rng(_SEED)
    found: dict[int, float] = {}

    def search(start: int, end: int) -> None:
        if end - start < 2:
            return
        part, weight = values[start:end], weights[start:end]
        ratios = _likelihood_ratios(part, weight)
        at = start + 1 + int(ratios.argmax())
        change = _mean(values[at:end], weights[at:end]) - _mean(values[start:at], weights[start:at])
        if abs(change) < min_change:
            return
        simulated = random.normal(size=(_SIMULATIONS, end - start)) / np.sqrt(weight)
        largest = _likelihood_ratios(simulated, weight).max(axis=1)
        p_value = (1 + int((largest >= ratios.max()).sum())) / (1 + _SIMULATIONS)
        if p_value <= rate:
            found[at] = p_value
            search(start, at)
            search(at, end)

    search(0, len(values))
    return found


def _likelihood_ratios(values: Floats, weights: Floats) -> Floats:
    """Return twice the log-likelihood ratio for a cut before each value except the first, shape (..., n - 1)."""
    sums, mass = np.cumsum(values * weights, axis=-1), np.cumsum(weights)
    left, left_mass = sums[..., :-1], mass[:-1]
    right, right_mass = sums[..., -1:] - left, mass[-1] - left_mass
    difference = right / right_mass - left / left_mass
    ratios: Floats = np.square(difference) * left_mass * right_mass / mass[-1]
    return ratios


def _mean(values: Floats, weights: Floats) -> float:
    return float(np.average(values, weights=weights))
