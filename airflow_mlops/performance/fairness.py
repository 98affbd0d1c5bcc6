"""Differences in treatment between groups of rows, with confidence intervals.

The gate ``fairness`` measures the same difference: the largest difference of a rate between two groups. The largest of
several estimated differences is too large on average, so its interval is not that of a single difference. The intervals
of all pairs of groups hold simultaneously (Bonferroni). The largest difference then lies between the largest lower end
and the largest upper end.

The interval of a pair is Newcombe's, from Wilson's intervals of both rates (R. Newcombe, "Interval Estimation for the
Difference Between Independent Proportions", Statistics in Medicine 17, 1998).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

from airflow_mlops.metrics.clusters import Design
from airflow_mlops.metrics.intervals import Interval, proportion
from airflow_mlops.performance.findings import GroupRate
from airflow_mlops.registry.records.fairness import GroupRates


@dataclass(frozen=True)
class Difference:
    """The largest difference of a rate between two groups.

    :param interval: the difference, from 0 to 1, with its confidence interval
    :param of: the meaning of the rate that differs most
    :param least: the group with the smaller rate
    :param most: the group with the larger rate
    """

    interval: Interval
    of: str
    least: GroupRate
    most: GroupRate


def largest_difference(
    rates: Sequence[GroupRates], confidence: float, design: Design | None = None
) -> Difference | None:
    """Find the largest difference of a rate between two groups.

    :param rates: one rate, or several rates of which the one with the largest difference counts. If they have designs
        (:attr:`~airflow_mlops.registry.records.fairness.GroupRates.designs`), the interval of each rate is widened by its
        own
    :param confidence: confidence of the interval, such as 0.95
    :param design: how much clusters widen the intervals of rates without designs; ``None`` for independent rows
    :return: ``None`` if no rate has two groups with rows
    """
    pairs = [
        (item, least, most)
        for item in rates
        for least, most in combinations(sorted(_group_rates(item), key=lambda group: group.rate), 2)
    ]
    if not pairs:
        return None
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2 / len(pairs))
    found = [
        _difference(least, most, z, _factor(item, least, z, design), _factor(item, most, z, design))
        for item, least, most in pairs
    ]
    item, least, most = max(pairs, key=lambda pair: pair[2].rate - pair[1].rate)
    value = most.rate - least.rate
    ends = max(item.low for item in found), max(item.high for item in found)
    return Difference(Interval(value, *ends), item.of, least, most)


def _group_rates(rates: GroupRates) -> list[GroupRate]:
    return [
        GroupRate(name=name, rate=having / rows, rows=rows) for name, (having, rows) in rates.groups.items() if rows > 0
    ]


def _factor(rates: GroupRates, group: GroupRate, z: float, design: Design | None) -> float:
    """Return the factor by which clusters widen the interval of the rate of a group."""
    if group.name in rates.designs:
        effect, clusters = rates.designs[group.name]
        design = Design(math.inf if effect is None else effect, clusters)
    return 1.0 if design is None else design.factor(z)


def _difference(least: GroupRate, most: GroupRate, z: float, wider_least: float, wider_most: float) -> Interval:
    """Compute the interval of the absolute difference of two rates.

    :param wider_least: factor by which clusters widen the interval of the smaller rate. Wilson's interval is computed
        for an effective number of rows, as for the area under the ROC curve
        (:func:`airflow_mlops.metrics.intervals.bounded`)
    :param wider_most: the same for the larger rate
    """
    if not math.isfinite(wider_least + wider_most):
        # With a single cluster, the rates in other clusters are unknown.
        return Interval(most.rate - least.rate, 0.0, 1.0)
    small = proportion(least.rate, least.rows / wider_least**2, z)
    large = proportion(most.rate, most.rows / wider_most**2, z)
    value = large.value - small.value
    down = math.hypot(large.value - large.low, small.high - small.value)
    up = math.hypot(large.high - large.value, small.value - small.low)
    # If the lower end is below 0, the other group may have the larger rate.
    return Interval(value, max(0.0, value - down), min(1.0, max(value + up, down - value)))
