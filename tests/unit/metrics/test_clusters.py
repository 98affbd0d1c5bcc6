"""Intervals of clustered rows: one customer's thousand orders are not a thousand observations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.metrics.clusters import design
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, clusters, losses, measure, outcomes
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
def test_an_unchanged_world_of_clusters_asks_in_at_most_5_percent_of_windows(metric):
    windows, policy = 300, Policy(tolerance=0)
    random = np.random.default_rng(0)
    asked = sum(is_worse(judged(random, metric, True), policy) for _ in range(windows))
    # With a true rate of 5%, this many requests occur by chance in one of ten thousand runs.
    assert stats.binom.sf(asked - 1, windows, 0.05) > 1e-4
    random = np.random.default_rng(0)
    assert sum(is_worse(judged(random, metric, False), policy) for _ in range(windows)) > 0.1 * windows


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


def test_a_single_cluster_has_no_interval():
    one = Outcomes(np.array([1.0, 2.0]), np.zeros(2), np.zeros(2, bool), groups=np.zeros(2, np.int64))
    with pytest.raises(UnmeasurableError):
        measure("rmse", one, 0.95, "regression")


def test_the_clusters_are_those_of_the_measured_rows_and_each_null_is_its_own():
    contract = ModelContract(
        task="regression",
        label="y",
        features=[FeatureColumn(name="x", kind="number")],
        dataset_name="d",
        dataset_id="0",
    )
    table = pa.table(
        {
            "label": [1.0, None, 2.0, 3.0, 4.0, 5.0],
            "prediction": [0.0] * 6,
            "score": [0.0, 0.0, math.nan, 0.0, 0.0, 0.0],
            "customer": ["a", "b", "c", None, "a", None],
        }
    )
    batches = table.to_batches(max_chunksize=2)
    assert outcomes(batches, contract).truth.tolist() == [1, 3, 4, 5]
    first, null, again, other = clusters(batches, contract, "customer").tolist()
    assert first == again
    assert len({first, null, other}) == 3
