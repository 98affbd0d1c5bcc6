"""The decision threshold is chosen by its rule, for whole groups of equal scores, and is as good as every other one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.rules.threshold import NEVER, ThresholdRule, check_threshold
from airflow_mlops.models.threshold_choice import choose
from airflow_mlops.stages.train.spec import TrainSpec

COST = {"cost": {"false_positive": 1, "false_negative": 20}}
SCORE = np.array([0.9, 0.8, 0.8, 0.6, 0.6, 0.4, 0.2, 0.1])
TRUTH = np.array([1, 1, 0, 1, 0, 0, 1, 0], dtype=bool)


def chosen(rule, truth=TRUTH, score=SCORE):
    return choose(ThresholdRule.model_validate(rule), truth, score, "the newest rows")


@pytest.mark.parametrize(
    ("rule", "threshold", "precision", "recall"),
    [
        # Positive rows by score: 0.9: 1 of 1, 0.8: 2 of 3, 0.6: 3 of 5, 0.4: 3 of 6, 0.2: 4 of 7, 0.1: 4 of 8.
        # F1: 2/5, 4/7, 6/9, 6/10, 8/11, 8/12.
        ({"maximise": "f1"}, 0.15, 4 / 7, 1.0),
        # Right rows: 5, 5, 5, 4, 5, 4, and 4 if none is positive. If several thresholds are equally good, the smallest
        # is chosen.
        ({"maximise": "accuracy"}, 0.15, 4 / 7, 1.0),
        ({"maximise": "balanced_accuracy"}, 0.15, 4 / 7, 1.0),
        ({"precision": 0.6}, 0.5, 3 / 5, 3 / 4),
        ({"precision": 0.65}, 0.7, 2 / 3, 2 / 4),
        ({"precision": 1}, 0.85, 1.0, 1 / 4),
        # With a recall of at least 0.6, the precision is 3/5 at 0.6 and 4/7 at 0.2.
        ({"recall": 0.6}, 0.5, 3 / 5, 3 / 4),
        ({"recall": 1}, 0.15, 4 / 7, 1.0),
        # Costs: 60, 41, 22, 23, 3, 4, and 80 if none is positive.
        (COST, 0.15, 4 / 7, 1.0),
        # Costs: 0 + 3, 2 + 2, 4 + 1, 6 + 1, 6 + 0, 8 + 0 and 4.
        ({"cost": {"false_positive": 2, "false_negative": 1}}, 0.85, 1.0, 1 / 4),
        ({"cost": {"false_positive": 0, "false_negative": 1}}, 0.0, 4 / 8, 1.0),
        ({"cost": {"false_positive": 1, "false_negative": 0}}, 0.85, 1.0, 1 / 4),
    ],
)
def test_thresholds_by_hand(rule, threshold, precision, recall):
    value, choice = chosen(rule)
    if rule == {"cost": {"false_positive": 0, "false_negative": 1}}:
        # If false positives cost nothing, 0.2 and 0.1 are equally good, and the smaller one is chosen.
        assert value == threshold
    assert value == pytest.approx(threshold)
    assert (choice.point.precision, choice.point.recall) == pytest.approx((precision, recall))
    assert (choice.rows, choice.source, choice.point.threshold) == (8, "the newest rows", value)
    assert choice.rule == str(ThresholdRule.model_validate(rule))


def test_no_row_is_positive_if_that_costs_least():
    value, choice = chosen({"cost": {"false_positive": 50, "false_negative": 1}}, ~TRUTH)
    assert value == NEVER
    assert (choice.point.precision, choice.point.recall, choice.point.positives) == (None, 0.0, 0.0)


rules = st.one_of(
    st.sampled_from([{"maximise": name} for name in ("f1", "accuracy", "balanced_accuracy")]),
    st.floats(0.01, 1).map(lambda value: {"precision": value}),
    st.floats(0.01, 1).map(lambda value: {"recall": value}),
    st.tuples(st.integers(0, 30), st.integers(0, 30))
    .filter(any)
    .map(lambda pair: {"cost": dict(zip(("false_positive", "false_negative"), pair, strict=True))}),
)


def measured(truth, predicted):
    """The metrics of a rule. scikit-learn's functions need 2 ms each, which is too long for all thresholds."""
    hits, false_positives = int((predicted & truth).sum()), int((predicted & ~truth).sum())
    misses, passed = int((truth & ~predicted).sum()), int((~truth & ~predicted).sum())
    return {
        "precision": hits / (hits + false_positives) if hits else 0.0,
        "recall": hits / (hits + misses),
        "f1": 2 * hits / (2 * hits + false_positives + misses),
        "accuracy": (hits + passed) / truth.size,
        "balanced_accuracy": (hits / (hits + misses) + passed / (passed + false_positives)) / 2,
    }


def by_scikit_learn(truth, predicted):
    """The same metrics."""
    return {
        "precision": metrics.precision_score(truth, predicted, zero_division=0),
        "recall": metrics.recall_score(truth, predicted),
        "f1": metrics.f1_score(truth, predicted),
        "accuracy": metrics.accuracy_score(truth, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, predicted),
    }


def value_of(rule, truth, predicted):
    """What the rule maximises; minus infinity if its condition is not met."""
    found = measured(truth, predicted)
    if "precision" in rule:
        return found["recall"] if predicted.any() and found["precision"] >= rule["precision"] else -np.inf
    if "recall" in rule:
        return found["precision"] if found["recall"] >= rule["recall"] else -np.inf
    if "cost" in rule:
        costs = rule["cost"]
        return -(
            costs["false_positive"] * (predicted & ~truth).sum() + costs["false_negative"] * (truth & ~predicted).sum()
        )
    return found[rule["maximise"]]


@settings(max_examples=300, deadline=None)
@given(rules, st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=40), st.booleans())
def test_no_other_threshold_is_better_on_the_same_rows(rule, rows, neighbours):
    truth = np.array([positive for positive, _ in rows])
    assume(truth.any() and not truth.all())
    score = np.array([place for _, place in rows]) / 12
    if neighbours:
        # No other number lies between these scores.
        score = 0.5 + np.array([place for _, place in rows]) * np.spacing(0.5)
    values = {at: value_of(rule, truth, score >= at) for at in [*np.unique(score), 0.0, NEVER]}
    if max(values.values()) == -np.inf:
        with pytest.raises(TrainingError, match=f"No threshold has a precision .*on the {len(rows)} rows"):
            chosen(rule, truth, score)
        return
    threshold, choice = chosen(rule, truth, score)
    predicted = score >= threshold
    assert measured(truth, predicted) == pytest.approx(by_scikit_learn(truth, predicted))
    best = max(values.values())
    assert value_of(rule, truth, predicted) == pytest.approx(best)
    # The smallest of the best predicts the most rows to be positive.
    most = max(int((score >= at).sum()) for at, value in values.items() if value == pytest.approx(best))
    assert int(predicted.sum()) == most
    assert choice.point.positives == pytest.approx(predicted.mean())
    assert len({at.threshold for at in choice.curve}) == len(choice.curve) <= 101


def test_a_precision_that_no_threshold_has_is_refused():
    with pytest.raises(TrainingError, match=r"precision of at least 0\.9 on the 8 rows .*: the greatest is 0\.6"):
        chosen({"precision": 0.9}, TRUTH, np.where(SCORE == 0.9, 0.8, SCORE))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"maximize": "f1"}, "unknown key 'maximize': choose one of .*did you mean 'maximise'"),
        ({"maximise": "roc_auc"}, "maximise"),
        ({"maximise": "f1", "recall": 0.9}, "2 rules are set"),
        ({}, "0 rules are set"),
        ({"precision": 0}, "precision"),
        ({"cost": {"false_positive": 1}}, "must name both errors"),
        (1.5, "the threshold is 1.5, but must be a number from 0 to 1"),
        (float("nan"), "threshold is NaN. Use a finite number"),
        (True, "must be a number from 0 to 1"),
        ("f1", "'f1' is not a threshold"),
        ([0.5], "is not a threshold"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(declared, message):
    with pytest.raises(SpecError, match=f"^The threshold of task 'train' .*{message}"):
        check_threshold(declared, "The threshold of task 'train'")


@pytest.mark.parametrize("declared", [None, 0.3, "0.3", 0, {"precision": 0.9}, {"maximise": "f1"}, COST])
def test_a_rule_is_stored_and_read_again(declared):
    trainer = {"kind": "sklearn", "estimator": "sklearn.linear_model:LogisticRegression"}
    fields = {"dataset": {"name": "d", "id": "i", "rows": 1}, "model": "m", "trainer": trainer, "threshold": declared}
    spec = parse(TrainSpec, fields, "Task 'train'")
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec
    assert (spec.threshold is None) == (declared is None)


@settings(deadline=None)
@given(st.data(), st.sampled_from([{"maximise": "f1"}, {"maximise": "balanced_accuracy"}, {"recall": 0.5}, COST]))
def test_a_weight_counts_like_that_many_rows(data, rule):
    size = data.draw(st.integers(2, 12))
    whole = st.lists(st.integers(0, 5), min_size=size, max_size=size)
    score, truth = np.array(data.draw(whole)) / 5, np.array(data.draw(whole)) % 2 == 0
    assume(truth.any() and not truth.all())
    weight = np.array(data.draw(whole)) + 1
    given_rule = ThresholdRule.model_validate(rule)
    value, choice = choose(given_rule, truth, score, "rows", weight.astype(float))
    again, repeated = choose(given_rule, np.repeat(truth, weight), np.repeat(score, weight), "rows")
    assert (value, choice.point, choice.curve) == (again, repeated.point, repeated.curve)


@pytest.mark.parametrize("rule", [{"recall": 0.9}, {"precision": 0.7}, {"maximise": "f1"}])
def test_equal_weights_change_nothing_however_small_they_are(rule):
    random = np.random.default_rng(0)
    truth = random.random(2000) < 0.4
    score = np.clip(truth * 0.3 + random.random(2000) * 0.7, 0, 1)
    given_rule = ThresholdRule.model_validate(rule)
    value, choice = choose(given_rule, truth, score, "rows")
    again, weighted = choose(given_rule, truth, score, "rows", np.full(2000, 1 / 2000))
    assert again == value
    assert weighted.point.precision == pytest.approx(choice.point.precision)
