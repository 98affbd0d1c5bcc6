"""Metrics that are computed from shares of the rows, with their intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_mlops.metrics import intervals, weighted
from airflow_mlops.metrics.costs import Costs
from airflow_mlops.metrics.interval_ends import covers
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.realised.labelled import Bools, Outcomes, UnmeasurableError, two_classes
from airflow_mlops.metrics.statistics import influence


def accuracy(outcomes: Outcomes, z: float) -> Interval:
    """Measure the share of the rows whose predicted class is right."""
    return weighted.share(outcomes.right, outcomes.weight, z)


def interval_coverage(outcomes: Outcomes, z: float) -> Interval:
    """Measure the share of the labels that lie in their prediction interval."""
    return weighted.share(~missed(outcomes), outcomes.weight, z)


def recall(outcomes: Outcomes, z: float) -> Interval:
    """Measure the share of the positive labels that are predicted to be positive."""
    two_classes(outcomes)
    return _share(outcomes, outcomes.right, outcomes.truth, z)


def precision(outcomes: Outcomes, z: float) -> Interval:
    """Measure the share of the positive predictions whose label is positive.

    :raises UnmeasurableError: no row is predicted to be of the positive class
    """
    predicted = outcomes.truth == outcomes.right
    if not predicted.any():
        raise UnmeasurableError("no row is predicted to be of the positive class")
    return _share(outcomes, outcomes.truth, predicted, z)


def f1(outcomes: Outcomes, z: float) -> Interval:
    """Measure F1 = 2 j / (1 + j). Jaccard's index j is the share of correct rows among those positive or predicted positive."""
    two_classes(outcomes)
    either = outcomes.truth | ~outcomes.right
    index = _share(outcomes, outcomes.right, either, z)
    return Interval(*(2 * end / (1 + end) for end in (index.value, index.low, index.high)))


def balanced_accuracy(outcomes: Outcomes, z: float) -> Interval:
    """Measure the mean recall of the classes. The intervals of the recalls are combined by MOVER.

    Source of MOVER (method of variance estimates recovery): G. Zou and A. Donner, "Construction of Confidence Limits
    About Effect Measures", Statistics in Medicine 27, 2008.
    """
    if outcomes.codes is None:
        two_classes(outcomes)
    truth = outcomes.truth if outcomes.codes is None else outcomes.codes[0]
    found = [_share(outcomes, outcomes.right, truth == code, z) for code in np.unique(truth)]
    value = sum(one.value for one in found) / len(found)
    below = math.hypot(*(one.value - one.low for one in found)) / len(found)
    above = math.hypot(*(one.high - one.value for one in found)) / len(found)
    return Interval(value, max(0.0, value - below), min(1.0, value + above))


def f1_macro(outcomes: Outcomes, z: float) -> Interval:
    """Measure the mean F1 of the classes, with the variance of the rows' influence."""
    rows = outcomes.prepared("multiclass")
    value, by_row = influence("f1_macro", rows)
    counts = np.array([weighted.effective(outcomes.weight, rows.truth == code) for code in np.unique(rows.truth)])
    # A proportion of this many rows has the variance of a mean of proportions, one of the rows of each class.
    independent = len(counts) ** 2 / float((1 / counts).sum())
    return intervals.bounded(value, float(np.square(by_row).sum()), independent, z)


def expected_cost(costs: Costs, outcomes: Outcomes, z: float) -> Interval:
    """Measure the mean cost of a row.

    The interval combines the intervals of two shares, the false positives and the false negatives, by MOVER with their
    correlation (G. Zou and A. Donner, 2008, see :func:`balanced_accuracy`). The usual interval of a mean would have the
    width 0 if there are no errors, and would be too narrow if there are few expensive errors.
    """
    shares = [weighted.share(error, outcomes.weight, z) for error in errors(outcomes)]
    first, second = (share.value for share in shares)
    if outcomes.weight is None:
        # Sums of errors are exact, and the sum of their costs is rounded once.
        value = float(np.dot(costs, [int(error.sum()) for error in errors(outcomes)])) / outcomes.rows
    else:
        value = float(np.dot(costs, (first, second)))
    # The two errors exclude each other, so their shares have the correlation -sqrt(odds). If all rows have the same
    # error, it is undefined and counts as 0.
    odds = first * second / ((1 - first) * (1 - second)) if max(first, second) < 1 else 0.0
    below, above = (
        np.array([cost * width for cost, width in zip(costs, widths, strict=True)])
        for widths in ([share.value - share.low for share in shares], [share.high - share.value for share in shares])
    )
    low, high = (math.sqrt(max(0.0, sides @ sides - 2 * math.sqrt(odds) * sides.prod())) for sides in (below, above))
    return Interval(value, max(0.0, value - low), min(max(costs), value + high))


def missed(outcomes: Outcomes) -> Bools:
    """Return which labels do not lie in their prediction interval."""
    assert outcomes.interval is not None
    return ~covers(outcomes.interval, outcomes.truth, outcomes.score)


def errors(outcomes: Outcomes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which rows are false positives, and which are false negatives."""
    return ~outcomes.right & ~outcomes.truth, ~outcomes.right & outcomes.truth


def _share(outcomes: Outcomes, hits: npt.NDArray[Any], among: Bools, z: float) -> Interval:
    """Return the share of the rows ``among`` for which ``hits`` is true, with its interval."""
    return weighted.share(hits[among], None if outcomes.weight is None else outcomes.weight[among], z)
