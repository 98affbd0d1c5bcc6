"""The expected cost: its names and errors, its value by hand, its interval, and its comparison of two models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.evidence import Evidence, Measurement
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.metrics.comparison import compare, estimate
from airflow_mlops.metrics.costs import LARGEST, SMALLEST, Costs, costs_of, name_costs, parse_costs
from airflow_mlops.metrics.declarations import metric_name
from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.realised import Outcomes, losses, measure
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline
from airflow_mlops.metrics.values import measure as measure_all
from airflow_mlops.models.trainers.spec import SearchTrainerSpec
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.canary.spec import CanarySpec
from airflow_mlops.stages.canary.step import _metric as canary_metric
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.monitor.performance import _metric
from airflow_mlops.stages.train.spec import TrainSpec

DECLARED = {"metric": "expected_cost", "false_positive": 1, "false_negative": 20}
NAME = "expected_cost_fp1_fn20"
BINARY = ModelContract(
    task="binary", label="y", features=[], classes=[0, 1], positive=1, dataset_name="d", dataset_id="i"
)


def rows(size: int = 400, shift: float = 0.0, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    truth = np.random.default_rng(size).random(size) < 0.2
    score = 1 / (1 + np.exp(-(2.0 * truth - 1 + shift + random.normal(size=size))))
    return Rows("binary", truth, score >= 0.5, score)


def outcomes(truth: np.ndarray, predicted: np.ndarray) -> Outcomes:
    return Outcomes(truth, predicted.astype(float), truth == predicted, 0)


cost = st.one_of(st.integers(0, 10**6).map(float), st.floats(SMALLEST, LARGEST))


@given(st.lists(st.tuples(cost, cost).filter(any), min_size=2, max_size=2))
def test_a_name_stands_for_one_pair_of_costs_and_is_valid_in_mlflow(pairs):
    from mlflow.utils.validation import _validate_metric_name

    first, second = (Costs(*pair) for pair in pairs)
    assert costs_of(first.metric) == first
    assert (first.metric == second.metric) == (first == second)
    _validate_metric_name(first.metric)


def test_names_of_usual_costs():
    assert parse_costs({"false_positive": 1, "false_negative": "20.0"}).metric == NAME
    assert parse_costs({"false_positive": -0.0, "false_negative": 2.5}).metric == "expected_cost_fp0_fn2.5"
    # Other spellings of the costs are not recognised, because each metric has only one name.
    assert costs_of("expected_cost_fp1.0_fn20") is costs_of("expected_cost_fp0_fn0") is costs_of("f1") is None
    assert find_metric(NAME) == (NAME, ("binary",), False, True)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"false_positive": 1}, "must name both errors"),
        ({"false_positive": 1, "false_negative": -1}, "false_negative is -1, but a cost must be 0, or a number"),
        ({"false_positive": 1e-200, "false_negative": 1}, "false_positive is 1e-200"),
        ({"false_positive": math.inf, "false_negative": 1}, "false_positive is inf"),
        ({"false_positive": math.nan, "false_negative": 1}, "false_positive is (nan|NaN)"),
        ({"false_positive": "a lot", "false_negative": 1}, "false_positive is 'a lot'"),
        ({"false_positive": True, "false_negative": 1}, "false_positive is True"),
        ({"false_positive": 10**400, "false_negative": 1}, "but a cost must be"),
        ({"false_positive": 0, "false_negative": 0}, "are both 0"),
    ],
)
def test_invalid_costs_are_refused_in_one_sentence(declared, message):
    for read in (lambda item: parse_gates([item]), lambda item: parse(Policy, item, "The policy")):
        with pytest.raises(SpecError, match=message) as error:
            read({"metric": "expected_cost", **declared, "max": 1.0})
        assert str(error.value).count("\n") == 0


def test_the_metric_is_read_wherever_metrics_are_named():
    (gate,) = parse_gates([{**DECLARED, "max": 0.4}])
    assert (gate.name, gate.metric) == (f"{NAME} at most 0.4", NAME)
    # The stored form can be parsed again.
    assert parse_gates([{"metric": NAME, "max": 0.4}]) == [gate]
    policy = Policy.model_validate({**DECLARED, "max": 0.4})
    assert policy.metric == NAME
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    assert _metric(policy, BINARY) == NAME
    version = {"model": "m", "version": 1, "run_id": "r"}
    assert EvaluateSpec(candidates=[version], metric=DECLARED).metric == NAME
    canary = CanarySpec(model="m", version=1, metric=DECLARED)
    assert canary_metric(canary, BINARY, BINARY) == canary.metric == NAME
    regression = BINARY.model_copy(update={"task": "regression"})
    with pytest.raises(SpecError, match="cannot be compared by"):
        canary_metric(canary, regression, regression)
    trainer = {"kind": "sklearn", "estimator": "sklearn.linear_model:LogisticRegression"}
    space = {"C": {"kind": "float", "low": 0.1, "high": 1.0}}
    assert SearchTrainerSpec(trainer=trainer, space=space, trials=1, metric=DECLARED).metric == NAME
    train = TrainSpec(dataset={"name": "d", "id": "i", "rows": 1}, model="m", trainer=trainer, metrics=[DECLARED])
    assert train.metrics == [NAME]


@pytest.mark.parametrize(
    "wrong", ["expected_cost", "expected_costs", {**DECLARED, "max": 1}, {"metric": "f1"}, "expected_cost_fp1.0_fn20"]
)
def test_a_metric_without_valid_costs_is_refused(wrong):
    with pytest.raises(ValueError, match="expected_cost"):
        find_metric(metric_name(wrong))


def test_a_cost_is_for_binary_tasks_and_has_its_direction():
    (gate,) = parse_gates([{**DECLARED, "max": 0.4}])
    with pytest.raises(SpecError, match="is not a metric for regression tasks"):
        gate.suits("regression")
    with pytest.raises(SpecError, match="`greater_is_better` is set for the built-in metric"):
        parse_gates([{**DECLARED, "max": 0.4, "greater_is_better": False}])
    with pytest.raises(SpecError, match="set `max` instead"):
        parse(Policy, {**DECLARED, "min": 0.4}, "The policy")
    assert name_costs({"metric": "f1", "min": 0.4}) == {"metric": "f1", "min": 0.4}


def test_the_value_is_the_mean_cost_by_hand():
    # 10 rows: 3 false positives, 2 false negatives: (3 * 1 + 2 * 20) / 10.
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    predicted = np.array([1, 0, 0, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    found = Rows("binary", truth, predicted, predicted.astype(float))
    assert measure_all(found, [NAME])[NAME] == 4.3
    value, by_row = influence(NAME, found)
    assert value == 4.3
    # The influence of a row on a mean is its distance from the mean, over n.
    expected = (np.array([0, 20, 20, 1, 1, 1, 0, 0, 0, 0]) - 4.3) / 10
    np.testing.assert_allclose(by_row, expected, atol=1e-6)
    seen = outcomes(truth, predicted)
    assert measure(NAME, seen, 0.95).value == 4.3
    np.testing.assert_array_equal(losses(NAME, seen), [0, 20, 20, 1, 1, 1, 0, 0, 0, 0])
    # A sum of many decimal costs is rounded once, so a gate at the value passes.
    many = Rows("binary", np.arange(1000) < 500, np.arange(1000) >= 300, np.zeros(1000))
    assert measure_all(many, ["expected_cost_fp0.1_fn0.3"])["expected_cost_fp0.1_fn0.3"] == 0.14


def test_the_baseline_predicts_the_class_that_costs_less():
    truth = np.array([0] * 8 + [1] * 2)
    found = baseline("binary", truth, [0, 1], positive=1, own=[NAME, "expected_cost_fp1_fn2"])
    assert found[NAME] == 0.8
    assert found["expected_cost_fp1_fn2"] == 0.4
    assert found["recall"] == 0.0


def test_a_champion_is_compared_on_the_same_rows():
    candidate, champion = rows(seed=1, shift=0.8), rows(seed=2)
    resampling = Resampling(len(candidate))
    (found,) = compare(find_metric(NAME), candidate, champion, resampling)
    each = [20.0 * (item.truth & ~item.predicted) + (item.predicted & ~item.truth) for item in (candidate, champion)]
    difference = each[1] - each[0]
    assert found.improvement.value == pytest.approx(difference.mean())
    # The error of a paired difference, which is not that of two independent means.
    error = difference.std() / math.sqrt(len(difference))
    assert found.improvement.standard_error == pytest.approx(error, rel=0.1)
    assert estimate(NAME, candidate, resampling).standard_error == pytest.approx(each[0].std() / 20, rel=0.1)
    evidence = Evidence(
        task="binary",
        truth=candidate.truth,
        candidate=Measurement("m v2", measure_all(candidate, [NAME]), rows=candidate),
        baseline=Measurement("baseline", {}),
        champion=Measurement("m v1", measure_all(champion, [NAME]), rows=champion),
        resampling=resampling,
    )
    (better,) = parse_gates([{**DECLARED, "better_than_champion_by": 0.0}])
    result = better.check(evidence)
    assert result.passed
    assert result.improvement == pytest.approx(difference.mean())


@settings(max_examples=50)
@given(
    st.integers(1, 300),
    st.floats(0, 1),
    st.floats(0, 1),
    cost.filter(lambda each: each > 2 * SMALLEST),
    st.integers(0, 100),
)
def test_the_interval_lies_within_the_possible_costs(size, first, second, high, seed):
    random = np.random.default_rng(seed)
    truth = random.random(size) < first
    seen = outcomes(truth, truth ^ (random.random(size) < second))
    found = measure(Costs(high, high / 2).metric, seen, 0.95)
    assert 0 <= found.low <= found.value <= found.high <= high
    assert found.high > 0


def test_the_interval_covers_with_few_expensive_errors():
    """The interval of a mean, which is that of losses, covers in 77% of these samples."""
    random, size, covered = np.random.default_rng(0), 300, 0
    for _ in range(400):
        truth = random.random(size) < 0.1
        wrong = np.where(truth, random.random(size) < 0.05, random.random(size) < 0.03)
        found = measure(NAME, outcomes(truth, truth ^ wrong), 0.95)
        covered += found.low <= 0.9 * 0.03 + 0.1 * 0.05 * 20 <= found.high
    assert covered / 400 >= 0.94
