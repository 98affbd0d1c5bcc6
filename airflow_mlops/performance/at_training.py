"""The confidence interval of a metric on the held-out split part at training, from the profile of the model."""

from __future__ import annotations

import math
from statistics import NormalDist

from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.realised import stretched
from airflow_mlops.profiles.profile import ModelProfile, WeightedPerformance
from airflow_mlops.profiles.segments import SegmentLosses
from airflow_mlops.profiles.training import CONFIDENCE


def interval(
    metric: str, value: float, known: ModelProfile | WeightedPerformance, confidence: float
) -> Interval | None:
    """Return the interval of a metric on the held-out split part at training.

    Profiles that early versions of this package stored have no intervals. For these profiles, the interval is computed
    from the number, the mean and the variance of the held-out losses, which are stored by segment.

    :param metric: a metric of the model
    :param value: the value of the metric in the model contract
    :param known: profile of the model, or the part of the profile with the weighted performance
    :param confidence: confidence of the interval, such as 0.95
    :return: ``None`` if the profile has neither the interval nor the losses
    """
    found = known.intervals.get(metric)
    if found is None and isinstance(known, ModelProfile) and known.segments is not None:
        found = _from_losses(metric, known.segments)
    if found is None:
        return None
    scaled = stretched(metric, found, _z(confidence) / _z(CONFIDENCE))
    return Interval(value, value - (found.value - scaled.low), value + (scaled.high - found.value))


def _from_losses(metric: str, known: SegmentLosses) -> Interval | None:
    losses = next(iter(known.losses.get(metric, {}).values()), None)
    if losses is None or sum(losses.rows) < 2:
        return None
    rows = sum(losses.rows)
    mean = sum(count * value for count, value in zip(losses.rows, losses.mean, strict=True)) / rows
    squares = sum(
        (count - 1) * variance + count * (value - mean) ** 2
        for count, value, variance in zip(losses.rows, losses.mean, losses.variance, strict=True)
        if count
    )
    spread = _z(CONFIDENCE) * math.sqrt(squares / (rows - 1) / rows)
    low, high = max(0.0, mean - spread), mean + spread
    if metric == "rmse":
        return Interval(*map(math.sqrt, (mean, low, high)))
    if find_metric(metric).higher_is_better:
        return Interval(1 - mean, max(0.0, 1 - high), 1 - low)
    return Interval(mean, low, high)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)
