"""Compute the area under the ROC curve and average precision of rows that are sorted by score, one batch at a time.

The area equals that of :mod:`airflow_mlops.metrics.ranks`, which sorts the rows in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from airflow_mlops.metrics.moments import GroupMoments

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Positions of the classes in arrays of shape (2,).
_NEGATIVE, _POSITIVE = 0, 1


class Ordered(NamedTuple):
    """A batch of rows in the order of the score, which is ascending for the area, and descending for average precision.

    :param positive: whether each row belongs to the positive class, shape (n,)
    :param score: the model's score of each row, shape (n,)
    :param weight: the weight of each row, above 0, shape (n,); ``None`` if all rows have the same weight
    """

    positive: NDArray[np.bool_]
    score: NDArray[np.float64]
    weight: NDArray[np.float64] | None = None


Batches: TypeAlias = Callable[[], Iterable[Ordered]]
"""Yields all rows in the order of the score. Each call yields the same batches."""


class OrderedArea(NamedTuple):
    """The area under the ROC curve. Arrays have an element for the negative and one for the positive class, shape (2,).

    :param value: the area; NaN if only one class occurs
    :param standard_error: standard error of the area (DeLong); NaN if a class has fewer than two rows
    :param mass: sum of the weights of each class, or its number of rows
    :param mean: mean placement of each class
    :param effective: Kish's effective number of rows of each class
    """

    value: float
    standard_error: float
    mass: NDArray[np.float64]
    mean: NDArray[np.float64]
    effective: NDArray[np.float64]

    def losses(self, positive: NDArray[np.bool_], placed: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the loss of each row, see :func:`airflow_mlops.metrics.realised.losses`, shape (n,).

        :param positive: whether each row belongs to the positive class, shape (n,)
        :param placed: the placement of each row, shape (n,)
        """
        own = positive.astype(np.int64)
        return np.asarray((1 - self.value) - self.mass.sum() * (placed - self.mean[own]) / self.mass[own])


class OrderedPrecision(NamedTuple):
    """Average precision, and the sums from which the influence of each row is computed.

    :param value: average precision
    :param of_others: average precision without the bias that each positive row adds to its own precision. The precision
        of a positive row is computed without the row itself. Each of the other n - 1 positive rows then has the weight
        n / (n - 1). If no other row has a score at least as high, the precision is 1
    :param effective: Kish's effective number of positive rows
    :param positives: sum of the weights of the positive rows, or their number
    :param effects: sum of the effects of all runs (:func:`_precisions`), shape (2,)
    """

    value: float
    of_others: float
    effective: float
    positives: float
    effects: NDArray[np.float64]

    def influences(self, batches: Batches) -> Iterator[NDArray[np.float64]]:
        """Yield the derivative of average precision with respect to the weight of each row of each batch, shape (n,).

        The derivative consists of the row's own precision and its effect on the precision of rows with at most the same
        score (infinitesimal jackknife, B. Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982, chapter
        6).

        :param batches: the rows in descending order of the score
        """
        for batch, runs, precision, _, before in _precisions(batches):
            if not len(batch.score):
                yield np.empty(0)
                continue
            gained, lost = (self.effects - before).T
            own = precision - self.value + gained
            yield (batch.positive * own[runs.number] - lost[runs.number]) / self.positives


def ordered_precision(batches: Batches) -> OrderedPrecision:
    """Compute average precision: the mean precision over the positive rows.

    The precision of a row is the share of positive rows among all rows with at least the same score.

    :param batches: the rows in descending order of the score, at least one of them positive
    """
    _, mass, squares = _sums(batches)
    total = float(mass[_POSITIVE])
    value, of_others, effects = 0.0, 0.0, np.zeros(2)
    for batch, runs, precision, each, before in _precisions(batches):
        if not len(batch.score):
            continue
        number = runs.number[batch.positive]
        own = np.ones(len(number)) if batch.weight is None else batch.weight[batch.positive]
        value += float(own @ precision[number])
        negatives, positives = (runs.before + runs.here)[number].T
        true = np.maximum(0.0, positives - own) * total / np.maximum(total - own, np.finfo(float).tiny)
        reached = true + negatives
        # After the subtraction, sums of weights that should be 0 may differ from 0 by rounding errors.
        some = reached > 1e-12 * total
        of_others += float(own @ np.where(some, true / np.where(some, reached, 1), 1.0))
        effects = before[-1] + each[-1]
    effective = total**2 / float(squares[_POSITIVE])
    return OrderedPrecision(value / total, of_others / total, effective, total, effects)


def _precisions(
    batches: Batches,
) -> Iterator[tuple[Ordered, Runs, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the batches with their k runs, and the precision and the effects of each run.

    The effects of a run are the derivatives of the sum of the precisions of its positive rows with respect to the weight
    of a row with at least its score: the increase if the row is positive, and the decrease for every row.

    :param batches: the rows in descending order of the score
    :return: the batch, its runs, the precision, shape (k,), the effects, shape (k, 2), and the sum of the effects of all
        runs before each run, shape (k, 2)
    """
    below = np.zeros(2)
    for batch, runs in by_run(batches):
        reached = runs.before + runs.here
        positives, every = reached[:, _POSITIVE], reached.sum(axis=1)
        here = runs.here[:, _POSITIVE]
        effects = np.stack([here / every, here * positives / np.square(every)], axis=1)
        before = below + np.cumsum(np.vstack([np.zeros(2), effects[:-1]]), axis=0)
        yield batch, runs, positives / every, effects, before
        below = before[-1] if len(effects) else below


def ordered_area(batches: Batches) -> OrderedArea:
    """Compute the area under the ROC curve with DeLong's standard error, as :func:`airflow_mlops.metrics.ranks.area`.

    :param batches: the rows in ascending order of the score
    """
    counts, mass, squares = _sums(batches)
    effective = np.divide(np.square(mass), squares, out=np.zeros(2), where=squares > 0)
    placed_rows, left_out = GroupMoments(2), GroupMoments(2)
    for batch, placed in zip(batches(), ordered_placements(batches, mass), strict=True):
        own = batch.positive.astype(np.int64)
        placed_rows.add(own, placed, batch.weight)
        share = (1.0 if batch.weight is None else batch.weight) / mass[own]
        with np.errstate(divide="ignore"):
            # The change of the mean placement of a class if a row is left out, divided by the row's deviation from the mean.
            left_out.add(own, placed, np.square(share / (1 - share)))
    value = float(placed_rows.mean[_POSITIVE]) if mass.all() else math.nan
    error = math.nan
    if counts.min() >= 2:
        with np.errstate(invalid="ignore"):
            error = math.sqrt(float((left_out.around(placed_rows.mean) * (counts - 1) / counts).sum()))
    return OrderedArea(value, error, mass, placed_rows.mean, effective)


def _sums(batches: Batches) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the number of rows, and the sums of the weights and of the squared weights of each class, shape (2,)."""
    counts, mass, squares = np.zeros(2), np.zeros(2), np.zeros(2)
    for batch in batches():
        weight = batch.weight
        counts += np.bincount(batch.positive, minlength=2)
        mass += np.bincount(batch.positive, weight, 2)
        squares += np.bincount(batch.positive, None if weight is None else np.square(weight), 2)
    return counts, mass, squares


def ordered_placements(batches: Batches, mass: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the placements of the rows of each batch, as :func:`airflow_mlops.metrics.ranks.placements`, shape (n,).

    :param batches: the rows in ascending order of the score
    :param mass: sum of the weights of the negative and of the positive class, shape (2,)
    """
    whole = np.where(mass > 0, mass, 1.0)
    for batch, runs in by_run(batches):
        if not len(batch.score):
            yield np.empty(0)
            continue
        middle = runs.before + runs.here / 2
        of_positive = middle[:, _NEGATIVE] / whole[_NEGATIVE]
        of_negative = (mass[_POSITIVE] - middle[:, _POSITIVE]) / whole[_POSITIVE]
        yield np.where(batch.positive, of_positive[runs.number], of_negative[runs.number])


class Runs(NamedTuple):
    """The runs of a batch. A run is the rows of one score, which may continue in other batches.

    :param number: the number of the run of each row, from 0, shape (n,). Run 0 is the last run of the batch before, if
        there is one
    :param here: sum of the weights of each class in each run, shape (k, 2)
    :param before: sum of the weights of each class in all runs before each run, shape (k, 2)
    """

    number: NDArray[np.int64]
    here: NDArray[np.float64]
    before: NDArray[np.float64]


def by_run(batches: Batches) -> Iterator[tuple[Ordered, Runs]]:
    """Yield the batches with their runs. A batch without rows has no runs.

    :param batches: the rows in the order of the score
    """
    # The last run of a batch may continue in the next batches, which are therefore read in advance.
    ahead = _runs(batches())
    here, below, last = np.zeros((0, 2)), np.zeros(2), math.nan
    for batch in batches():
        if not len(batch.score):
            yield batch, Runs(np.empty(0, np.int64), np.zeros((0, 2)), np.zeros((0, 2)))
            continue
        number = np.cumsum(_starts(batch.score, last)) - int(math.isnan(last))
        count = int(number[-1]) + 1
        while len(here) < count:
            here = np.concatenate([here, next(ahead)])
        before = below + np.cumsum(np.vstack([np.zeros(2), here[: count - 1]]), axis=0)
        yield batch, Runs(number, here[:count], before)
        below, here, last = before[-1], here[count - 1 :], float(batch.score[-1])


def _runs(batches: Iterable[Ordered]) -> Iterator[NDArray[np.float64]]:
    """Yield the sum of the weights of each class in each run of equal scores, shape (k, 2), several runs at once."""
    open_run, last = np.zeros((1, 2)), math.nan
    for batch in batches:
        if not len(batch.score):
            continue
        new = _starts(batch.score, last)
        number = np.cumsum(new)
        sums = np.zeros((int(number[-1]) + 1, 2))
        for own in (_NEGATIVE, _POSITIVE):
            rows = batch.positive == bool(own)
            sums[:, own] = np.bincount(number[rows], None if batch.weight is None else batch.weight[rows], len(sums))
        sums[0] += open_run[0]
        # Before the first row there is no run.
        yield sums[int(math.isnan(last)) : -1]
        open_run, last = sums[-1:], float(batch.score[-1])
    yield open_run


def _starts(score: NDArray[np.float64], last: float) -> NDArray[np.bool_]:
    """Return whether each row is the first of its run, shape (n,).

    :param last: the score before the first row; NaN if there is none
    """
    found = np.ones(len(score), bool)
    np.not_equal(score[1:], score[:-1], out=found[1:])
    found[:1] = score[:1] != last
    return found
