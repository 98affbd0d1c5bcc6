"""A cost that is a column: its name, its value by hand, its interval, thresholds, and which values are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import EvaluationError, MetricColumnError, SpecError
from airflow_mlops.data.cost_columns import read_costs, why_no_costs
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.metrics.comparison import compare, estimate
from airflow_mlops.metrics.costs import Costs, cost_columns, costs_of, parse_costs
from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, losses, measure
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline
from airflow_mlops.metrics.values import measure as measure_all
from airflow_mlops.models.rules.threshold import ThresholdRule
from airflow_mlops.models.threshold_choice import Thresholds, choose
from tests.support.training import flights, training_set

NAME = "expected_cost_fp1_fn-amount"
TRUTH = np.array([1, 1, 1, 0, 0, 0], dtype=bool)
PREDICTED = np.array([1, 0, 0, 1, 0, 0], dtype=bool)
AMOUNT = np.array([100.0, 10.0, 2.5, 7.0, 0.0, 3.0])

column = st.from_regex(r"[a-zA-Z_ä][a-zA-Z0-9_ä]{0,9}", fullmatch=True).filter(
    lambda text: text.lower() not in ("nan", "inf", "infinity")
)
cost = st.one_of(column, st.floats(1e-100, 1e100), st.just(0.0))


def outcomes(truth, predicted, **costs) -> Outcomes:
    return Outcomes(truth, predicted.astype(float), truth == predicted, columns=costs)


@given(st.lists(st.tuples(cost, cost).filter(any), min_size=2, max_size=2))
def test_a_name_stands_for_one_pair_of_costs(pairs):
    names = [parse_costs(dict(zip(("false_positive", "false_negative"), pair, strict=True))).metric for pair in pairs]
    assert [costs_of(name) for name in names] == pairs
    assert (names[0] == names[1]) == (pairs[0] == pairs[1])
    assert all(character.isalnum() or character in "_-." for name in names for character in name)


def test_the_names_and_their_columns():
    assert parse_costs({"false_positive": "1", "false_negative": "amount"}).metric == NAME
    assert costs_of("expected_cost_fp-a_fn1_fn-b_fn2") == ("a_fn1", "b_fn2")
    assert find_metric(NAME) == (NAME, ("binary",), False, True)
    assert cost_columns([NAME, "f1", "expected_cost_fp-fee_fn-amount", "expected_cost_fp1_fn2"]) == ["amount", "fee"]
    (gate,) = parse_gates([{"metric": "expected_cost", "false_positive": 1, "false_negative": "amount", "max": 9}])
    assert gate.metric == NAME
    for wrong in ("the amount", "1st", "", "a-b", "a:b"):
        with pytest.raises(SpecError, match="consists of letters, digits and underscores"):
            parse_gates([{"metric": "expected_cost", "false_positive": 1, "false_negative": wrong, "max": 9}])


def test_the_value_by_hand():
    # One false positive costs 1, two false negatives cost 10 and 2.5.
    rows = Rows("binary", TRUTH, PREDICTED, PREDICTED.astype(float), columns={"amount": AMOUNT})
    assert measure_all(rows, [NAME])[NAME] == 13.5 / 6
    value, by_row = influence(NAME, rows)
    np.testing.assert_allclose(by_row, (np.array([0, 10, 2.5, 1, 0, 0]) - value) / 6, atol=1e-6)
    seen = outcomes(TRUTH, PREDICTED, amount=AMOUNT)
    assert measure(NAME, seen, 0.95).value == pytest.approx(13.5 / 6)
    np.testing.assert_array_equal(losses(NAME, seen), [0, 10, 2.5, 1, 0, 0])
    # A part of the rows has its own costs, and weights multiply the costs.
    part = rows.take(np.array([1, 3]))
    assert measure_all(part, [NAME])[NAME] == 5.5
    weights = np.array([1.0, 2, 0, 1, 1, 1])
    assert measure_all(rows.weighted(weights), [NAME])[NAME] == pytest.approx(21 / 6)
    assert measure(NAME, seen.weighted(weights), 0.95).value == pytest.approx(21 / 6)
    for without, error in (
        (replace(rows, columns={}), EvaluationError),
        (replace(seen, columns={}), UnmeasurableError),
    ):
        with pytest.raises(error, match="column 'amount'"):
            measure(NAME, without, 0.95) if isinstance(without, Outcomes) else measure_all(without, [NAME])


def test_the_baseline_predicts_the_class_that_costs_less():
    truth = np.array([0] * 8 + [1] * 2)
    # Always predicting the negative class costs the amounts of two rows. Always predicting the positive class costs 8.
    for amount, expected in ((1.0, 0.2), (39.0, 0.8)):
        found = baseline("binary", truth, [0, 1], positive=1, own=[NAME], columns={"amount": np.full(10, amount)})
        assert found[NAME] == pytest.approx(expected)


def test_models_are_compared_by_the_costs_of_the_rows():
    random = np.random.default_rng(0)
    truth, amount = random.random(500) < 0.3, random.lognormal(0, 1, 500)
    candidate, champion = (
        Rows("binary", truth, truth ^ (random.random(500) < share), None, columns={"amount": amount})
        for share in (0.1, 0.3)
    )
    resampling = Resampling(500)
    (found,) = compare(find_metric(NAME), candidate, champion, resampling)
    each = [np.where(truth, amount, 1.0) * (item.truth != item.predicted) for item in (champion, candidate)]
    difference = each[0] - each[1]
    assert found.improvement.value == pytest.approx(difference.mean())
    assert found.improvement.standard_error == pytest.approx(difference.std() / math.sqrt(500), rel=0.1)
    assert estimate(NAME, candidate, resampling).standard_error == pytest.approx(
        each[1].std() / math.sqrt(500), rel=0.1
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 200), st.floats(0, 1), st.floats(0, 1), st.floats(1e-3, 1e6), st.integers(0, 100))
def test_a_column_of_one_value_has_the_value_of_the_number(size, first, second, amount, seed):
    random = np.random.default_rng(seed)
    truth = random.random(size) < first
    seen = outcomes(truth, truth ^ (random.random(size) < second), amount=np.full(size, amount))
    number, found = measure(Costs(1.0, amount).metric, seen, 0.95), measure(NAME, seen, 0.95)
    assert found.value == pytest.approx(number.value, rel=1e-9)
    # The interval is at least as wide as with the cost as a number. Its width is above 0 even without errors.
    assert 0 <= found.low <= number.low * (1 + 1e-9)
    assert found.high >= number.high * (1 - 1e-9) > 0


def test_the_interval_covers_with_few_errors_of_different_costs():
    """The usual interval of a mean covers in 75% of these samples."""
    random, size, covered, usual = np.random.default_rng(0), 300, 0, 0
    for _ in range(400):
        truth = random.random(size) < 0.1
        wrong = np.where(truth, random.random(size) < 0.05, random.random(size) < 0.03)
        amount = random.lognormal(math.log(20) - 0.5**2 / 2, 0.5, size)
        seen = outcomes(truth, truth ^ wrong, amount=amount)
        found, cost = measure(NAME, seen, 0.95), losses(NAME, seen)
        expected = 0.9 * 0.03 + 0.1 * 0.05 * 20
        covered += found.low <= expected <= found.high
        usual += abs(cost.mean() - expected) <= 1.96 * cost.std() / math.sqrt(size)
    assert covered / 400 >= 0.94
    assert usual / 400 < 0.85


def test_a_threshold_by_the_costs_of_the_rows():
    score = np.array([0.9, 0.7, 0.5, 0.3])
    truth = np.array([True, False, True, False])
    costs = {"amount": np.array([50.0, 4.0, 3.0, 1.0])}
    # Costs from the highest threshold on: 50 + 3 (two rows missed), 3, 4 + 3, 4, and 4 + 1.
    rule = ThresholdRule.model_validate({"cost": {"false_positive": "amount", "false_negative": "amount"}})
    assert (rule.cost_columns, str(rule)) == (
        ["amount"], "least cost (false positive column 'amount', false negative column 'amount')",
    )  # fmt: skip
    amounts = costs["amount"]
    np.testing.assert_allclose(Thresholds.of(truth, score, None, (amounts, amounts)).cost, [53, 3, 7, 4, 5])
    assert choose(rule, truth, score, "rows", costs=costs)[0] == pytest.approx(0.8)
    # The last positive row becomes expensive, so the threshold no longer misses it.
    costs["amount"][2] = 20
    assert choose(rule, truth, score, "rows", costs=costs)[0] == pytest.approx(0.4)


@settings(deadline=None)
@given(st.data())
def test_a_threshold_has_the_least_weighted_cost(data):
    size = data.draw(st.integers(2, 12))
    whole = st.lists(st.integers(0, 6), min_size=size, max_size=size)
    score, truth = np.array(data.draw(whole)) / 6, np.array(data.draw(whole)) % 2 == 0
    assume(truth.any())
    first, second, weight = (np.array(data.draw(whole), dtype=float) for _ in range(3))
    rule = ThresholdRule.model_validate({"cost": {"false_positive": "a", "false_negative": "b"}})
    value, _ = choose(rule, truth, score, "rows", weight + 1, {"a": first, "b": second})

    def total(threshold):
        predicted = score >= threshold
        return ((weight + 1) * (first * (predicted & ~truth) + second * (truth & ~predicted))).sum()

    assert total(value) == min(total(each) for each in [*score, 0.0, 2.0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, None, 2.0], "null in 1 row"),
        ([1.0, -2.0, -0.5], "negative in 2 rows"),
        ([math.inf, math.nan, 1e101], "NaN, infinite or above 1e+100 in 3 rows"),
        ([0.0, 1e-150, 1.0], "above 0 but below 1e-100 in 1 row"),
        (["1", "2", "3"], "of the type string"),
    ],
)
def test_invalid_costs(values, message):
    assert message in why_no_costs([pa.array(values)])
    assert why_no_costs([pa.array([0, 5, 10**15])]) is None


def test_columns_of_a_training_set(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    table = flights(20).append_column("amount", pa.array([None, *range(19)]))
    dataset = open_dataset(store, training_set(store, flights(20).append_column("amount", pa.array(range(20))), table))
    assert read_costs(dataset, "train", ["amount"])["amount"].tolist() == list(range(20))
    with pytest.raises(MetricColumnError, match=r"'amount' of split part 'test'.*null in 1 row \(of 20\)"):
        read_costs(dataset, "test", ["amount"])
    with pytest.raises(MetricColumnError, match="no column 'fee'"):
        read_costs(dataset, "train", ["fee"])
    with pytest.raises(MetricColumnError, match="'late'.*is the label"):
        read_costs(dataset, "train", ["late"])
