"""Quantiles of the largest of several correlated estimates."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.performance.joint import correlations_of, joint_quantile


def divided(level: float, count: int) -> float:
    return NormalDist().inv_cdf(1 - level / count)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_independent_estimates_have_the_quantile_of_the_product_and_equal_ones_that_of_one(count):
    product = NormalDist().inv_cdf((1 - 0.025) ** (1 / count))
    assert joint_quantile(0.025, count, np.eye(count)) == pytest.approx(product, abs=0.04)
    assert joint_quantile(0.025, count, np.ones((count, count))) == pytest.approx(divided(0.025, 1), abs=0.04)


def test_unknown_correlations_divide_the_probability():
    assert joint_quantile(0.025, 3, None) == pytest.approx(divided(0.025, 3))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 100), st.sampled_from([0.005, 0.025, 0.05]))
def test_a_quantile_is_between_that_of_one_estimate_and_the_divided_one(count, seed, level):
    gains = np.random.default_rng(seed).normal(size=(count, count + 3)) @ np.random.default_rng(seed).normal(
        size=(count + 3, 50)
    )
    found = joint_quantile(level, count, correlations_of([*gains]))
    assert divided(level, 1) <= found <= divided(level, count)


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9, 0.99])
def test_all_bounds_hold_together_with_the_stated_probability(shared):
    random = np.random.default_rng(1)
    gains = np.sqrt(shared) * random.normal(size=1_000) + np.sqrt(1 - shared) * random.normal(size=(6, 1_000))
    z = joint_quantile(0.05, 6, correlations_of([*gains]))
    common, own = random.normal(size=(20_000, 1)), random.normal(size=(20_000, 6))
    drawn = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    # The rate has a standard error of 0.0015, and so do the quantile and the estimated correlations. Bonferroni's
    # correction gives 0.014 at 0.99.
    assert (drawn.max(axis=1) > z).mean() == pytest.approx(0.05, abs=0.008)


def test_a_constant_gain_is_correlated_with_no_other_and_clusters_are_what_varies():
    random = np.random.default_rng(0)
    one = random.normal(size=40)
    assert correlations_of([one, np.full(40, 0.3)]) == [[1.0, 0.0], [0.0, 1.0]]
    # Within clusters the gains are opposite, and their sums are equal.
    inside = np.tile([1.0, -1.0], 20)
    level = np.repeat(random.normal(size=20), 2)
    ((_, by_cluster), _) = correlations_of([level + inside, level - inside], np.repeat(np.arange(20), 2))
    assert by_cluster == pytest.approx(1.0)
    ((_, by_row), _) = correlations_of([level + inside, level - inside])
    assert by_row < 0.2
