"""Measure the bias of predictions: whether they are too high or too low on average."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import Task
from airflow_mlops.metrics import intervals, weighted
from airflow_mlops.metrics.clusters import ClusterSums
from airflow_mlops.metrics.realised import Labelled
from airflow_mlops.performance.findings import Bias
from airflow_mlops.performance.thresholds import PerformanceThresholds
from airflow_mlops.profiles.significance import odds_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGE_ODDS_RATIO = 1.5
"""A bias of probabilities also matters if the odds of mean score and share of positive labels differ by this factor."""


def bias(outcomes: Labelled, task: Task, thresholds: PerformanceThresholds, reference: float | None) -> Bias | None:
    """Measure the mean error of the predictions, prediction minus label, with its confidence interval.

    A bias is significant if its interval excludes 0 and the bias is large enough to matter. A bias of a regression
    model matters if the RMSE is more than ``1 + tolerance`` times the standard deviation of the errors, which is the
    RMSE without the bias. A bias of probabilities matters if it exceeds ``tolerance``, or if the odds of the mean score
    and of the share of positive labels differ by a factor of at least 1.5. The rule about odds finds the bias of a rare
    class, whose mean score can be smaller than the tolerance. For clustered rows, the interval is widened by the design
    effect.

    :param outcomes: the labelled predictions, with or without weights
    :param task: the ML task (binary, multiclass, regression)
    :param thresholds: ``confidence`` and ``tolerance`` are used here
    :param reference: mean error on the held-out split part at training; ``None`` if unknown
    :return: ``None`` for multiclass models, with fewer than two labels, or if the interval is too large for a float
    """
    if task == "multiclass" or outcomes.rows < 2:
        return None
    z = NormalDist().inv_cdf(0.5 + thresholds.confidence / 2)
    with np.errstate(over="ignore", invalid="ignore"):
        found = weighted.interval_of(partial(_errors, outcomes), z)
        if outcomes.clusters is not None:
            sums = ClusterSums(outcomes.clusters)
            for part in outcomes.parts():
                assert part.groups is not None
                sums.add(part.score - part.truth, part.groups, part.weight)
            factor = sums.design().factor(z)
            value = found.value
            found = intervals.Interval(
                value, value - factor * (value - found.low), value + factor * (found.high - value)
            )
    if not math.isfinite(found.low + found.high):
        return None
    tolerance = thresholds.tolerance
    if task == "binary":
        scores = weighted.mean_of((part.score, part.weight) for part in outcomes.parts())
        labels = weighted.mean_of((part.truth, part.weight) for part in outcomes.parts())
        large = abs(found.value) > tolerance or odds_ratio(scores, labels) >= LARGE_ODDS_RATIO
    else:
        squares = ((np.square(error - found.value), weight) for error, weight in _errors(outcomes))
        spread = math.sqrt(weighted.mean_of(squares))
        large = math.hypot(found.value, spread) > (1 + tolerance) * spread
    return Bias(
        value=found.value,
        low=found.low,
        high=found.high,
        reference=reference,
        labels=outcomes.rows,
        of_probabilities=task == "binary",
        significant=large and (found.low > 0 or found.high < 0),
    )


def _errors(outcomes: Labelled) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64] | None]]:
    for part in outcomes.parts():
        yield part.score - part.truth, part.weight
