"""The bias of predictions: its value, its interval, and when it matters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.metrics.realised import Outcomes
from airflow_mlops.performance.bias import bias
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.significance import odds_ratio


def regression(shift: float, rows: int = 1_000, seed: int = 0) -> Outcomes:
    random = np.random.default_rng(seed)
    truth = random.normal(10, 3, rows)
    return Outcomes(truth, truth + random.normal(shift, 1, rows), np.zeros(rows, bool))


def binary(mean_score: float, rate: float, rows: int = 20_000) -> Outcomes:
    truth = np.random.default_rng(1).random(rows) < rate
    return Outcomes(truth, np.full(rows, mean_score), truth)


def test_the_bias_of_a_regression_is_the_mean_of_prediction_minus_label():
    outcomes = regression(-0.5)
    found = bias(outcomes, "regression", Policy(), 0.01)
    assert found.value == pytest.approx(np.mean(outcomes.score - outcomes.truth))
    assert found.low < -0.5 < found.high < 0
    assert (found.significant, found.reference, found.labels, found.of_probabilities) == (True, 0.01, 1_000, False)


def test_a_small_bias_does_not_matter_even_if_it_is_certain():
    # A bias of 0.2 standard deviations of the errors adds 2% to the RMSE.
    rows = 200_000
    assert not bias(regression(0.1, rows), "regression", Policy(), None).significant
    assert bias(regression(0.3, rows), "regression", Policy(), None).significant
    assert bias(regression(0.1, rows), "regression", Policy(tolerance=0.001), None).significant


def test_a_bias_that_chance_explains_is_not_significant():
    found = [bias(regression(0.0, 100, seed), "regression", Policy(tolerance=0), None) for seed in range(400)]
    # 20 expected, with a standard deviation of 4.4.
    assert sum(item.significant for item in found) <= 36


@pytest.mark.parametrize(("score", "rate", "significant"), [(0.3, 0.3, False), (0.35, 0.3, True), (0.02, 0.01, True)])
def test_the_bias_of_probabilities_counts_for_rare_classes_too(score, rate, significant):
    found = bias(binary(score, rate), "binary", Policy(), None)
    assert found.of_probabilities
    assert found.significant == significant


def test_several_classes_and_single_labels_have_no_bias():
    assert bias(binary(0.5, 0.5), "multiclass", Policy(), None) is None
    assert bias(regression(0, 1), "regression", Policy(), None) is None
    assert bias(Outcomes(np.array([1e308, -1e308]), np.zeros(2), np.zeros(2)), "regression", Policy(), None) is None


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_odds_ratios_are_symmetric(first, second):
    ratio = odds_ratio(first, second)
    assert ratio >= 1
    assert ratio == pytest.approx(odds_ratio(second, first))
    assert ratio == pytest.approx(odds_ratio(1 - first, 1 - second), rel=1e-6)


def test_odds_ratios_of_shares_of_0_and_1():
    assert odds_ratio(0.01, 0.02) == pytest.approx(2.02, abs=0.01)
    assert odds_ratio(0, 0.1) == odds_ratio(1, 0.9) == float("inf")
    assert odds_ratio(0, 0) == odds_ratio(1, 1) == 1
