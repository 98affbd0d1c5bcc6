"""Intervals of clustered rows: one customer's thousand orders are not a thousand observations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.metrics.clusters import design
from airflow_mlops.metrics.comparison import compare
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, losses, measure
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.checks import is_worse
from airflow_mlops.policy.spec import Policy

CLUSTERS, Z = 50, stats.norm.ppf(0.975)


def world(random: np.random.Generator, metric: str, rows: int, similar: float = 0.3) -> Outcomes:
    """Labelled predictions of 50 customers with very different numbers of orders and their own level of errors."""
    sizes = np.maximum(1, random.lognormal(0, 1, CLUSTERS) * rows / CLUSTERS / math.exp(0.5)).astype(int)
    groups = np.repeat(np.arange(CLUSTERS), sizes)
    level = random.normal(size=CLUSTERS)[groups]
    noise = math.sqrt(similar) * level + math.sqrt(1 - similar) * random.normal(size=len(groups))
    if metric == "rmse":
        return Outcomes(np.zeros(len(groups)), noise, np.zeros(len(groups), bool), groups=groups)
    truth = random.random(len(groups)) < 0.3
    score = truth + noise
    return Outcomes(truth, score, (score > 0.5) == truth, groups=groups)


def judged(random: np.random.Generator, metric: str, by_cluster: bool) -> Performance:
    task = "regression" if metric == "rmse" else "binary"
    known, window = world(random, metric, 2_000), world(random, metric, 3_000)
    then = measure(metric, replace(known, groups=None), 0.95, task)
    effect = design(losses(metric, window), window.groups).effect if by_cluster else 1.0
    now = measure(metric, window if by_cluster else replace(window, groups=None), 0.95, task)
    return Performance(
        metric=metric, value=now.value, low=now.low, high=now.high, labels=window.rows, reference=then.value,
        reference_low=then.value - math.sqrt(effect) * (then.value - then.low),
        reference_high=then.value + math.sqrt(effect) * (then.high - then.value),
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
def test_an_unchanged_world_of_clusters_requests_retraining_in_at_most_5_percent_of_windows(metric):
    windows, policy = 300, Policy(tolerance=0)
    random = np.random.default_rng(0)
    asked = sum(is_worse(judged(random, metric, True), policy) for _ in range(windows))
    # With a true rate of 5%, this many requests occur by chance in one of ten thousand runs.
    assert stats.binom.sf(asked - 1, windows, 0.05) > 1e-4
    random = np.random.default_rng(0)
    assert sum(is_worse(judged(random, metric, False), policy) for _ in range(windows)) > 0.1 * windows


def test_no_error_of_five_customers_says_little_about_other_customers():
    right = Outcomes(np.ones(1_000, bool), np.ones(1_000), np.ones(1_000, bool), groups=np.arange(1_000) % 5)
    assert measure("accuracy", replace(right, groups=None), 0.95, "binary").low > 0.99
    assert measure("accuracy", right, 0.95, "binary").low < 0.6
    half = replace(right, weight=np.where(np.arange(1_000) % 5 < 2, 0.1, 1.6))
    assert measure("accuracy", half, 0.95, "binary").low < 0.6


@pytest.mark.parametrize("spread", [0.5, 1.0])
@pytest.mark.parametrize("similar", [0.0, 0.1, 0.5])
def test_the_interval_of_a_mean_covers_with_clusters_of_different_sizes(similar, spread):
    random, missed = np.random.default_rng(1), 0
    for _ in range(300):
        sizes = np.maximum(1, random.lognormal(0, spread, CLUSTERS) * 40).astype(int)
        groups = np.repeat(np.arange(CLUSTERS), sizes)
        values = math.sqrt(similar) * random.normal(size=CLUSTERS)[groups]
        values += math.sqrt(1 - similar) * random.normal(size=len(groups))
        half = design(values, groups).factor(Z) * Z * values.std() / math.sqrt(len(values))
        missed += abs(values.mean()) > half
    # 15 expected, with a standard deviation of 3.8.
    assert missed <= 30


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=50))
@settings(deadline=None)
def test_rows_in_clusters_of_their_own_have_hardly_a_design_effect(values):
    found = design(np.asarray(values), np.arange(len(values)))
    assert 1 <= found.effect <= (len(values) / (len(values) - 1)) + 1e-9
    assert found.clusters == pytest.approx(len(values))


def test_equal_rows_of_a_cluster_count_once():
    values = np.random.default_rng(0).normal(size=40)
    found = design(np.repeat(values, 25), np.repeat(np.arange(40), 25))
    assert found.effect == pytest.approx(25 * 40 / 39, rel=1e-6)
    assert found.clusters == pytest.approx(40)


def equal_models(random: np.random.Generator, metric: str) -> tuple[Rows, Rows, np.ndarray]:
    """Two equally good models for 50 customers with 20 rows each. Each model is right about other customers."""
    groups = np.repeat(np.arange(CLUSTERS), 20)
    truth = (random.random(CLUSTERS) < 0.5)[groups].astype(float)

    def predictions() -> np.ndarray:
        return truth + random.normal(size=CLUSTERS)[groups] + 0.1 * random.normal(size=len(groups))

    if metric == "rmse":
        first, second = (Rows("regression", truth, found := predictions(), found) for _ in range(2))
    else:
        first, second = (Rows("binary", truth > 0.5, (found := predictions()) > 0.5, found) for _ in range(2))
    return first, second, groups


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "rmse"])
def test_a_gate_calls_an_equal_model_better_in_at_most_5_percent_of_clustered_worlds(metric):
    def promoted(by_cluster: bool, often: int = 120) -> int:
        random, found = np.random.default_rng(2), 0
        for _ in range(often):
            mine, theirs, groups = equal_models(random, metric)
            resampling = Resampling(len(groups), clusters=groups if by_cluster else None, rounds=300)
            (compared,) = compare(find_metric(metric), mine, theirs, resampling)
            found += compared.improvement.lower(0.95) > 0
        return found

    # With a true rate of 5%, this many occur by chance in one of ten thousand runs.
    assert stats.binom.sf(promoted(True) - 1, 120, 0.05) > 1e-4
    assert promoted(False) > 0.15 * 120


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "rmse"])
def test_a_gate_proves_nothing_with_a_single_cluster(metric):
    mine, theirs, groups = equal_models(np.random.default_rng(3), metric)
    (compared,) = compare(find_metric(metric), mine, theirs, Resampling(len(groups), clusters=np.zeros_like(groups)))
    assert compared.improvement.lower(0.95) == -math.inf


def test_rows_in_clusters_of_their_own_are_resampled_as_rows():
    mine, theirs, groups = equal_models(np.random.default_rng(3), "rmse")
    metric, own = find_metric("rmse"), np.arange(len(groups))
    (by_row,) = compare(metric, mine, theirs, Resampling(len(own)))
    (by_cluster,) = compare(metric, mine, theirs, Resampling(len(own), clusters=own))
    assert by_cluster.improvement.standard_error == by_row.improvement.standard_error


def test_a_single_cluster_has_no_interval():
    one = Outcomes(np.array([1.0, 2.0]), np.zeros(2), np.zeros(2, bool), groups=np.zeros(2, np.int64))
    with pytest.raises(UnmeasurableError):
        measure("rmse", one, 0.95, "regression")
