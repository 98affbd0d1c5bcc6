"""Realised performance of rows with weights: values, intervals, and the false-alarm rate of the comparison with training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.core.contract import Task
from airflow_mlops.metrics import intervals, weighted
from airflow_mlops.metrics.catalog import REALISED
from airflow_mlops.metrics.comparison import relative_error
from airflow_mlops.metrics.ordered_ranks import Ordered, ordered_precision
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, losses, measure
from airflow_mlops.performance.bias import bias
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.checks import is_worse
from airflow_mlops.policy.spec import Policy
from tests.support.sklearn_metrics import by_scikit_learn

COST = "expected_cost_fp1_fn20"
CASES: list[tuple[Task, str]] = [(task, metric) for task in REALISED for metric in REALISED[task]] + [("binary", COST)]


def outcomes(task: Task, random: np.random.Generator, rows: int) -> tuple[Outcomes, np.ndarray]:
    """Predictions with labels, and weights that are related to the difficulty of the rows."""
    signal = random.normal(size=rows)
    weight = np.exp(random.normal(size=rows) + 0.3 * signal)
    if task == "regression":
        return Outcomes(np.zeros(rows), random.normal(size=rows) * np.exp(0.3 * signal), np.zeros(rows, bool)), weight
    if task == "multiclass":
        truth = random.integers(3, size=rows)
        predicted = np.where(random.random(rows) < 1 / (1 + np.exp(-1 - signal)), truth, random.integers(3, size=rows))
        right = truth == predicted
        return Outcomes(right, np.full(rows, 0.5), right, codes=np.stack([truth, predicted])), weight
    truth = random.random(rows) < 1 / (1 + np.exp(1 - 2 * signal))
    score = np.round(1 / (1 + np.exp(0.8 - 1.5 * signal - 0.7 * random.normal(size=rows))), 2)
    return Outcomes(truth, score, (score >= 0.5) == truth), weight


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_weighted_values_are_those_of_scikit_learn(task, metric):
    found, weight = outcomes(task, np.random.default_rng(1), 150)
    weight[::5] = 0
    one = found.weighted(weight)
    value = measure(metric, one, 0.95, task)
    truth, predicted = found.codes if found.codes is not None else (found.truth, found.truth == found.right)
    expected = by_scikit_learn(metric, truth, predicted, found.score, weight)
    assert value.value == pytest.approx(expected, abs=1e-12)
    assert one.rows == 120
    assert value.low < value.value < value.high
    # The weighted mean of the losses of the rows is the metric, or 1 minus the metric.
    mean = np.average(losses(metric, one), weights=one.weight)
    higher = metric not in (COST, "log_loss", "brier", "rmse", "mae")
    expected = value.value**2 if metric == "rmse" else 1 - value.value if higher else value.value
    assert mean == pytest.approx(expected, abs=1e-6)


@given(st.sampled_from(CASES), st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30))
@settings(deadline=None, max_examples=60)
def test_the_weight_2_counts_a_row_twice(case, seed, scale):
    task, metric = case
    random = np.random.default_rng(seed)
    found, _ = outcomes(task, random, 60)
    times = random.integers(0, 4, 60)
    index = np.repeat(np.arange(60), times)
    codes = None if found.codes is None else found.codes[:, index]
    repeated = Outcomes(found.truth[index], found.score[index], found.right[index], codes=codes)
    try:
        expected = measure(metric, repeated, 0.95, task)
    except UnmeasurableError:
        return
    if metric == "roc_auc" and min(np.count_nonzero(times[found.truth]), np.count_nonzero(times[~found.truth])) < 2:
        # Copies of a single row give no estimate of the variance.
        return
    value = measure(metric, found.weighted(scale * times), 0.95, task)
    assert value.value == pytest.approx(expected.value, abs=1e-9)


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_equal_weights_give_the_interval_without_weights(task, metric):
    found, _ = outcomes(task, np.random.default_rng(2), 200)
    plain, equal = measure(metric, found, 0.9, task), measure(metric, found.weighted(np.full(200, 7.0)), 0.9, task)
    assert (equal.value, equal.low, equal.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-9)
    groups = np.arange(200) // 4
    plain, equal = (
        measure(metric, replace(item, groups=groups), 0.9, task) for item in (found, found.weighted(np.full(200, 7.0)))
    )
    assert (equal.low, equal.high) == pytest.approx((plain.low, plain.high), abs=1e-9)


def test_the_interval_has_the_width_of_the_weights():
    found, weight = outcomes("binary", np.random.default_rng(3), 4_000)
    value = measure("accuracy", found.weighted(weight), 0.95)
    error = np.sqrt(np.square(weight * (found.right - value.value)).sum()) / weight.sum()
    assert value.high - value.low == pytest.approx(2 * 1.96 * error, rel=0.02)
    plain = measure("accuracy", found, 0.95)
    assert value.high - value.low > 1.5 * (plain.high - plain.low)
    # Several rows of one cluster give as much certainty as one of them, also with weights.
    index = np.repeat(np.arange(400), 4)
    once = Outcomes(found.truth[:400], found.score[:400], found.right[:400]).weighted(weight[:400])
    copies = Outcomes(found.truth[index], found.score[index], found.right[index], groups=np.arange(1_600) // 4)
    alone, same = measure("accuracy", once, 0.95), measure("accuracy", copies.weighted(weight[index]), 0.95)
    assert same.high - same.low == pytest.approx(alone.high - alone.low, rel=0.06)


def test_without_errors_the_effective_rows_decide_the_interval():
    right, weight = np.ones(20, bool), np.array([8.0] * 4 + [1.0] * 16)
    found = measure("accuracy", Outcomes(np.arange(20) < 10, np.full(20, 0.5), right).weighted(weight), 0.95)
    # (4 * 8 + 16)**2 / (4 * 64 + 16) effective rows.
    expected = intervals.proportion(1.0, 48**2 / 272, 1.959964)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, expected.low, 1.0), abs=1e-6)
    assert found.low < 0.7 < measure("accuracy", Outcomes(np.arange(20) < 10, np.full(20, 0.5), right), 0.95).low


def test_precision_of_other_rows_with_whole_weights():
    random = np.random.default_rng(4)
    truth, score, weight = random.random(40) < 0.4, random.integers(0, 8, 40) / 8, random.integers(1, 4, 40)
    above, total = np.flatnonzero(truth), float(weight[truth].sum())
    expected = []
    for row in above:
        others = np.where(np.arange(40) == row, 0, weight)
        true = others[truth & (score >= score[row])].sum() * total / (total - weight[row])
        reached = true + others[~truth & (score >= score[row])].sum()
        expected.append(true / reached if reached else 1.0)
    order = np.argsort(-score)
    rows = Ordered(truth[order], score[order], weight[order].astype(float))
    found = ordered_precision(lambda: [rows]).of_others
    assert found == pytest.approx(np.average(expected, weights=weight[above]))


def test_the_bias_is_weighted():
    found = Outcomes(np.array([0.0, 0.0, 0.0]), np.array([1.0, 4.0, 9.0]), np.zeros(3, bool))
    one = bias(found.weighted(np.array([3.0, 1.0, 0.0])), "regression", Policy(), 0.5)
    assert one.value == pytest.approx((3 * 1 + 4) / 4)
    assert (one.labels, one.reference) == (2, 0.5)
    truth, score = np.array([True, False] * 50), np.array([0.9, 0.4] * 50)
    known = Outcomes(truth, score, (score >= 0.5) == truth).weighted(np.array([1.0, 3.0] * 50))
    assert bias(known, "binary", Policy(), None).value == pytest.approx((-0.1 + 3 * 0.4) / 4)


def test_equal_large_values_have_a_narrow_interval():
    # The square of the value is no finite number.
    found = weighted.interval(np.full(2, 1e160), np.array([0.25, 1.0]), 1.96)
    assert (found.low, found.value, found.high) == pytest.approx((1e160, 1e160, 1e160))


def test_few_rows_with_large_weights_widen_the_interval_of_a_mean():
    random = np.random.default_rng(5)
    values, weight = random.exponential(size=300), random.lognormal(0, 2, 300)
    found = weighted.interval(values, weight, 1.96)
    each = weighted.contributions(values, weight)
    plain = intervals.mean(each, 1.96, weighted.effective(weight))
    assert found.value == pytest.approx(np.average(values, weights=weight))
    # As in the gates, the weights make the standard error itself less certain, so the interval is wider.
    doubt = relative_error(each - each.mean()) - relative_error(values - values.mean())
    assert doubt > 0.1
    assert found.high - found.value == pytest.approx((1 + 1.644854 * doubt) * (plain.high - plain.value))
    assert found.value - found.low == pytest.approx((1 + 1.644854 * doubt) * (plain.value - plain.low))


@pytest.mark.parametrize(("task", "metric"), [("binary", "roc_auc"), ("binary", "accuracy"), ("regression", "rmse")])
def test_an_unchanged_world_requests_retraining_in_at_most_5_percent_of_windows(task, metric):
    random, windows = np.random.default_rng(7), 500
    worse = plain = 0
    for _ in range(windows):
        then, now = (measured(task, metric, random, rows) for rows in (300, 600))
        found = Performance(
            metric=metric, value=now.value, low=now.low, high=now.high, labels=600, reference=then.value,
            reference_low=then.low, reference_high=then.high, weight="weight",
        )  # fmt: skip
        worse += is_worse(found, Policy(tolerance=0))
        plain += is_worse(found.model_copy(update={"reference_low": None, "reference_high": None}), Policy(tolerance=0))
    # With a true rate of 5%, this many requests occur by chance in one of ten thousand runs.
    assert stats.binom.sf(worse - 1, windows, 0.05) > 1e-4
    # The test is not empty: the value at training as an exact number is exceeded more often.
    assert plain > 0.08 * windows


def measured(task: Task, metric: str, random: np.random.Generator, rows: int) -> intervals.Interval:
    found, weight = outcomes(task, random, rows)
    return measure(metric, found.weighted(weight), 0.95, task)
