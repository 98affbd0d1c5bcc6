"""The comparison with challengers on clustered rows, such as the thousand orders of one customer."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models.refitting import Refitted, refit
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec, TrainerSpec
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.cross_fitting import Champion, cross_fit, halves
from airflow_mlops.performance.gains import best_gain, compare
from tests.unit.performance.test_challenger import LINEAR, NAMES, OLD, V1, comparison, contract, rows


def compared(
    current: pa.Table, groups: np.ndarray | None, task: str = "binary", trainer: TrainerSpec | None = None
) -> Comparison:
    """Compare challengers with a champion that was trained on 2,000 rows of the old relation."""
    older, used = rows(2_000, OLD, task, seed=1), trainer or LINEAR[task]

    def fit(table: pa.Table) -> Refitted:
        return refit(used, 0, contract(task), table)

    model = fit(older)
    metric = "roc_auc" if task == "binary" else "rmse"
    pasts = {None: older, 1: older.slice(0, 0)}
    return cross_fit({None: fit}, Champion(V1, model.contract, model.predict), current, pasts, metric, 2, groups)


def copied(count: int, times: int, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Copies of the rows of customers, in which no feature explains the label."""
    once = rows(count, np.zeros(4), seed=seed)
    return pa.concat_tables([once] * times), np.tile(np.arange(count), times)


def test_copies_of_a_customer_are_in_one_half_and_give_no_challenger_an_advantage():
    # A fully grown tree predicts a copy of a training row without error.
    tree = SklearnTrainerSpec(estimator="sklearn.tree.DecisionTreeClassifier")
    current, groups = copied(200, 4, seed=2)
    by_row = compared(current, None, trainer=tree)
    assert best_gain(by_row, [], 0.95, 0.02).share > 0.5
    by_cluster = compared(current, groups, trainer=tree)
    assert all(abs(item.value - 0.5) < 0.15 for item in by_cluster.challengers)
    parts = halves(current.append_column("customer", pa.array(groups)), groups)
    assert [part.num_rows for part in parts] == [400, 400]
    first, second = (set(part.column("customer").to_pylist()) for part in parts)
    assert first.isdisjoint(second)


def test_copies_of_rows_do_not_make_a_gain_more_certain():
    random = np.random.default_rng(0)
    champion, challenger = random.normal(1.0, 0.3, 100), random.normal(0.95, 0.3, 100)
    once = compare(champion, challenger, None, 100, 0.7)
    repeated = [np.tile(item, 25) for item in (champion, challenger)]
    by_row = compare(*repeated, None, 100, 0.7)
    by_cluster = compare(*repeated, None, 100, 0.7, np.tile(np.arange(100), 25))
    assert by_row.standard_error == pytest.approx(once.standard_error / 5, rel=0.02)
    assert by_cluster.standard_error == pytest.approx(once.standard_error, rel=0.02)
    assert by_cluster.clusters == pytest.approx(100, rel=0.02)
    # Each row in a cluster of its own is an independent row.
    own = compare(champion, challenger, None, 100, 0.7, np.arange(100))
    assert own.standard_error == pytest.approx(once.standard_error, rel=0.02)


def clustered(count: int, customers: int, seed: int) -> tuple[pa.Table, np.ndarray]:
    """The old relation, in which each customer has one row of features and a level of its own."""
    random = np.random.default_rng(seed)
    groups = random.integers(0, customers, count)
    features = random.normal(size=(customers, 4))[groups]
    label = features @ OLD + random.normal(size=customers)[groups] + random.normal(size=count)
    return pa.table({**dict(zip(NAMES, features.T, strict=True)), "label": label}), groups


def test_an_unchanged_relation_of_clusters_rarely_requests_retraining():
    def asked(by_cluster: bool, windows: int) -> int:
        found = 0
        for seed in range(windows):
            current, groups = clustered(600, 30, seed + 2)
            comparison = compared(current, groups if by_cluster else None, "regression")
            found += best_gain(comparison, [], 0.95, 0.02) is not None
        return found

    assert asked(True, 30) <= 2
    assert asked(False, 10) >= 4


def test_one_cluster_cannot_be_compared_and_windows_of_clusters_are_not_independent():
    with pytest.raises(UnmeasurableError):
        compared(rows(400, OLD, seed=2), np.zeros(400, dtype=np.int64))
    now, before = comparison(0.02, 0.012), [(since, comparison(0.02, 0.012)) for since in (1, 2, 3)]
    assert best_gain(now, before, 0.95, 0.02) is not None

    def by_cluster(item: Comparison, clusters: float) -> Comparison:
        (one,) = item.challengers
        return item.model_copy(update={"challengers": [one.model_copy(update={"clusters": clusters})]})

    # Four windows of the same customers give no more certainty than one window.
    many = [(since, by_cluster(item, 1e6)) for since, item in before]
    assert best_gain(by_cluster(now, 1e6), many, 0.95, 0.02) is None
    # With few clusters, the quantile is larger. It is enough that one earlier window has few clusters.
    certain = comparison(0.02, 0.0075)
    assert best_gain(by_cluster(certain, 1e6), [], 0.95, 0.02) is not None
    assert best_gain(by_cluster(certain, 4), [], 0.95, 0.02) is None
