"""Metrics as functions of sums agree with scikit-learn, and their intervals with other methods."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.metrics.comparison import Estimate, compare, estimate, relative_error
from airflow_mlops.metrics.formulas import influence, row_losses, statistic
from airflow_mlops.metrics.ranks import area, delong
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows

RANKED = ("roc_auc", "average_precision", "roc_auc_ovr")


def rows(task: str, size: int, noise: float, seed: int) -> Rows:
    """A model that predicts the truth with ``noise``; the truth is the same for every seed."""
    truth, random = np.random.default_rng(size), np.random.default_rng([size, seed])
    if task == "regression":
        y = truth.normal(10, 2, size)
        value = y + noise * random.normal(size=size)
        return Rows("regression", y, value, value)
    if task == "binary":
        positive = truth.random(size) < 0.3
        score = 1 / (1 + np.exp(-(2.0 * positive - 1 + noise * random.normal(size=size))))
        return Rows("binary", positive, score >= 0.5, score)
    codes = truth.integers(3, size=size)
    shares = np.exp(np.eye(3)[codes] + noise * random.normal(size=(size, 3)))
    shares /= shares.sum(axis=1, keepdims=True)
    return Rows("multiclass", codes, shares.argmax(axis=1), shares)


def named(task: str) -> list[str]:
    return [name for name, metric in METRICS.items() if task in metric.tasks]


CASES = [(task, metric) for task in ("binary", "multiclass", "regression") for metric in named(task)]


@settings(max_examples=150)
@given(st.data())
def test_binary_metrics_are_those_of_scikit_learn(data):
    size = data.draw(st.integers(2, 60))
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    assume(positive.any() and not positive.all())
    # There are few different scores, and therefore many ties.
    score = np.array(data.draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))) / 8
    predicted = score >= data.draw(st.sampled_from([0.0, 0.3, 0.5, 2.0]))
    found = Rows("binary", positive, predicted, score)
    options = {"zero_division": 0}
    expected = {
        "roc_auc": metrics.roc_auc_score(positive, score),
        "average_precision": metrics.average_precision_score(positive, score),
        "log_loss": metrics.log_loss(positive, score, labels=[False, True]),
        "brier": metrics.brier_score_loss(positive, score),
        "accuracy": metrics.accuracy_score(positive, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(positive, predicted),
        "f1": metrics.f1_score(positive, predicted, **options),
        "precision": metrics.precision_score(positive, predicted, **options),
        "recall": metrics.recall_score(positive, predicted, **options),
    }
    assert {name: statistic(name, found).measure(found) for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100)
@given(st.data())
def test_multiclass_metrics_are_those_of_scikit_learn(data):
    size = data.draw(st.integers(3, 40))
    codes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    assume(len(np.unique(codes)) > 1)
    shares = np.array(data.draw(st.lists(st.tuples(*[st.integers(1, 5)] * 4), min_size=size, max_size=size)), float)
    shares /= shares.sum(axis=1, keepdims=True)
    predicted = shares.argmax(axis=1)
    found = Rows("multiclass", codes, predicted, shares)
    expected = {
        "accuracy": metrics.accuracy_score(codes, predicted),
        "balanced_accuracy": np.mean([(predicted == codes)[codes == code].mean() for code in np.unique(codes)]),
        "f1_macro": metrics.f1_score(codes, predicted, average="macro", zero_division=0),
        "log_loss": metrics.log_loss(codes, shares, labels=range(4)),
        "roc_auc_ovr": np.mean([metrics.roc_auc_score(codes == code, shares[:, code]) for code in np.unique(codes)]),
    }
    assert {name: statistic(name, found).measure(found) for name in expected} == pytest.approx(expected, abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=50),
    st.sampled_from([0.0, 1e9]),
)
def test_metrics_of_a_regression_are_those_of_scikit_learn(pairs, offset):
    truth, value = np.array(pairs).T + offset
    found = Rows("regression", truth, value, value)
    expected = {
        "rmse": math.sqrt(metrics.mean_squared_error(truth, value)),
        "mae": metrics.mean_absolute_error(truth, value),
    }
    assert {name: statistic(name, found).measure(found) for name in expected} == pytest.approx(expected)
    r2 = statistic("r2", found).measure(found)
    if np.ptp(truth) == 0:
        # scikit-learn returns the same, except for rounding of the mean. The square of a small difference may underflow to 0.
        assert r2 == float(not np.square(value - truth).any())
    elif np.ptp(truth) > 1e-3:
        assert r2 == pytest.approx(metrics.r2_score(truth, value), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_a_round_of_weights_is_what_copies_of_the_rows_would_give(task, metric):
    found, resampling = rows(task, 400, 1.0, 1), Resampling(400, rounds=300)
    known = statistic(metric, found)
    draws = known.value(resampling.draw(resampling.totals(known.terms(found))))
    copies = [
        known.measure(found.take(np.repeat(np.arange(400), resampling._weights[number])))
        for number in range(resampling.rounds)
    ]
    if metric in RANKED:
        # The metric is linear in the weights, so both agree to first order.
        assert draws.std() == pytest.approx(np.std(copies), rel=0.05)
        assert np.corrcoef(draws, copies)[0, 1] > 0.99
    else:
        np.testing.assert_allclose(draws, copies, rtol=1e-9)


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_a_part_of_the_rows_is_measured_as_if_it_were_all(task, metric):
    mine, theirs = rows(task, 3_000, 1.0, 1), rows(task, 3_000, 1.4, 2)
    index = np.flatnonzero(np.arange(3_000) % 3 == 0)
    resampling = Resampling(3_000)
    whole, part = compare(METRICS[metric], mine, theirs, resampling, [None, index])
    (alone,) = compare(METRICS[metric], mine.take(index), theirs.take(index), Resampling(1_000, seed=1))
    assert (whole.rows, part.rows) == (3_000, 1_000)
    assert whole.candidate == pytest.approx(statistic(metric, mine).measure(mine))
    assert (part.candidate, part.champion) == pytest.approx((alone.candidate, alone.champion))
    assert part.improvement.standard_error == pytest.approx(alone.improvement.standard_error, rel=0.1)
    # Less noise improves every metric except the calibration error.
    if metric != "ece":
        assert whole.improvement.value > 0
    assert part.improvement.standard_error == pytest.approx(whole.improvement.standard_error * math.sqrt(3), rel=0.25)


def test_equal_models_have_no_error_and_pairing_reduces_it():
    mine, theirs = rows("binary", 2_000, 1.0, 1), rows("binary", 2_000, 1.0, 2)
    resampling = Resampling(2_000)
    for metric in named("binary"):
        (same,) = compare(METRICS[metric], mine, mine, resampling)
        assert (same.improvement.value, same.improvement.standard_error) == (0, 0)
        (close,) = compare(
            METRICS[metric], mine, replace(mine, score=0.99 * mine.score + 0.01 * theirs.score), resampling
        )
        assert close.improvement.standard_error < estimate(metric, mine, resampling).standard_error


@pytest.mark.parametrize("size", [300, 60_000])
def test_the_interval_of_a_mean_is_that_of_student(size):
    mine, theirs = rows("binary", size, 1.0, 1), rows("binary", size, 1.1, 2)
    (found,) = compare(METRICS["brier"], mine, theirs, Resampling(size))
    difference = row_losses(theirs) - row_losses(mine)
    expected = stats.ttest_1samp(difference, 0).confidence_interval(0.90)
    width = expected.high - expected.low
    assert found.improvement.value == pytest.approx(difference.mean())
    # With 60,000 rows in 10,000 groups, the standard error itself has an error of 0.7%, and the rounds add 1.6%.
    assert found.improvement.lower(0.95) == pytest.approx(expected.low, abs=0.06 * width)
    assert found.improvement.upper(0.95) == pytest.approx(expected.high, abs=0.06 * width)


def test_groups_are_filled_at_random_and_weights_keep_the_number_of_groups():
    resampling = Resampling(50_000, rounds=500, groups=1_000)
    weights = resampling._weights
    assert weights.shape == (500, 1_000)
    assert (weights.sum(axis=1) == 1_000).all()
    assert weights.var() == pytest.approx(1, rel=0.02)
    # The standard error of a sum is the same if the rows are sorted.
    trend = np.linspace(-1, 1, 50_000)
    drawn = resampling.draw(resampling.totals([trend]))[:, 0]
    assert drawn.std() == pytest.approx(trend.std() * math.sqrt(50_000), rel=0.12)
    again = Resampling(50_000, rounds=500, groups=1_000)
    np.testing.assert_array_equal(again.draw(again.totals([trend]))[:, 0], drawn)


@settings(max_examples=60)
@given(st.data())
def test_delong_agrees_with_its_definition_on_all_pairs_of_rows(data):
    size = data.draw(st.integers(4, 40))
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    assume(2 <= positive.sum() <= size - 2)
    one, two = (
        np.array(data.draw(st.lists(st.integers(0, 6), min_size=size, max_size=size)), dtype=float) for _ in range(2)
    )
    found = delong(positive, one, two)
    # DeLong's definition of 1988, computed pair by pair.
    kernels = [
        np.where(score[positive][:, None] == score[~positive], 0.5, score[positive][:, None] > score[~positive])
        for score in (one, two)
    ]
    tens, ones = [kernel.mean(axis=1) for kernel in kernels], [kernel.mean(axis=0) for kernel in kernels]
    covariance = np.cov(tens) / positive.sum() + np.cov(ones) / (~positive).sum()
    assert found.first == pytest.approx(kernels[0].mean())
    assert found.second == pytest.approx(kernels[1].mean())
    contrast = np.array([1, -1])
    assert found.standard_error**2 == pytest.approx(contrast @ covariance @ contrast, abs=1e-12)


def area_by_ranks(truth, score):
    """The area under the ROC curve, in a tenth of scikit-learn's time."""
    positives = int(truth.sum())
    above = stats.rankdata(score)[truth].sum() - positives * (positives + 1) / 2
    return above / (positives * (truth.size - positives))


def test_delong_agrees_with_a_bootstrap_and_with_the_error_of_one_area():
    mine, theirs = rows("binary", 1_500, 1.5, 1), rows("binary", 1_500, 1.8, 2)
    found = delong(mine.truth, mine.score, theirs.score)
    random = np.random.default_rng(0)
    differences = []
    for _ in range(1_000):
        drawn = random.integers(1_500, size=1_500)
        truth = mine.truth[drawn]
        differences.append(area_by_ranks(truth, mine.score[drawn]) - area_by_ranks(truth, theirs.score[drawn]))
    known = metrics.roc_auc_score(truth, mine.score[drawn]) - metrics.roc_auc_score(truth, theirs.score[drawn])
    assert differences[-1] == pytest.approx(known)
    assert found.standard_error == pytest.approx(np.std(differences), rel=0.08)
    # Against a constant score, the difference has the standard error of the one area.
    against_constant = delong(mine.truth, mine.score, np.zeros(1_500))
    alone = area(mine.truth, mine.score)
    assert against_constant.first == pytest.approx(alone.value)
    assert against_constant.standard_error == pytest.approx(alone.standard_error)


def test_a_slice_with_one_class_has_no_interval():
    mine, theirs = rows("binary", 1_000, 1.0, 1), rows("binary", 1_000, 1.2, 2)
    index = np.flatnonzero(mine.truth)[:50]
    for metric in ("roc_auc", "average_precision"):
        (found,) = compare(METRICS[metric], mine, theirs, Resampling(1_000), [index])
        if metric == "roc_auc":
            assert math.isnan(found.candidate)
            assert (found.improvement.lower(0.95), found.improvement.standard_error) != (0, 0)
            assert not found.improvement.upper(0.95) < 0
            assert not found.improvement.lower(0.95) > 0


@given(st.floats(0.51, 0.9999), st.floats(0.51, 0.9999))
@example(0.96875, 0.99609375)
def test_more_confidence_never_narrows_an_interval(one, other):
    found = Estimate.from_draws(0.1, np.random.default_rng(0).exponential(size=2_000), np.array([1.0, -1.0]))
    low, high = sorted((one, other))
    assert found.lower(high) <= found.lower(low) <= found.value
    assert found.upper(high) >= found.upper(low) >= found.value
    assert found.detectable(high) >= found.detectable(low) > 0


def test_a_bound_is_the_outer_of_normal_bound_and_percentile_within_its_resolution():
    draws = np.sort(1 - np.random.default_rng(0).exponential(size=2_000))
    found = Estimate.from_draws(0.0, draws, np.zeros(2))
    # With 2,000 rounds, the relative error of the standard error is 1.6%. The largest credible standard error is larger
    # by 1.645 times this error.
    credible = draws.std(ddof=1) * (1 + 1.645 / math.sqrt(4_000))
    normal = stats.norm.ppf(0.95) * credible
    assert found.lower(0.95) == np.quantile(draws, 0.05) < -normal
    assert found.upper(0.95) == pytest.approx(normal, rel=1e-4)
    assert normal > np.quantile(draws, 0.95)
    # Only two of 2,000 rounds lie beyond the 99.9% percentile. The 99.5% percentile is used, because ten rounds lie
    # beyond it.
    assert -stats.norm.ppf(0.999) * credible > np.quantile(draws, 0.005)
    assert found.lower(0.999) == pytest.approx(np.quantile(draws, 0.005))
    # The bound that is further out is used. Here, this is the normal bound.
    assert found.lower(0.9999999) == pytest.approx(-stats.norm.ppf(0.9999999) * credible, rel=1e-4)


def test_a_bootstrap_of_few_rounds_has_no_percentile():
    draws = np.sort(1 - np.random.default_rng(0).exponential(size=20))
    found = Estimate.from_draws(0.0, draws, np.zeros(2))
    credible = draws.std(ddof=1) * (1 + 1.645 / math.sqrt(40))
    assert found.lower(0.6) == pytest.approx(-stats.norm.ppf(0.6) * credible, rel=1e-3)


def test_three_changed_rows_out_of_a_thousand_prove_nothing():
    # With 3 wins and no loss, the normal bound alone would report an improvement. The sign test has the p-value 1/8.
    champion = rows("binary", 1_000, 1.0, 1)
    wrong = np.flatnonzero(champion.truth != champion.predicted)
    for wins, proven in ((3, False), (8, True)):
        predicted = champion.predicted.copy()
        predicted[wrong[:wins]] = champion.truth[wrong[:wins]]
        (found,) = compare(METRICS["accuracy"], replace(champion, predicted=predicted), champion, Resampling(1_000))
        assert found.improvement.value == pytest.approx(wins / 1_000)
        assert (found.improvement.lower(0.95) > 0) is proven


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_the_influence_of_the_rows_gives_the_same_error_as_the_bootstrap(task, metric):
    from airflow_mlops.metrics.comparison import _influence

    found, resampling = rows(task, 3_000, 1.0, 1), Resampling(3_000)
    known = statistic(metric, found)
    influence = _influence(known, resampling.totals(known.terms(found)))
    assert influence.sum() == pytest.approx(0, abs=1e-6)
    error = estimate(metric, found, resampling).standard_error
    assert math.sqrt(np.square(influence).sum()) == pytest.approx(error, rel=0.06)


def exact(task: str) -> Rows:
    """A model that predicts every row exactly."""
    found = rows(task, 50, 1.0, 1)
    if task == "regression":
        return replace(found, predicted=found.truth, score=found.truth)
    score = found.truth.astype(float) if task == "binary" else np.eye(3)[found.truth]
    return replace(found, predicted=found.truth, score=score)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("task", "metric"), CASES)
def test_a_model_without_errors_has_a_defined_influence_and_finite_bounds(task, metric):
    perfect, other = exact(task), rows(task, 50, 1.0, 2)
    value, by_row = influence(metric, perfect)
    assert np.isfinite([value, *by_row]).all()
    if metric == "rmse":
        assert (value, by_row.any()) == (0, False)
    (found,) = compare(METRICS[metric], perfect, other, Resampling(50))
    assert 0 <= found.improvement.value <= found.improvement.upper(0.95) < math.inf
    assert -math.inf < found.improvement.lower(0.95) <= found.improvement.value


def test_the_relative_error_of_a_standard_error_agrees_with_theory():
    # For 200 normal numbers it is 1/20, by theory and by simulation.
    random = np.random.default_rng(0)
    errors = random.normal(size=(5_000, 200)).std(axis=1)
    assert relative_error(random.normal(size=100_000)) * math.sqrt(100_000) == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert errors.std() / errors.mean() == pytest.approx(math.sqrt(0.5 / 200), rel=0.05)


def test_an_improvement_of_the_detectable_size_is_found_in_eight_samples_of_ten():
    # The estimate is a normal mean with a known standard error.
    found = Estimate(0.0, 1.0)
    means = found.detectable(0.95) + np.random.default_rng(0).normal(size=20_000)
    share = np.mean([Estimate(mean, 1.0).lower(0.95) > 0 for mean in means])
    assert share == pytest.approx(0.8, abs=0.01)
