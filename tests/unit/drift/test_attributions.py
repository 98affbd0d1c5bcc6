"""Drift of attributions: the order of the features, with the stated rate of false alarms."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.drift import attributions
from airflow_mlops.drift.attributions import Sample, compare, fewest

NAMES = ["a", "b", "c", "d", "e"]
RATE = 0.05


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(attributions, "_ROUNDS", 199)


def sample(random: np.random.Generator, rows: int, scales=(1.0, 0.9, 0.85, 0.5, 0.1)) -> Sample:
    return Sample(NAMES[: len(scales)], np.abs(random.standard_t(4, size=(rows, len(scales)))) * scales)


def test_ndcg_of_a_small_case_by_hand():
    before = Sample(["a", "b", "c"], np.array([[3.0, 2.0, 0.0]]))
    now = Sample(["c", "a", "b"], np.array([[0.0, 1.0, 4.0]]))
    found = compare(before, now, "2013-04")
    # The window's order is b, a, c: gains 2 and 3 instead of 3 and 2.
    ndcg = (2 + 3 / np.log2(3)) / (3 + 2 / np.log2(3))
    assert f"NDCG {ndcg:.3f}" in (found.note or "")
    assert found.effect == pytest.approx((abs(0.6 - 0.2) + abs(0.4 - 0.8)) / 2)
    assert "b 40.0% of the attributions before (rank 2), 80.0% now (rank 1)" in (found.note or "")
    # A single row each can be assigned in two ways only.
    assert found.p_value > 0.3


@pytest.mark.parametrize("window", [60, 300])
def test_unchanged_windows_raise_at_most_the_stated_share_of_alarms(window):
    random = np.random.default_rng(1)
    alarms = sum(compare(sample(random, 150), sample(random, window), "r").p_value <= RATE for _ in range(200))
    # Three standard errors above the rate.
    assert alarms / 200 <= RATE + 3 * np.sqrt(RATE * (1 - RATE) / 200)


def test_clusters_are_reassigned_as_a_whole():
    random = np.random.default_rng(2)

    def rows(clusters: int) -> np.ndarray:
        own = np.abs(random.normal(size=(clusters, 4)))
        return np.repeat(own, 20, axis=0)

    def alarms(by_cluster: bool) -> float:
        found = 0
        for _ in range(60):
            before, now = rows(25), rows(15)
            if by_cluster:
                before, now = (item.reshape(-1, 20, 4).sum(axis=1) for item in (before, now))
            found += compare(Sample(NAMES[:4], before), Sample(NAMES[:4], now), "r").p_value <= RATE
        return found / 60

    assert alarms(by_cluster=False) > 0.3
    assert alarms(by_cluster=True) <= 0.15


def test_a_role_that_changes_while_the_distributions_do_not_is_found():
    random = np.random.default_rng(3)

    def window(follows: bool) -> tuple[np.ndarray, Sample]:
        """The model answers with x if s is 1, else with y. |x| is large where s is 1, or where it is 0."""
        size, s = np.sort(np.abs(random.normal(size=400))), np.repeat([0, 1], 200)
        x = size if follows else size[::-1]
        y = np.abs(random.normal(size=400))
        return x, Sample(["x", "y"], np.column_stack([s * x, (1 - s) * y]))

    (then, before), (now, after) = window(True), window(False)
    assert abs(np.mean(then) - np.mean(now)) < 0.1
    found = compare(before, after, "r")
    assert found.p_value <= 0.01
    assert found.effect > 0.2


def test_only_features_of_both_windows_and_the_most_important_ones_are_compared(monkeypatch):
    monkeypatch.setattr(attributions, "_FEATURES", 3)
    random = np.random.default_rng(4)
    before, now = sample(random, 200), sample(random, 200)
    found = compare(before, Sample(["z", *now.features[1:]], now.sums), "r")
    assert {item.label for item in found.bins} == {"b", "c", "d", "e"}
    assert sum(item.current for item in found.bins) == pytest.approx(1)
    assert "fewer than two" in (compare(before, Sample(["z"], now.sums[:, :1]), "r").note or "")


def test_two_samples_of_the_fewest_units_can_be_significant_and_smaller_ones_cannot():
    # Two samples of 3 units can be permuted in 20 ways, and two samples of 2 units in 6 ways.
    assert [fewest(level) for level in (0.5, 0.1, RATE, 0.0001)] == [1, 3, 3, 8]

    def p_value(units: int) -> float:
        before, now = (np.tile(row, (units, 1)) for row in ([9.0, 1.0], [1.0, 9.0]))
        return compare(Sample(["a", "b"], before), Sample(["a", "b"], now), "r").p_value

    assert p_value(5) <= 0.05 < 0.1 < p_value(2)
