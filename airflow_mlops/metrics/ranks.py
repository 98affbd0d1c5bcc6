"""Area under the ROC curve and average precision by one sort, and DeLong's test of two areas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Areas(NamedTuple):
    """Two areas under the ROC curve on the same rows.

    :param standard_error: of ``first - second``; NaN where a class has fewer than two rows
    :param influence: by how much ``first - second`` grows with each row's weight, shape (n,)
    """

    first: float
    second: float
    standard_error: float
    influence: NDArray[np.float64]


def placements(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row, the share of the other class's rows that it is on the right side of; ties count half.

    Their mean over either class is the area under the ROC curve. By midranks in O(n log n), as X. Sun and W. Xu,
    "Fast Implementation of DeLong's Algorithm" (IEEE Signal Processing Letters 21, 2014).

    :return: shape (n,); 0 where there is no row of the other class
    """
    tied = _Ties(positive, score)
    below = tied.negatives_before + tied.negatives_here / 2
    above = tied.positives - tied.positives_before - tied.positives_here / 2
    found = np.where(tied.sorted, below[tied.number], above[tied.number])
    found /= np.maximum(1, np.where(tied.sorted, tied.rows - tied.positives, tied.positives))
    return tied.unsorted(found)


def precision_terms(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each row brings to average precision, so that their sum over the number of positives is it.

    Average precision is the mean, over the positive rows, of the precision among all rows that score as high. A row
    weighs in by its own precision and by what it does to that of lower rows: the sum's derivative with respect to the
    rows' weights is that of average precision, so it may be bootstrapped as a ratio of sums (the infinitesimal
    jackknife, B. Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982, chapter 6).

    :return: shape (n,)
    """
    tied = _Ties(positive, score)
    reached = tied.rows - tied.first
    true = tied.positives - tied.positives_before
    precision = true / reached
    gained = np.cumsum(tied.positives_here / reached)
    lost = np.cumsum(tied.positives_here * true / reached.astype(np.float64) ** 2)
    return tied.unsorted(tied.sorted * (precision + gained)[tied.number] - lost[tied.number])


def delong(positive: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64]) -> Areas:
    """Two models' areas under the ROC curve, and the standard error of their difference.

    E. DeLong, D. DeLong and D. Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves" (Biometrics 44, 1988), from the placements of :func:`placements`.

    :param positive: which rows are of the positive class, shape (n,)
    :param first: the first model's scores, shape (n,)
    :param second: the second model's
    """
    one, two = placements(positive, first), placements(positive, second)
    variance, influence = 0.0, one - two
    if not positive.any() or positive.all():
        return Areas(math.nan, math.nan, math.nan, influence)
    for rows in (positive, ~positive):
        size = int(rows.sum())
        variance += float(influence[rows].var(ddof=1)) / size if size > 1 else math.nan
        influence[rows] = (influence[rows] - influence[rows].mean()) / size
    return Areas(float(one[positive].mean()), float(two[positive].mean()), math.sqrt(variance), influence)


class _Ties:
    """Rows sorted by score, and counts for each different score."""

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
        found = np.empty(self.rows)
        found[self._order] = values
        return found
