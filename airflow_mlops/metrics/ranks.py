"""Compute the area under the ROC curve with DeLong's standard error, and average precision, each with one sort."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Area(NamedTuple):
    """The area under the ROC curve of one model.

    :param value: the area; NaN if only one class occurs
    :param standard_error: standard error of the area; NaN if a class has fewer than two rows
    :param influence: derivative of the area with respect to each row's weight, shape (n,)
    """

    value: float
    standard_error: float
    influence: NDArray[np.float64]


class Areas(NamedTuple):
    """The areas under the ROC curve of two models on the same rows.

    :param first: area of the first model; NaN if only one class occurs
    :param second: area of the second model; NaN if only one class occurs
    :param standard_error: standard error of ``first - second``; NaN if a class has fewer than two rows
    :param influence: derivative of ``first - second`` with respect to each row's weight, shape (n,)
    """

    first: float
    second: float
    standard_error: float
    influence: NDArray[np.float64]


def area(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> Area:
    """Compute the area under the ROC curve with DeLong's standard error, from :func:`placements`.

    Source: E. DeLong, D. DeLong and D. Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver
    Operating Characteristic Curves" (Biometrics 44, 1988).

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param score: the model's score of each row, shape (n,)
    """
    placed = placements(positive, score)
    return Area(_mean(placed, positive), *_delong(positive, placed))


def delong(positive: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64]) -> Areas:
    """Compute the areas under the ROC curve of two models, and the standard error of their difference (DeLong's test).

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param first: the first model's scores, shape (n,)
    :param second: the second model's scores, shape (n,)
    """
    one, two = placements(positive, first), placements(positive, second)
    return Areas(_mean(one, positive), _mean(two, positive), *_delong(positive, one - two))


def _mean(placed: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    return float(placed[positive].mean()) if positive.any() and not positive.all() else math.nan


def _delong(positive: NDArray[np.bool_], placed: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return the standard error of the mean placement, and each row's influence on the mean placement."""
    if not positive.any() or positive.all():
        return math.nan, placed
    variance, influence = 0.0, np.empty(len(placed))
    for rows in (positive, ~positive):
        size = int(rows.sum())
        variance += float(placed[rows].var(ddof=1)) / size if size > 1 else math.nan
        influence[rows] = (placed[rows] - placed[rows].mean()) / size
    return math.sqrt(variance), influence


def placements(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the placement of each row: the share of correctly ranked pairs of this row with rows of the other class.

    A tie counts as half a correctly ranked pair. The mean placement over the rows of either class is the area under the
    ROC curve. Placements are computed from midranks in O(n log n), see X. Sun and W. Xu, "Fast Implementation of DeLong's
    Algorithm" (IEEE Signal Processing Letters 21, 2014).

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param score: the model's score of each row, shape (n,)
    :return: placements from 0 to 1, shape (n,); 0 if the other class has no rows
    """
    tied = _Ties(positive, score)
    above = tied.positives - tied.positives_before - tied.positives_here / 2
    placed = above[tied.number] / max(1, tied.positives)
    del above
    below = tied.negatives_before + tied.negatives_here / 2
    placed[tied.sorted] = below[tied.number[tied.sorted]] / max(1, tied.rows - tied.positives)
    return tied.unsorted(placed)


def precision_terms(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the contribution of each row to average precision.

    Average precision is the sum of the contributions, divided by the number of positive rows. By definition, average
    precision is the mean precision over the positive rows. The precision of a row is the share of positive rows among
    all rows with at least the same score. The contribution of a row consists of its own precision and its effect on the
    precision of rows with a lower score. The ratio has the same derivative with respect to the weight of each row as
    average precision, so average precision can be bootstrapped as a ratio of sums (infinitesimal jackknife, B. Efron,
    "The Jackknife, the Bootstrap and Other Resampling Plans", 1982, chapter 6).

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param score: the model's score of each row, shape (n,)
    :return: contributions, shape (n,)
    """
    tied = _Ties(positive, score)
    reached = tied.rows - tied.first
    true = tied.positives - tied.positives_before
    precision = true / reached
    gained = np.cumsum(tied.positives_here / reached)
    lost = np.cumsum(tied.positives_here * true / reached.astype(np.float64) ** 2)
    return tied.unsorted(tied.sorted * (precision + gained)[tied.number] - lost[tied.number])


def precision_of_others(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Estimate average precision without the bias that each positive row adds to its own precision.

    The precision of a positive row is computed from the other rows, with the other positive rows weighted so that they
    stand for all. Without other rows above, the precision is 1.

    :param positive: whether each row belongs to the positive class, with at least two positive rows, shape (n,)
    :param score: the model's score of each row, shape (n,)
    """
    above, below = np.sort(score[positive]), np.sort(score[~positive])
    size = len(above)
    true = (size - np.searchsorted(above, above) - 1) * size / (size - 1)
    false = len(below) - np.searchsorted(below, above)
    reached = true + false
    return float(np.where(reached > 0, true / np.where(reached > 0, reached, 1), 1.0).mean())


class _Ties:
    """Rows sorted by score, with the class counts of each distinct score."""

    def __init__(self, positive: NDArray[np.bool_], score: NDArray[np.float64]) -> None:
        self.rows = len(score)
        # Half of the memory of 64-bit integers, of which there are several for each row.
        whole = np.int32 if self.rows < 2**31 else np.int64
        order = np.argsort(score)
        ordered = score[order]
        new = np.ones(self.rows, dtype=bool)
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        del ordered
        self._order: NDArray[np.integer[Any]] = order.astype(whole)
        del order
        self.sorted: NDArray[np.bool_] = positive[self._order]
        self.number: NDArray[np.integer[Any]] = np.cumsum(new, dtype=whole)
        self.number -= 1
        self.first = np.flatnonzero(new)
        last = np.append(self.first[1:], self.rows)
        positives = np.zeros(self.rows + 1, dtype=whole)
        np.cumsum(self.sorted, out=positives[1:])
        self.positives = int(positives[-1])
        self.positives_before = positives[self.first].astype(np.int64)
        self.positives_here = positives[last] - self.positives_before
        self.negatives_before = self.first - self.positives_before
        self.negatives_here = last - self.first - self.positives_here

    def unsorted(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``values`` in the original order of the rows. ``values`` are in the order of the sorted rows."""
        original = np.empty(self.rows)
        original[self._order] = values
        return original
