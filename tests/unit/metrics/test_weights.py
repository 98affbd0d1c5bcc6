"""Metrics, intervals and tests of rows with weights (``sample_weight=``)."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from airflow_mlops.core.errors import EvaluationError, SpecError
from airflow_mlops.metrics import custom
from airflow_mlops.metrics.catalog import METRICS, find_metric
from airflow_mlops.metrics.comparison import compare, estimate
from airflow_mlops.metrics.formulas import influence, statistic
from airflow_mlops.metrics.ranks import delong, placements
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline, measure, reliability
from airflow_mlops.metrics.weighted import share_of
from tests.support.sklearn_metrics import by_scikit_learn

COST = "expected_cost_fp1_fn20"
CASES = [(task, metric.name) for metric in METRICS.values() for task in metric.tasks] + [
    ("binary", COST),
    ("regression", "poisson_deviance"),
    ("regression", "tweedie_deviance_p1.5"),
]


def rows(task: str, size: int, seed: int) -> Rows:
    """Rows with few different scores and with very different weights, some of them 0."""
    random = np.random.default_rng([size, seed])
    weight = random.lognormal(0, 2, size) * (random.random(size) < 0.8)
    if task == "regression":
        truth = random.normal(10, 2, size)
        value = truth + random.normal(size=size)
        return Rows("regression", truth, value, value).weighted(weight)
    if task == "binary":
        truth = random.random(size) < 0.3
        score = np.round(np.clip(0.3 + 0.3 * truth + 0.2 * random.normal(size=size), 0, 1), 1)
        return Rows("binary", truth, score >= 0.5, score).weighted(weight)
    codes = random.integers(3, size=size)
    shares = np.exp(np.eye(3)[codes] + random.normal(size=(size, 3)))
    shares /= shares.sum(axis=1, keepdims=True)
    return Rows("multiclass", codes, shares.argmax(axis=1), shares).weighted(weight)


@pytest.mark.parametrize(("task", "metric"), [case for case in CASES if case[1] not in ("ece", COST)])
def test_weighted_metrics_are_those_of_scikit_learn(task, metric):
    for seed in range(8):
        found = rows(task, 60, seed)
        expected = by_scikit_learn(metric, found.truth, found.predicted, found.score, found.weight)
        assert statistic(metric, found).measure(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_a_whole_weight_counts_a_row_that_often(task, metric):
    found = rows(task, 60, 1)
    times = np.random.default_rng(0).integers(0, 4, 60)
    repeated = replace(found, weight=None).take(np.repeat(np.arange(60), times))
    weighted = replace(found, weight=times.astype(float))
    assert statistic(metric, weighted).measure(weighted) == pytest.approx(
        statistic(metric, repeated).measure(repeated), abs=1e-12
    )
    # Multiplying all weights by a constant does not change the metric.
    scaled = replace(found, weight=1e30 * times)
    assert statistic(metric, scaled).measure(scaled) == pytest.approx(
        statistic(metric, weighted).measure(weighted), abs=1e-12
    )


@pytest.mark.parametrize(("task", "metric"), [case for case in CASES if case[1] != "ece"])
def test_the_influence_of_a_row_is_that_of_drawing_it_more_often(task, metric):
    found = rows(task, 60, 2)
    value, by_row = influence(metric, found)
    for row in range(0, 60, 7):
        weight = found.weight.copy()
        weight[row] *= 1 + 1e-6
        more = replace(found, weight=weight)
        change = (statistic(metric, more).measure(more) - value) / 1e-6
        assert by_row[row] == pytest.approx(change, abs=1e-4 + 1e-4 * np.abs(by_row).max())


def test_delong_with_equal_weights_is_delong():
    one, two = rows("binary", 200, 3), rows("binary", 200, 3)
    other = np.random.default_rng(1).permutation(two.score)
    plain, weighted = delong(one.truth, one.score, other), delong(one.truth, one.score, other, np.full(200, 7.0))
    assert weighted[:3] == pytest.approx(plain[:3])
    np.testing.assert_allclose(weighted.influence, plain.influence, atol=1e-15)
    # All weight on one row of a class, and on one class.
    single = np.where(one.truth, np.arange(200) == np.flatnonzero(one.truth)[0], 1.0)
    assert np.isnan(delong(one.truth, one.score, other, single).standard_error)
    assert np.isnan(delong(one.truth, one.score, other, one.truth.astype(float)).first)


def models(size: int, seed: int) -> tuple[Rows, Rows]:
    """Two equally good models of rows with very different weights, which are related to the difficulty of the rows."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=size)
    truth = random.random(size) < 1 / (1 + np.exp(-2 * signal))
    weight = np.exp(random.normal(size=size) + 0.3 * signal)
    pair = []
    for _ in range(2):
        score = 1 / (1 + np.exp(-(signal + random.normal(size=size))))
        pair.append(Rows("binary", truth, score >= 0.5, score).weighted(weight))
    return pair[0], pair[1]


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss"])
def test_equally_good_models_are_rarely_promoted(metric):
    size, repetitions = 400, 300
    resampling = Resampling(size, rounds=500)
    promoted = 0
    for seed in range(repetitions):
        (found,) = compare(find_metric(metric), *models(size, seed), resampling)
        promoted += found.improvement.lower(0.95) > 0
    # At most 5%, within three standard errors. With a variance that ignores the weights, 13% are promoted by roc_auc.
    assert 0.01 <= promoted / repetitions <= 0.088


def test_the_interval_of_a_metric_has_the_width_of_the_weights():
    found = rows("binary", 2_000, 4)
    error = estimate("accuracy", found, Resampling(2_000)).standard_error
    right = found.truth == found.predicted
    mean = np.average(right, weights=found.weight)
    linear = np.sqrt(np.square(found.weight * (right - mean)).sum()) / found.weight.sum()
    assert error == pytest.approx(linear, rel=0.1)
    assert error > 2 * estimate("accuracy", replace(found, weight=None), Resampling(2_000)).standard_error


def with_weights(y_true, y_score, sample_weight=None):
    return float(np.average(np.square(y_true - y_score), weights=sample_weight))


def without_weights(y_true, y_score):
    return float(np.square(y_true - y_score).mean())


@pytest.mark.parametrize("weight", [0.99999, 0.1, 1 / 3, 1e-3, 7.7])
def test_if_all_rows_are_right_equal_weights_change_no_interval(weight):
    for size in range(2, 60):
        right = np.ones(size, bool)
        assert share_of([(right, np.full(size, weight))], 1.96).low == pytest.approx(
            share_of([(right, None)], 1.96).low
        )


def test_custom_metrics_need_the_parameter_sample_weight():
    found = rows("binary", 100, 5)
    path = f"{__name__}:with_weights"
    values = measure(found, [path])
    assert values[path] == pytest.approx(values["brier"], abs=1e-12)
    assert estimate(path, found, Resampling(100)).standard_error > 0
    with pytest.raises(SpecError, match=r"without_weights' has no parameter sample_weight.*Add the parameter"):
        measure(found, [f"{__name__}:without_weights"])
    assert custom.load(f"{__name__}:without_weights").measure(replace(found, weight=None)) > 0


def test_the_baseline_and_the_reliability_diagram_are_weighted():
    truth, weight = np.array([0, 0, 0, 1]), np.array([1.0, 1.0, 1.0, 9.0])
    found = baseline("binary", truth, [0, 1], weight=weight)
    assert found["accuracy"] == 0.75
    assert found["brier"] == pytest.approx(0.75 * 0.25)
    assert baseline("regression", [0.0, 4.0], [], weight=np.array([3.0, 1.0]))["rmse"] == pytest.approx(np.sqrt(3))
    predicted, observed, counts = reliability(truth == 1, np.array([0.1, 0.85, 0.8, 0.8]), weight)
    assert predicted == pytest.approx([0.1, (0.85 + 0.8 + 9 * 0.8) / 11])
    assert observed == pytest.approx([0, 9 / 11])
    assert counts.tolist() == [1, 3]


def test_rows_without_weight_are_not_measured():
    found = replace(rows("multiclass", 60, 6), weight=None)
    lacking = found.weighted((found.truth != 2).astype(float))
    assert np.isfinite(list(measure(lacking).values())).all()
    with pytest.raises(EvaluationError, match="rows have a weight above 0, and these have fewer than two classes"):
        found.weighted((found.truth == 2).astype(float))
    with pytest.raises(EvaluationError, match="Only 1 of 60 rows have a weight above 0"):
        replace(rows("regression", 60, 6), weight=None).weighted(np.eye(60)[0])


def test_areas_of_many_rows_need_little_memory():
    random = np.random.default_rng(0)
    positive, score = random.random(200_000) < 0.3, random.random(200_000)
    tracemalloc.start()
    try:
        placements(positive, score)
        assert tracemalloc.get_traced_memory()[1] < 65 * len(score)
    finally:
        tracemalloc.stop()
