"""Metrics of the order of the scores, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from airflow_mlops.metrics import intervals, weighted
from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.groups import ndcg as group_ndcg
from airflow_mlops.metrics.groups import wrong_relevance
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.ordered_ranks import Ordered, OrderedArea, ordered_area, ordered_precision
from airflow_mlops.metrics.rankings import ranking_of
from airflow_mlops.metrics.ranks import Area, area
from airflow_mlops.metrics.realised.labelled import Floats, Labelled, Outcomes, UnmeasurableError, two_classes


def roc_auc(outcomes: Labelled, z: float) -> Interval:
    """Measure the area under the ROC curve with an interval from DeLong's variance.

    :param outcomes: the labelled predictions, in ascending order of the score if they are in several parts
    :param z: quantile of the normal distribution, such as 1.96
    :raises UnmeasurableError: a class has fewer than two labels
    """
    if isinstance(outcomes, Outcomes):
        found = area_of(outcomes)
        rarer = min(weighted.effective(outcomes.weight, rows) for rows in (outcomes.truth, ~outcomes.truth))
        return intervals.bounded(found.value, found.standard_error**2, rarer, z)
    ordered = ordered_area_of(outcomes)
    return intervals.bounded(ordered.value, ordered.standard_error**2, float(ordered.effective.min()), z)


def ordered_area_of(outcomes: Labelled) -> OrderedArea:
    """Compute the area under the ROC curve of rows in ascending order of the score.

    :raises UnmeasurableError: a class has fewer than two labels
    """
    _two_of_each_class(outcomes)
    return ordered_area(partial(ordered_rows, outcomes))


def ordered_rows(outcomes: Labelled) -> Iterator[Ordered]:
    """Yield the labels, the scores and the weights of each part."""
    for part in outcomes.parts():
        yield Ordered(part.truth, part.score, part.weight)


def average_precision(outcomes: Labelled, z: float) -> Interval:
    """Measure average precision. The interval is computed around an estimate that corrects the bias of the value.

    With few positive rows, average precision is biased upwards, because each positive row counts towards its own
    precision. The estimate leaves each positive row out of its own precision. If necessary, the interval is extended
    to contain the measured value.

    :param outcomes: the labelled predictions, in descending order of the score if they are in several parts
    :param z: quantile of the normal distribution, such as 1.96
    :raises UnmeasurableError: all labels are of one class
    """
    positives = two_classes(outcomes)
    rows = partial(ordered_rows, descending(outcomes))
    known = ordered_precision(rows)
    value, variance = known.value, 0.0
    for batch, by_row in zip(rows(), known.influences(rows), strict=True):
        variance += float(np.square(by_row if batch.weight is None else by_row * batch.weight).sum())
    quantile = z + (z**3 + z) / (4 * max(1, known.effective - 1))
    middle = known.of_others if positives > 1 else value
    found = intervals.bounded(middle, variance, known.effective, quantile)
    # The sum of precisions may exceed the number of positive rows by a rounding error.
    return Interval(min(1.0, value), min(value, found.low), min(1.0, max(value, found.high)))


def average_precision_losses(outcomes: Labelled) -> Iterator[Floats]:
    """Yield the losses of the rows of each part, see :func:`airflow_mlops.metrics.realised.losses`, shape (n,).

    :param outcomes: the labelled predictions, in descending order of the score if they are in several parts
    :raises UnmeasurableError: all labels are of one class
    """
    two_classes(outcomes)
    rows = partial(ordered_rows, descending(outcomes))
    known = ordered_precision(rows)
    found = (np.asarray((1 - known.value) - outcomes.rows * by_row) for by_row in known.influences(rows))
    if not isinstance(outcomes, Outcomes):
        yield from found
        return
    (each,) = found
    original = np.empty(outcomes.rows)
    original[_from_high_to_low(outcomes)] = each
    yield original


def descending(outcomes: Labelled) -> Labelled:
    """Return rows in descending order of the score. Rows in several parts are returned unchanged."""
    return outcomes.take(_from_high_to_low(outcomes)) if isinstance(outcomes, Outcomes) else outcomes


def _from_high_to_low(outcomes: Outcomes) -> npt.NDArray[np.int64]:
    """Return the positions of the rows in descending order of the score, shape (n,)."""
    return np.argsort(-outcomes.score)


def ndcg(metric: str, outcomes: Outcomes, z: float) -> Interval:
    """Measure NDCG with an interval from the variance between groups.

    :param metric: name of the metric with its parameters
    :param z: quantile of the normal distribution, such as 1.96
    :raises UnmeasurableError: see :func:`by_group`
    """
    value, influence, groups = by_group(metric, outcomes)
    return intervals.bounded(value, float(np.square(influence).sum()), groups, z)


def by_group(metric: str, outcomes: Outcomes) -> tuple[float, Floats, int]:
    """Compute NDCG, and the influence of each group on it.

    :param metric: name of the metric with its parameters
    :return: the metric, the influence of each group at the position of its first row, shape (n,), and the number of
        groups with a label above 0
    :raises UnmeasurableError: the rows lack the column of the groups; the rows have weights or clusters; a label is
        outside the range of relevances; or no label is above 0
    """
    ranking = ranking_of(metric)
    assert ranking is not None
    if ranking.group not in outcomes.columns:
        raise UnmeasurableError(f"the groups are in column {ranking.group!r}, which is not available here")
    if outcomes.weight is not None or outcomes.groups is not None:
        raise UnmeasurableError(
            f"{metric} counts each of its groups once, and supports neither weights of rows nor `groups` of the policy"
        )
    if (wrong := wrong_relevance(outcomes.truth)) is not None:
        raise UnmeasurableError(wrong)
    value, found = influence(metric, outcomes.prepared("regression"))
    if math.isnan(value):
        raise UnmeasurableError("no label is above 0")
    groups = group_ndcg(outcomes.columns[ranking.group], outcomes.truth, outcomes.score, ranking.k)
    return value, found, len(groups.first)


def area_of(outcomes: Outcomes) -> Area:
    """Compute the area under the ROC curve, and the influence of each row on it.

    :raises UnmeasurableError: a class has fewer than two labels
    """
    _two_of_each_class(outcomes)
    return area(outcomes.truth, outcomes.score, outcomes.weight)


def _two_of_each_class(outcomes: Labelled) -> None:
    positives = two_classes(outcomes)
    if min(positives, outcomes.rows - positives) < 2:
        raise UnmeasurableError(f"only one label is of the {'positive' if positives < 2 else 'negative'} class")
