"""The largest difference of a rate between groups, and its interval: by hand, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from airflow_mlops.metrics.clusters import Design
from airflow_mlops.metrics.intervals import proportion
from airflow_mlops.performance.fairness import Rates, largest_difference

Z = 1.959964


def test_two_groups_by_hand():
    found = largest_difference([Rates("share", {"f": (30, 100), "m": (90, 200)})], 0.95)
    small, large = proportion(0.3, 100, Z), proportion(0.45, 200, Z)
    assert found.interval.value == pytest.approx(0.15)
    # Newcombe's interval of the difference of two proportions.
    assert found.interval.low == pytest.approx(0.15 - math.hypot(0.45 - large.low, small.high - 0.3), abs=1e-6)
    assert found.interval.high == pytest.approx(0.15 + math.hypot(large.high - 0.45, 0.3 - small.low), abs=1e-6)
    assert (found.least.name, found.most.name, found.of) == ("f", "m", "share")


def test_the_rate_that_differs_most_counts_and_groups_without_rows_do_not():
    rates = [
        Rates("true positive rate", {"a": (0, 0), "b": (50, 100), "c": (60, 100)}),
        Rates("false positive rate", {"a": (10, 100), "b": (40, 100), "c": (20, 100)}),
    ]
    found = largest_difference(rates, 0.95)
    assert (found.of, found.least.name, found.most.name) == ("false positive rate", "a", "b")
    assert found.interval.value == pytest.approx(0.3)
    assert largest_difference([Rates("share", {"a": (0, 0), "b": (5, 10)})], 0.95) is None


def test_clusters_widen_the_interval_and_one_cluster_leaves_it_unknown():
    rates = [Rates("share", {"f": (300, 1_000), "m": (450, 1_000)})]
    alone, clustered = (largest_difference(rates, 0.95, design).interval for design in (None, Design(4.0, 500.0)))
    assert clustered.low < alone.low < alone.value < alone.high < clustered.high
    assert clustered.value - clustered.low == pytest.approx(2 * (alone.value - alone.low), rel=0.02)
    unknown = largest_difference(rates, 0.95, Design(math.inf, 1.0)).interval
    assert (unknown.low, unknown.high) == (0.0, 1.0)


@pytest.mark.parametrize("shares", [[0.3, 0.3], [0.1] * 8, [0.02, 0.02, 0.05], [0.2, 0.35, 0.5, 0.9]])
def test_the_interval_contains_the_true_difference(shares):
    random = np.random.default_rng(len(shares))
    rows, true, covered = 150, max(shares) - min(shares), 0
    for hits in random.binomial(rows, shares, (400, len(shares))):
        groups = {str(number): (int(hit), rows) for number, hit in enumerate(hits)}
        interval = largest_difference([Rates("share", groups)], 0.95).interval
        covered += interval.low <= true <= interval.high
    # With a coverage of exactly 95%, 93% of 400 or fewer would occur in one of twenty-five runs.
    assert covered / 400 >= 0.93
