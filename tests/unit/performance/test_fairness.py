"""The largest difference of a rate between groups, its interval, and its rise: by hand, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.gates.group_rates import group_rates
from airflow_mlops.metrics.clusters import Design
from airflow_mlops.metrics.fairness_rule import FairnessRule
from airflow_mlops.metrics.intervals import proportion
from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.fairness import largest_difference
from airflow_mlops.performance.findings import FairnessDifference
from airflow_mlops.policy.checks import is_less_fair
from airflow_mlops.policy.spec import Policy
from airflow_mlops.registry.records.fairness import GroupRates

Z = 1.959964


def test_two_groups_by_hand():
    found = largest_difference([GroupRates(of="share", groups={"f": (30, 100), "m": (90, 200)})], 0.95)
    small, large = proportion(0.3, 100, Z), proportion(0.45, 200, Z)
    assert found.interval.value == pytest.approx(0.15)
    # Newcombe's interval of the difference of two proportions.
    assert found.interval.low == pytest.approx(0.15 - math.hypot(0.45 - large.low, small.high - 0.3), abs=1e-6)
    assert found.interval.high == pytest.approx(0.15 + math.hypot(large.high - 0.45, 0.3 - small.low), abs=1e-6)
    assert (found.least.name, found.most.name, found.of) == ("f", "m", "share")


def test_the_rate_that_differs_most_counts_and_groups_without_rows_do_not():
    rates = [
        GroupRates(of="true positive rate", groups={"a": (0, 0), "b": (50, 100), "c": (60, 100)}),
        GroupRates(of="false positive rate", groups={"a": (10, 100), "b": (40, 100), "c": (20, 100)}),
    ]
    found = largest_difference(rates, 0.95)
    assert (found.of, found.least.name, found.most.name) == ("false positive rate", "a", "b")
    assert found.interval.value == pytest.approx(0.3)
    assert largest_difference([GroupRates(of="share", groups={"a": (0, 0), "b": (5, 10)})], 0.95) is None


def test_clusters_widen_the_interval_and_one_cluster_leaves_it_unknown():
    rates = [GroupRates(of="share", groups={"f": (300, 1_000), "m": (450, 1_000)})]
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
        interval = largest_difference([GroupRates(of="share", groups=groups)], 0.95).interval
        covered += interval.low <= true <= interval.high
    # With a coverage of exactly 95%, 93% of 400 or fewer would occur in one of twenty-five runs.
    assert covered / 400 >= 0.93


def customers(random: np.random.Generator) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """The sex, the prediction and the number of 40 customers with 20 orders each, whose predictions are similar."""
    numbers = np.repeat(np.arange(40), 20)
    level = random.normal(size=40)[numbers]
    return pa.array(np.where(numbers % 2, "f", "m")), level + random.normal(size=800) > 0.5, numbers


def test_the_interval_of_clusters_contains_the_true_difference():
    rule = FairnessRule(fairness="demographic_parity", sensitive="sex", max_difference=0.1)
    random, missed = np.random.default_rng(0), np.zeros(2)
    for _ in range(200):
        sex, predicted, numbers = customers(random)
        for kind, clusters in enumerate((None, numbers)):
            missed[kind] += (
                largest_difference(group_rates(rule, sex, predicted, clusters=clusters), 0.95).interval.low > 0
            )
    # Both sexes have the same rate. With independent rows, a fourth of the intervals exclude it.
    assert missed[0] > 30
    assert missed[1] <= 10


def test_equal_predictions_of_few_clusters_leave_their_rate_uncertain():
    rule = FairnessRule(fairness="demographic_parity", sensitive="sex", max_difference=0.1)
    sex, numbers = pa.array(["f", "m"] * 500), np.arange(1_000) % 4
    alone, clustered = (
        largest_difference(group_rates(rule, sex, np.arange(1_000) % 2 == 0, clusters=clusters), 0.95).interval
        for clusters in (None, numbers)
    )
    assert alone.low > 0.98
    # Each sex has two customers.
    assert clustered.low == 0
    single = group_rates(rule, sex, np.arange(1_000) % 2 == 0, clusters=np.arange(1_000) % 2)
    restored = [GroupRates.model_validate_json(item.model_dump_json()) for item in single]
    unknown = largest_difference(restored, 0.95).interval
    assert (unknown.low, unknown.high) == (0.0, 1.0)


def risen(before: list[GroupRates], now: list[GroupRates], compared: int = 1) -> FairnessDifference:
    """The fairness metric of a window, with that of the evaluation."""
    old, new = largest_difference(before, 0.95), largest_difference(now, 0.95)
    return FairnessDifference(
        metric="demographic_parity",
        sensitive="sex",
        value=new.interval.value,
        low=new.interval.low,
        high=new.interval.high,
        reference=old.interval.value,
        reference_low=old.interval.low,
        reference_high=old.interval.high,
        compared=compared,
        limit=1.0,
        of=new.of,
        least=new.least,
        most=new.most,
    )


def two_groups(low: int, high: int, rows: int) -> list[GroupRates]:
    return [GroupRates(of="share", groups={"f": (low, rows), "m": (high, rows)})]


def test_the_rise_is_the_difference_of_two_estimates():
    exact = risen(two_groups(30_000, 40_000, 100_000), two_groups(300, 460, 1_000))
    change = difference(exact, 0.95)
    assert change.low == pytest.approx(0.06 - (exact.value - exact.low), abs=2e-3)
    # A few rows of the evaluation say little about what is usual.
    few = risen(two_groups(12, 16, 40), two_groups(300, 460, 1_000))
    assert difference(few, 0.95).low < 0 < change.low
    # The best of several candidates may have had luck with these rows.
    assert difference(few.model_copy(update={"compared": 5}), 0.95).low < difference(few, 0.95).low
    assert [is_less_fair(exact, Policy(tolerance=value)) for value in (0.0, 0.02, 0.1)] == [True, False, False]
    assert not is_less_fair(exact.model_copy(update={"reference": None}), Policy(tolerance=0.0))


@pytest.mark.parametrize("shares", [[0.3, 0.3], [0.1] * 6, [0.02, 0.02, 0.05], [0.2, 0.35, 0.5, 0.9]])
@pytest.mark.parametrize("sizes", [(150, 600), (600, 150)])
def test_an_unchanged_difference_rarely_counts_as_a_rise(shares, sizes):
    random, policy, alarms = np.random.default_rng(len(shares)), Policy(tolerance=0.0), 0
    for one, other in zip(*(random.binomial(rows, shares, (400, len(shares))) for rows in sizes), strict=True):
        before, now = (
            [GroupRates(of="share", groups={str(number): (int(hit), rows) for number, hit in enumerate(hits)})]
            for hits, rows in ((one, sizes[0]), (other, sizes[1]))
        )
        alarms += is_less_fair(risen(before, now), policy)
    # With a rate of exactly 2.5%, 18 of 400 or more would occur in one of eighty runs.
    assert alarms < 18
