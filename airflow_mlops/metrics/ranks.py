"""Area under the ROC curve with DeLong's standard error, and average precision, each by one sort."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Area(NamedTuple):
    """An area under the ROC curve.

    :param value: NaN if only one class occurs
    :param standard_error: NaN if a class has fewer than two rows
    :param influence: the derivative of the value by each row's weight, shape (n,)
    """

    value: float
    standard_error: float
    influence: NDArray[np.float64]


class Areas(NamedTuple):
    """Two models' areas under the ROC curve on the same rows.

    :param first: NaN, as ``second``, if only one class occurs
    :param standard_error: of ``first - second``; NaN if a class has fewer than two rows
    :param influence: the derivative of ``first - second`` by each row's weight, shape (n,)
    """

    first: float
    second: float
    standard_error: float
    influence: NDArray[np.float64]


def area(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> Area:
    """The area under the ROC curve with DeLong's standard error.

    E. DeLong, D. DeLong and D. Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves" (Biometrics 44, 1988), computed from :func:`placements`.

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param score: shape (n,)
    """
    placed = placements(positive, score)
    return Area(_mean(placed, positive), *_delong(positive, placed))


def delong(positive: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64]) -> Areas:
    """Two models' areas under the ROC curve with the standard error of their difference, by DeLong's paired test.

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param first: the first model's scores, shape (n,)
    :param second: the second model's scores, shape (n,)
    """
    one, two = placements(positive, first), placements(positive, second)
    return Areas(_mean(one, positive), _mean(two, positive), *_delong(positive, one - two))


def _mean(placed: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    return float(placed[positive].mean()) if positive.any() and not positive.all() else math.nan


def _delong(positive: NDArray[np.bool_], placed: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The standard error of the mean placement, and each row's influence on it."""
    if not positive.any() or positive.all():
        return math.nan, placed
    variance, influence = 0.0, np.empty(len(placed))
    for rows in (positive, ~positive):
        size = int(rows.sum())
        variance += float(placed[rows].var(ddof=1)) / size if size > 1 else math.nan
        influence[rows] = (placed[rows] - placed[rows].mean()) / size
    return math.sqrt(variance), influence


def placements(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row, the share of rows of the other class that it is ranked correctly against; ties count half.

    Their mean over either class is the area under the ROC curve. Computed by midranks in O(n log n), see X. Sun and
    W. Xu, "Fast Implementation of DeLong's Algorithm" (IEEE Signal Processing Letters 21, 2014).

    :return: shape (n,); 0 if there is no row of the other class
    """
    tied = _Ties(positive, score)
    below = tied.negatives_before + tied.negatives_here / 2
    above = tied.positives - tied.positives_before - tied.positives_here / 2
    placed = np.where(tied.sorted, below[tied.number], above[tied.number])
    placed /= np.maximum(1, np.where(tied.sorted, tied.rows - tied.positives, tied.positives))
    return tied.unsorted(placed)


def precision_terms(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row's contribution to average precision: their sum divided by the number of positives is the metric.

    Average precision is the mean, over the positive rows, of the precision among all rows with at least the same score.
    A row contributes its own precision and its effect on the precision of lower rows. The derivative of the sum with
    respect to the rows' weights is that of average precision, so it can be bootstrapped as a ratio of sums (the
    infinitesimal jackknife, B. Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982, chapter 6).

    :return: shape (n,)
    """
    tied = _Ties(positive, score)
    reached = tied.rows - tied.first
    true = tied.positives - tied.positives_before
    precision = true / reached
    gained = np.cumsum(tied.positives_here / reached)
    lost = np.cumsum(tied.positives_here * true / reached.astype(np.float64) ** 2)
    return tied.unsorted(tied.sorted * (precision + gained)[tied.number] - lost[tied.number])


class _Ties:
    """Rows sorted by score, with the class counts of each distinct score."""

    def __init__(self, positive: NDArray[np.bool_], score: NDArray[np.float64]) -> None:
        self.rows = len(score)
        self._order = np.argsort(score)
        ordered = score[self._order]
        self.sorted: NDArray[np.bool_] = positive[self._order]
        new = np.ones(self.rows, dtype=bool)
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        self.number: NDArray[np.intp] = np.cumsum(new) - 1
        self.first = np.flatnonzero(new)
        last = np.append(self.first[1:], self.rows)
        positives = np.concatenate([[0], np.cumsum(self.sorted)])
        self.positives = int(positives[-1])
        self.positives_before, self.positives_here = positives[self.first], positives[last] - positives[self.first]
        self.negatives_before = self.first - self.positives_before
        self.negatives_here = last - self.first - self.positives_here

    def unsorted(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """``values``, which follow the sorted rows, in the rows' original order."""
        original = np.empty(self.rows)
        original[self._order] = values
        return original
