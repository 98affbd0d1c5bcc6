"""NDCG by groups: its name, its value by hand and by scikit-learn, its interval, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from airflow_mlops.core.errors import EvaluationError, MetricColumnError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.metrics.columns import columns_of, read_columns
from airflow_mlops.metrics.comparison import compare, estimate
from airflow_mlops.metrics.groups import ndcg
from airflow_mlops.metrics.rankings import ranking_of
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, losses, measure
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline
from airflow_mlops.metrics.values import measure as measure_all
from tests.support.training import flights, training_set

NAME = "ndcg_k2_by-query"
QUERY = np.array([1, 1, 1, 2, 2, 3])
LABEL = np.array([2.0, 0.0, 1.0, 0.0, 1.0, 0.0])
SCORE = np.array([0.1, 0.5, 0.9, 0.4, 0.4, 1.0])
# Query 1 is ranked 1, 0, 2: the gains are 1, 0, 3, of which two count. The best order is 3, 1. In query 2, both rows have
# the same score, so each has the mean gain 0.5. Query 3 has no label above 0.
FIRST = 1 / (3 + 1 / math.log2(3))
SECOND = 0.5 * (1 + 1 / math.log2(3))


def rows(label=LABEL, score=SCORE, query=QUERY, **more) -> Rows:
    return Rows("regression", label, score, score, columns={"query": query}, **more)


def outcomes(label=LABEL, score=SCORE, query=QUERY) -> Outcomes:
    return Outcomes(label, score, np.zeros(len(label), dtype=bool), columns={"query": query})


def test_the_name_contains_the_parameters():
    (gate,) = parse_gates([{"metric": "ndcg", "k": 10, "group": "query", "min": 0.6}])
    assert gate.metric == "ndcg_k10_by-query"
    assert ranking_of("ndcg_k10_by-query") == (10, "query")
    assert find_metric(NAME) == (NAME, ("regression",), True, False)
    assert columns_of([NAME, "ndcg_k5_by-query", "rmse"]) == ["query"]
    for wrong in (
        {},
        {"k": 0, "group": "query"},
        {"k": 2.5, "group": "query"},
        {"k": 10, "group": "a b"},
        {"k": True, "group": "q"},
    ):
        with pytest.raises(SpecError, match="needs a whole number from 1"):
            parse_gates([{"metric": "ndcg", "min": 0.6, **wrong}])


def test_the_value_by_hand():
    found = ndcg(QUERY, LABEL, SCORE, 2)
    assert found.first.tolist() == [0, 3]
    np.testing.assert_allclose(found.value, [FIRST, SECOND])
    assert measure_all(rows(), [NAME])[NAME] == pytest.approx((FIRST + SECOND) / 2)
    seen = outcomes()
    assert measure(NAME, seen, 0.95, "regression").value == pytest.approx((FIRST + SECOND) / 2)
    assert losses(NAME, seen).mean() == pytest.approx(1 - (FIRST + SECOND) / 2)
    # Without features, all rows have the same prediction.
    found = baseline("regression", LABEL, [], own=[NAME], columns={"query": QUERY})[NAME]
    even = (4 / 3) * (1 + 1 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert found == pytest.approx((even + SECOND) / 2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_is_the_mean_of_scikit_learn_over_the_groups_in_any_order(data):
    size, k = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 6))
    query, label, score = (
        np.array(data.draw(st.lists(st.integers(0, most), min_size=size, max_size=size))) for most in (4, 3, 5)
    )
    label, score = label.astype(float), score / 5
    found = ndcg(query, label, score, k)
    expected = {
        each: ndcg_score([np.exp2(label[query == each]) - 1], [score[query == each]], k=k)
        if (query == each).sum() > 1
        else 1.0
        for each in np.unique(query)
        if label[query == each].any()
    }
    assert dict(zip(query[found.first].tolist(), found.value.tolist(), strict=True)) == pytest.approx(expected)
    order = np.random.default_rng(size).permutation(size)
    again = ndcg(query[order], label[order], score[order], k)
    np.testing.assert_allclose(np.sort(again.value), np.sort(found.value))


def grouped(groups: int, seed: int, noise: float):
    random = np.random.default_rng(seed)
    query = np.repeat(np.arange(groups), 8)
    label = np.random.default_rng(groups).integers(0, 4, len(query)).astype(float)
    return label, label + noise * random.normal(size=len(query)), query


def test_models_are_compared_by_group():
    label, good, query = grouped(200, 1, 1.0)
    weak = grouped(200, 2, 2.0)[1]
    resampling = Resampling(len(label))
    (found,) = compare(find_metric(NAME), rows(label, good, query), rows(label, weak, query), resampling)
    each = [ndcg(query, label, score, 2).value for score in (good, weak)]
    assert len(each[0]) == 200
    difference = each[0] - each[1]
    assert found.improvement.value == pytest.approx(difference.mean())
    assert found.improvement.standard_error == pytest.approx(difference.std() / math.sqrt(200), rel=0.1)
    error = estimate(NAME, rows(label, good, query), resampling).standard_error
    assert error == pytest.approx(each[0].std() / math.sqrt(200), rel=0.1)
    seen = measure(NAME, outcomes(label, good, query), 0.95, "regression")
    assert seen.high - seen.low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_the_interval_covers():
    covered = 0
    label, score, query = grouped(20_000, 1, 1.5)
    expected = ndcg(query, label, score, 2).value.mean()
    for number in range(300):
        part = slice(8 * 60 * number, 8 * 60 * (number + 1))
        found = measure(NAME, outcomes(label[part], score[part], query[part]), 0.95, "regression")
        covered += found.low <= expected <= found.high
    assert 0.92 <= covered / 300 <= 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": LABEL - 1}, "3 of 6 labels are not from 0 to 31"),
        ({"label": LABEL * 20}, "1 of 6 labels are not from 0 to 31"),
        ({"label": np.zeros(6)}, "no (row has a label|label is) above 0"),
    ],
)
def test_rows_without_a_ranking_are_refused(change, message):
    with pytest.raises(EvaluationError, match=message):
        measure_all(rows(**change), [NAME])
    with pytest.raises(UnmeasurableError, match=message):
        measure(NAME, outcomes(**change), 0.95, "regression")


def test_weights_and_missing_columns_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="does not support weights of rows"):
        measure_all(rows(weight=np.ones(6)), [NAME])
    with pytest.raises(UnmeasurableError, match="supports neither weights"):
        measure(NAME, outcomes().weighted(np.ones(6)), 0.95, "regression")
    with pytest.raises(EvaluationError, match="needs column 'query'"):
        measure_all(Rows("regression", LABEL, SCORE, SCORE), [NAME])
    store = ArtifactStore(tmp_path.as_uri())
    train, test = flights(20, "regression"), flights(20, "regression")
    gaps = pa.array([None, *(f"q{number % 3}" for number in range(19))])
    ref = training_set(
        store, train.append_column("query", gaps.fill_null("q0")), test.append_column("query", gaps), task="regression"
    )
    dataset = open_dataset(store, ref)
    assert len(set(read_columns(dataset, "train", [NAME])["query"].tolist())) == 3
    with pytest.raises(MetricColumnError, match=r"'query' of split part 'test'.* null in 1 row \(of 20\)"):
        read_columns(dataset, "test", [NAME])
    with pytest.raises(MetricColumnError, match="no column 'other'"):
        read_columns(dataset, "test", ["ndcg_k2_by-other"])
