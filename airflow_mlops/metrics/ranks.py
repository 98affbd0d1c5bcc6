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


def area(positive: NDArray[np.bool_], score: NDArray[np.float64], weight: NDArray[np.float64] | None = None) -> Area:
    """Compute the area under the ROC curve with DeLong's standard error, from :func:`placements`.

    Source: E. DeLong, D. DeLong and D. Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver
    Operating Characteristic Curves" (Biometrics 44, 1988).

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param score: the model's score of each row, shape (n,)
    :param weight: the weight of each row, shape (n,); ``None`` if all rows have the same weight
    """
    placed = placements(positive, score, weight)
    return Area(_mean(placed, positive, weight), *_delong(positive, placed, weight))


def delong(
    positive: NDArray[np.bool_],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    weight: NDArray[np.float64] | None = None,
) -> Areas:
    """Compute the areas under the ROC curve of two models, and the standard error of their difference (DeLong's test).

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param first: the first model's scores, shape (n,)
    :param second: the second model's scores, shape (n,)
    :param weight: the weight of each row, shape (n,); ``None`` if all rows have the same weight
    """
    one, two = placements(positive, first, weight), placements(positive, second, weight)
    return Areas(_mean(one, positive, weight), _mean(two, positive, weight), *_delong(positive, one - two, weight))


def _mean(placed: NDArray[np.float64], positive: NDArray[np.bool_], weight: NDArray[np.float64] | None = None) -> float:
    counted = positive if weight is None else positive[weight > 0]
    return mean_placement(placed, positive, weight) if counted.any() and not counted.all() else math.nan


def mean_placement(
    placed: NDArray[np.float64], positive: NDArray[np.bool_], weight: NDArray[np.float64] | None = None
) -> float:
    """Return the mean placement of the positive rows, which is the area under the ROC curve.

    :param placed: the placements, shape (n,)
    :param positive: whether each row belongs to the positive class, shape (n,)
    :param weight: the weight of each row, shape (n,); ``None`` if all rows have the same weight
    :return: the area; 0 without positive rows
    """
    if weight is None:
        return float(placed[positive].mean()) if positive.any() else 0.0
    total = float(weight[positive].sum())
    return float(weight[positive] @ placed[positive]) / total if total else 0.0


def _delong(
    positive: NDArray[np.bool_], placed: NDArray[np.float64], weight: NDArray[np.float64] | None = None
) -> tuple[float, NDArray[np.float64]]:
    """Return the standard error of the mean placement, and each row's influence on the mean placement.

    With weights, the variance is computed by the jackknife, from the change of the mean placement if a row is left out.
    With equal weights, this is DeLong's variance.
    """
    if weight is not None:
        return _weighted_delong(positive, placed, weight)
    if not positive.any() or positive.all():
        return math.nan, placed
    variance, influence = 0.0, np.empty(len(placed))
    for rows in (positive, ~positive):
        size = int(rows.sum())
        variance += float(placed[rows].var(ddof=1)) / size if size > 1 else math.nan
        influence[rows] = (placed[rows] - placed[rows].mean()) / size
    return math.sqrt(variance), influence


def _weighted_delong(
    positive: NDArray[np.bool_], placed: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    variance, influence = 0.0, np.zeros(len(placed))
    for rows in (positive, ~positive):
        total, size = float(weight[rows].sum()), int(np.count_nonzero(weight[rows]))
        if size < 2:
            return math.nan, influence
        share = weight[rows] / total
        influence[rows] = share * (placed[rows] - share @ placed[rows])
        left_out = np.divide(influence[rows], 1 - share, out=np.full(len(share), math.inf), where=share < 1)
        variance += float(np.square(left_out).sum()) * (size - 1) / size
    return math.sqrt(variance), influence


def placements(
    positive: NDArray[np.bool_], score: NDArray[np.float64], weight: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Compute the placement of each row: the share of correctly ranked pairs of this row with rows of the other class.

    A tie counts as half a correctly ranked pair. The mean placement over the rows of either class is the area under the
    ROC curve. Placements are computed from midranks in O(n log n), see X. Sun and W. Xu, "Fast Implementation of
    DeLong's Algorithm" (IEEE Signal Processing Letters 21, 2014).

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param score: the model's score of each row, shape (n,)
    :param weight: the weight of each row, shape (n,); ``None`` if all rows have the same weight. A pair is weighted by
        the weight of the row of the other class
    :return: placements from 0 to 1, shape (n,); 0 if the other class has no rows
    """
    tied = _Ties(positive, score, weight)
    above = tied.positives_here / -2
    above += tied.positives_from
    placed = above[tied.number] / (tied.positives or 1)
    del above
    below = tied.negatives_here / 2
    below += tied.negatives_before
    placed[tied.sorted] = below[tied.number[tied.sorted]] / (tied.negatives or 1)
    return tied.unsorted(placed)


def precision_terms(
    positive: NDArray[np.bool_], score: NDArray[np.float64], weight: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Compute the contribution of each row to average precision.

    Average precision is the sum of the contributions, divided by the number of positive rows. By definition, average
    precision is the mean precision over the positive rows. The precision of a row is the share of positive rows among
    all rows with at least the same score. The contribution of a row consists of its own precision and its effect on the
    precision of rows with a lower score. The ratio has the same derivative with respect to the weight of each row as
    average precision, so average precision can be bootstrapped as a ratio of sums (infinitesimal jackknife, B. Efron,
    "The Jackknife, the Bootstrap and Other Resampling Plans", 1982, chapter 6).

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param score: the model's score of each row, shape (n,)
    :param weight: the weight of each row, shape (n,); ``None`` if all rows have the same weight. With weights, average
        precision is the weighted sum of the contributions, divided by the weight of the positive rows
    :return: contributions, shape (n,)
    """
    tied = _Ties(positive, score, weight)
    # If all rows from a score upwards have a weight of 0, their precision would be 0/0. The divisor 1 makes it 0.
    reached = np.where(tied.reached > 0, tied.reached, 1)
    true = tied.positives_from
    precision = true / reached
    gained = np.cumsum(tied.positives_here / reached)
    lost = np.cumsum(tied.positives_here * true.astype(np.float64) / reached.astype(np.float64) ** 2)
    return tied.unsorted(tied.sorted * (precision + gained)[tied.number] - lost[tied.number])


class _Ties:
    """Rows sorted by score, and the number of rows of each class by distinct score.

    With weights, each number of rows is the sum of their weights. Arrays have one element for each distinct score, in
    ascending order, shape (d,).

    :ivar positives: number of all positive rows
    :ivar negatives: number of all negative rows
    :ivar positives_here: number of positive rows with exactly this score
    :ivar negatives_here: number of negative rows with exactly this score
    :ivar positives_from: number of positive rows with at least this score
    :ivar negatives_before: number of negative rows with a lower score
    :ivar reached: number of rows of both classes with at least this score
    """

    positives: float
    negatives: float
    positives_here: NDArray[Any]
    negatives_here: NDArray[Any]
    positives_from: NDArray[Any]
    negatives_before: NDArray[Any]
    reached: NDArray[Any]

    def __init__(
        self, positive: NDArray[np.bool_], score: NDArray[np.float64], weight: NDArray[np.float64] | None = None
    ) -> None:
        self.rows = len(score)
        # 32-bit integers halve the memory of the arrays that have an element for each row.
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
        first: NDArray[np.integer[Any]] = np.flatnonzero(new).astype(whole)
        del new
        if weight is None:
            self._count(first, whole)
        else:
            self._weigh(first, weight[self._order])

    def _count(self, first: NDArray[np.integer[Any]], whole: type[np.integer[Any]]) -> None:
        last = np.append(first[1:], first.dtype.type(self.rows))
        positives = np.zeros(self.rows + 1, dtype=whole)
        np.cumsum(self.sorted, out=positives[1:])
        self.positives = int(positives[-1])
        self.negatives = self.rows - self.positives
        before = positives[first]
        self.positives_here = positives[last] - before
        self.positives_from = self.positives - before
        self.negatives_before = first - before
        self.negatives_here = last - first - self.positives_here
        self.reached = self.rows - first

    def _weigh(self, first: NDArray[np.integer[Any]], weight: NDArray[np.float64]) -> None:
        # Sums of weights from the top and from the bottom: a difference of two sums would be inexact.
        here = [np.add.reduceat(np.where(rows, weight, 0.0), first) for rows in (self.sorted, ~self.sorted)]
        self.positives_here, self.negatives_here = here
        self.positives_from, negatives_from = (np.cumsum(each[::-1])[::-1] for each in here)
        self.positives, self.negatives = float(self.positives_from[0]), float(negatives_from[0])
        self.negatives_before = np.concatenate([[0.0], np.cumsum(self.negatives_here)[:-1]])
        self.reached = self.positives_from + negatives_from

    def unsorted(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``values``, one for each row sorted by score, in the original order of the rows."""
        original = np.empty(self.rows)
        original[self._order] = values
        return original
