"""Two groups of different rows are compared within strata, and by cluster."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.metrics.intervals import mean
from airflow_mlops.metrics.two_groups import Group, difference

Z = 1.96


def group(*parts, clusters=None) -> Group:
    strata = [np.full(len(part), number) for number, part in enumerate(parts)]
    return Group(np.concatenate(parts).astype(float), np.concatenate(strata), clusters)


def test_rows_are_compared_within_a_stratum_and_not_across():
    # The second group is better in both strata, but has most of the difficult rows.
    first = group(np.tile([0, 0, 0, 1], 50), np.tile([0, 1, 1, 1], 5))
    second = group(np.tile([0, 0, 0, 0, 1], 4), np.tile([0, 1, 0, 1, 1], 40))
    assert first.values.mean() < second.values.mean()
    found = difference(first, second, Z)
    weights = np.array([200 * 20 / 220, 20 * 200 / 220])
    expected = np.average([0.25 - 0.2, 0.75 - 0.6], weights=weights)
    assert found.interval.value == pytest.approx(expected)
    assert found.rows == (220, 220)
    assert found.interval.low < expected < found.interval.high


def test_without_strata_the_interval_is_that_of_two_means():
    random = np.random.default_rng(0)
    one, other = random.exponential(size=300), random.exponential(size=900)
    found = difference(group(one), group(other), Z)
    own, theirs = mean(one, Z), mean(other, Z)
    assert found.means == (pytest.approx(one.mean()), pytest.approx(other.mean()))
    low = np.hypot(own.value - own.low, theirs.high - theirs.value)
    high = np.hypot(own.high - own.value, theirs.value - theirs.low)
    assert found.interval.low == pytest.approx(found.interval.value - low, rel=0.01)
    assert found.interval.high == pytest.approx(found.interval.value + high, rel=0.01)


def test_strata_of_one_group_only_are_left_out():
    empty = np.empty(0)
    found = difference(group([0, 1], [1, 1, 1], [5]), group([0, 1], empty, [0, 1]), Z)
    assert (found.interval.value, found.rows) == (0.0, (2, 2))
    assert difference(group([0, 1]), group(empty, [0, 1]), Z) is None
    assert difference(group(empty), group(empty), Z) is None


def test_intervals_cover_if_entities_come_back():
    """Entities with levels of their own, 20 rows each in two strata: the stated error holds with clusters, and not without."""
    outside = {True: 0, False: 0}
    for seed in range(150):
        random = np.random.default_rng(seed)
        groups = []
        for entities in (40, 80):
            level = random.normal(size=entities)
            clusters = np.tile(np.repeat(np.arange(entities), 10), 2)
            values = level[clusters] + random.normal(size=len(clusters))
            strata = np.repeat([0, 1], len(clusters) // 2)
            groups.append((values, strata, clusters))
        for by_entity in outside:
            given = [Group(values, strata, clusters if by_entity else None) for values, strata, clusters in groups]
            outside[by_entity] += difference(*given, 1.645).interval.low > 0
    # Nominal: 7.5 of 150.
    assert outside[True] <= 13
    assert outside[False] > 30
