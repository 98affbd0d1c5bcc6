"""Metrics that are computed from shares of the rows, with their intervals.

In all functions, ``z`` is the quantile of the normal distribution that belongs to the confidence, such as 1.96.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_mlops.metrics import intervals, weighted
from airflow_mlops.metrics.costs import Costs
from airflow_mlops.metrics.interval_ends import covers
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.losses import at_most
from airflow_mlops.metrics.realised.confusion import Confusion, confusion
from airflow_mlops.metrics.realised.labelled import Bools, Floats, Labelled, Outcomes, UnmeasurableError, two_classes


def accuracy(outcomes: Labelled, z: float) -> Interval:
    """Measure the share of the rows whose predicted class is correct."""
    return _share(outcomes, lambda part: part.right, z)


def interval_coverage(outcomes: Labelled, z: float) -> Interval:
    """Measure the share of the labels that lie in their prediction interval."""
    return _share(outcomes, lambda part: ~missed(part), z)


def quantile_coverage(outcomes: Labelled, z: float) -> Interval:
    """Measure the share of the labels that are at most the predicted quantile."""
    return _share(outcomes, lambda part: at_most(part.truth, part.score), z)


def coverage_gap(alpha: float, outcomes: Labelled, z: float) -> Interval:
    """Measure the distance between ``alpha`` and the share of the labels that are at most the predicted quantile.

    The ends of the interval are the smallest and the largest distance between ``alpha`` and a value in the interval of
    this share.
    """
    share = quantile_coverage(outcomes, z)
    ends = abs(share.low - alpha), abs(share.high - alpha)
    low = 0.0 if share.low <= alpha <= share.high else min(ends)
    return Interval(abs(share.value - alpha), low, max(ends))


def recall(outcomes: Labelled, z: float) -> Interval:
    """Measure the share of the rows with a positive label that are predicted to be positive.

    :raises UnmeasurableError: all labels are of one class
    """
    two_classes(outcomes)
    return _share(outcomes, lambda part: part.right, z, among=lambda part: part.truth)


def precision(outcomes: Labelled, z: float) -> Interval:
    """Measure the share of the rows predicted to be positive whose label is positive.

    :raises UnmeasurableError: no row is predicted to be positive
    """
    if not any(_predicted(part).any() for part in outcomes.parts()):
        raise UnmeasurableError("no row is predicted to be positive")
    return _share(outcomes, lambda part: part.truth, z, among=_predicted)


def f1(outcomes: Labelled, z: float) -> Interval:
    """Measure F1, computed as ``2 * j / (1 + j)`` from Jaccard's index j.

    Jaccard's index is the share of correctly predicted rows among the rows that are positive or predicted to be
    positive. The ends of the interval are computed in the same way from the ends of the interval of j.

    :raises UnmeasurableError: all labels are of one class
    """
    two_classes(outcomes)
    index = _share(outcomes, lambda part: part.right, z, among=lambda part: part.truth | ~part.right)
    return Interval(*(2 * end / (1 + end) for end in (index.value, index.low, index.high)))


def balanced_accuracy(outcomes: Labelled, z: float) -> Interval:
    """Measure the mean recall of the classes. The intervals of the recalls are combined by MOVER.

    Source of MOVER (method of variance estimates recovery): G. Zou and A. Donner, "Construction of Confidence Limits
    About Effect Measures", Statistics in Medicine 27, 2008.

    :raises UnmeasurableError: the ML task is binary, and all labels are of one class
    """
    matrix = confusion(outcomes)
    if matrix.is_binary:
        two_classes(outcomes)
    mass, squares = (_by_class(matrix, values) for values in (matrix.mass, matrix.squares))
    found = [
        weighted.share_of_sums(*sums, z, is_weighted=matrix.is_weighted) for sums in zip(mass, squares, strict=True)
    ]
    value = sum(one.value for one in found) / len(found)
    below = math.hypot(*(one.value - one.low for one in found)) / len(found)
    above = math.hypot(*(one.high - one.value for one in found)) / len(found)
    return Interval(value, max(0.0, value - below), min(1.0, value + above))


def f1_macro(outcomes: Labelled, z: float) -> Interval:
    """Measure the mean F1 of the classes, with the variance of the rows' influence."""
    matrix = confusion(outcomes)
    value, by_row = matrix.influence("f1_macro")
    mass, squares = (_by_class(matrix, values).sum(axis=1) for values in (matrix.mass, matrix.squares))
    counts = np.square(mass) / squares
    # The mean of one proportion for each class, computed on the rows of the class, has the variance of a proportion of
    # this many rows.
    independent = len(counts) ** 2 / float((1 / counts).sum())
    return intervals.bounded(value, float(np.square(by_row) @ matrix.squares), independent, z)


def _by_class(matrix: Confusion, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sum values of the cells over the wrong and the correct predictions for each of the k labels, shape (k, 2)."""
    _, classes = np.unique(matrix.truth, return_inverse=True)
    found = np.bincount(2 * classes + matrix.right, values, 2 * (1 + int(classes.max())))
    return found.astype(float).reshape(-1, 2)


def expected_cost(costs: Costs, outcomes: Labelled, z: float) -> Interval:
    """Measure the mean cost of a row.

    The interval combines the intervals of two shares of rows: false positives and false negatives. It is computed by
    MOVER with the correlation of the shares (G. Zou and A. Donner, 2008, see :func:`balanced_accuracy`).
    The usual interval of a mean would have the width 0 without errors, and would be too narrow with few expensive
    errors.

    If the cost of an error is a column, the mean cost of this error is the share of errors, weighted by cost, times the
    mean of the column. The interval of the mean cost is Wilson's interval of this share, times the same mean. This
    interval ignores that other rows may cost more. The combined interval is therefore at least as wide, at each end, as
    the usual interval of a mean, corrected for skewness.

    :param costs: the costs of both errors
    :param outcomes: the labelled predictions
    :raises UnmeasurableError: the rows lack a column of costs, or the mean of the costs or its standard error is not
        finite
    """
    found = [_mean_cost(cost, number, outcomes, z) for number, cost in enumerate(costs)]
    if not costs.columns and all(part.weight is None for part in outcomes.parts()):
        # The sums of errors are exact integers, and the sum of their costs is rounded once.
        counts = np.sum([[int(error.sum()) for error in errors(part)] for part in outcomes.parts()], axis=0)
        value = float(np.dot(costs, counts)) / outcomes.rows
    else:
        value = sum(mean.value for mean, _ in found)
    # No row has both errors, so the covariance of the two costs of a row is minus the product of their means. If a
    # variance is 0, the correlation is undefined and counts as 0.
    (first, first_variance), (second, second_variance) = found
    spread = math.sqrt(first_variance) * math.sqrt(second_variance)
    correlation = min(1.0, first.value * second.value / spread) if spread > 0 else 0.0
    below = np.array([mean.value - mean.low for mean, _ in found])
    above = np.array([mean.high - mean.value for mean, _ in found])
    low, high = (math.sqrt(max(0.0, sides @ sides - 2 * correlation * sides.prod())) for sides in (below, above))
    if costs.columns:
        mean = _mean_of_rows(costs, outcomes, z)
        low, high = max(low, value - mean.low), max(high, mean.high - value)
    return Interval(value, max(0.0, value - low), min(costs.most, value + high))


def _mean_cost(cost: float | str, number: int, outcomes: Labelled, z: float) -> tuple[Interval, float]:
    """Measure the mean cost of one kind of error, and the variance of this cost between rows.

    :param cost: the cost, or the name of the column with the cost of each row
    :param number: position of the kind of error in :func:`errors`
    """
    if not isinstance(cost, str):
        share = _share(outcomes, lambda part: errors(part)[number], z)
        mean = Interval(*(cost * end for end in (share.value, share.low, share.high)))
        return mean, cost**2 * share.value * (1 - share.value)

    def rows() -> Iterator[tuple[Floats, Bools, Floats | None]]:
        for part in outcomes.parts():
            yield np.asarray(part.cost(cost)), errors(part)[number], part.weight

    if not any((each > 0).any() for each, _, _ in rows()):
        return Interval(0.0, 0.0, 0.0), 0.0
    charged = ((each > 0, each if weight is None else each * weight, error) for each, error, weight in rows())
    share = weighted.share_of(((error[some], mass[some]) for some, mass, error in charged), z)
    whole = weighted.mean_of((each, weight) for each, _, weight in rows())
    value = weighted.mean_of((each * error, weight) for each, error, weight in rows())
    variance = weighted.mean_of((np.square(each * error - value), weight) for each, error, weight in rows())
    return Interval(value, whole * share.low, whole * share.high), variance


def row_costs(costs: Costs, outcomes: Outcomes) -> Floats:
    """Return the cost of the prediction for each row, shape (n,).

    :raises UnmeasurableError: the rows lack a column of costs
    """
    each = (outcomes.cost(cost) * error for cost, error in zip(costs, errors(outcomes), strict=True))
    return np.asarray(sum(each))


def _mean_of_rows(costs: Costs, outcomes: Labelled, z: float) -> Interval:
    found = weighted.interval_of(lambda: ((row_costs(costs, part), part.weight) for part in outcomes.parts()), z)
    if not math.isfinite(found.high - found.low):
        raise UnmeasurableError(
            "the costs have no finite mean and standard error, because they are too large or too few"
        )
    return found


def missed(outcomes: Outcomes) -> Bools:
    """Return whether each label lies outside its prediction interval, shape (n,)."""
    assert outcomes.interval is not None
    return ~covers(outcomes.interval, outcomes.truth, outcomes.score)


def errors(outcomes: Outcomes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return whether each row is a false positive, and whether it is a false negative, each of shape (n,)."""
    return ~outcomes.right & ~outcomes.truth, ~outcomes.right & outcomes.truth


def _predicted(outcomes: Outcomes) -> Bools:
    """Return whether each row is predicted to be positive, shape (n,)."""
    return np.asarray(outcomes.truth == outcomes.right)


def _share(
    outcomes: Labelled,
    hits: Callable[[Outcomes], npt.NDArray[Any]],
    z: float,
    among: Callable[[Outcomes], npt.NDArray[Any]] | None = None,
) -> Interval:
    """Return the share of the rows ``among`` for which ``hits`` is true, with its interval.

    :param hits: function of a part of the rows, which returns booleans of shape (n,)
    :param among: as ``hits``; ``None`` for all rows
    """

    def batches() -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]]:
        for part in outcomes.parts():
            rows = slice(None) if among is None else among(part)
            yield hits(part)[rows], None if part.weight is None else part.weight[rows]

    return weighted.share_of(batches(), z)
