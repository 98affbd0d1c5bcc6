"""Metrics of the order of the scores, with their intervals."""

from __future__ import annotations

import numpy as np

from airflow_mlops.metrics import intervals, weighted
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.ranks import Area, area, precision_of_others
from airflow_mlops.metrics.realised.labelled import Outcomes, UnmeasurableError, two_classes
from airflow_mlops.metrics.statistics import influence


def roc_auc(outcomes: Outcomes, z: float) -> Interval:
    """Measure the area under the ROC curve with an interval from DeLong's variance.

    :param z: quantile of the normal distribution, such as 1.96
    :raises UnmeasurableError: a class has fewer than two labels
    """
    found = area_of(outcomes)
    rarer = min(weighted.effective(outcomes.weight, rows) for rows in (outcomes.truth, ~outcomes.truth))
    return intervals.bounded(found.value, found.standard_error**2, rarer, z)


def average_precision(outcomes: Outcomes, z: float) -> Interval:
    """Measure average precision. The interval is computed around an estimate that corrects the bias of the value.

    With few positive rows, average precision is biased upwards, because each positive row counts towards its own
    precision. The estimate leaves each positive row out of its own precision. If necessary, the interval is extended
    to contain the measured value.

    :param z: quantile of the normal distribution, such as 1.96
    :raises UnmeasurableError: all labels are of one class
    """
    positives = two_classes(outcomes)
    value, by_row = influence("average_precision", outcomes.prepared("binary"))
    independent = weighted.effective(outcomes.weight, outcomes.truth)
    quantile = z + (z**3 + z) / (4 * max(1, independent - 1))
    middle = precision_of_others(outcomes.truth, outcomes.score, outcomes.weight) if positives > 1 else value
    found = intervals.bounded(middle, float(np.square(by_row).sum()), independent, quantile)
    return Interval(value, min(value, found.low), max(value, found.high))


def area_of(outcomes: Outcomes) -> Area:
    """Compute the area under the ROC curve, and the influence of each row on it.

    :raises UnmeasurableError: a class has fewer than two labels
    """
    positives = two_classes(outcomes)
    negatives = outcomes.rows - positives
    if min(positives, negatives) < 2:
        raise UnmeasurableError(f"only one label is of the {'positive' if positives < 2 else 'negative'} class")
    return area(outcomes.truth, outcomes.score, outcomes.weight)
