"""Metrics agree with their definitions. If a metric cannot be measured, one sentence explains why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.metrics.catalog import MAIN_METRIC, METRICS
from airflow_mlops.metrics.rows import encode
from airflow_mlops.metrics.values import baseline, compute, reliability


def binary(truth, score, classes=(0, 1), positive=None):
    score = np.asarray(score, dtype=float)
    labels = np.asarray(classes, dtype=object)
    last = classes[-1] if positive is None else positive
    other = next(item for item in classes if item != last)
    prediction = np.where(score >= 0.5, last, other).astype(labels.dtype)
    return compute("binary", truth, prediction, score, None, list(classes), positive=positive)


def auc_by_pairs(truth: np.ndarray, score: np.ndarray) -> float:
    pos, neg = score[truth == 1], score[truth == 0]
    wins = (pos[:, None] > neg[None, :]).mean()
    return float(wins + (pos[:, None] == neg[None, :]).mean() / 2)


def test_every_metric_of_a_binary_task_by_hand():
    found = binary([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
    assert found == pytest.approx(
        {
            "roc_auc": 0.75,
            "average_precision": (1 + 2 / 3) / 2,
            "log_loss": -np.mean(np.log([0.9, 0.4, 0.4, 0.9])),
            "brier": np.mean([0.01, 0.36, 0.36, 0.01]),
            "ece": np.mean([0.1, 0.6, 0.6, 0.1]),
            "accuracy": 0.5,
            "balanced_accuracy": 0.5,
            "f1": 0.5,
            "precision": 0.5,
            "recall": 0.5,
        }
    )


def test_every_metric_of_a_regression_by_hand():
    found = compute("regression", [1.0, 2.0, 3.0, 4.0], [1, 2, 3, 8], [1, 2, 3, 8], None, [])
    assert found == pytest.approx({"rmse": 2.0, "mae": 1.0, "r2": 1 - 16 / 5})


def test_every_metric_of_a_multiclass_task_by_hand():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    found = compute("multiclass", ["a", "b", "c", "c"], ["a", "b", "a", "c"], [0] * 4, probabilities, ["a", "b", "c"])
    assert found == pytest.approx(
        {
            "accuracy": 0.75,
            "balanced_accuracy": np.mean([1, 1, 0.5]),
            "f1_macro": np.mean([2 / 3, 1, 2 / 3]),
            "log_loss": -np.mean(np.log([0.8, 0.7, 0.3, 0.8])),
            "roc_auc_ovr": 1.0,
        }
    )


@given(arrays(np.int64, st.integers(2, 60), elements=st.integers(0, 1)), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_auc_is_the_share_of_pairs_in_the_right_order(truth, random):
    if truth.min() == truth.max():
        truth[0] = 1 - truth[0]
    score = np.array([random.choice([0.1, 0.3, 0.5, 0.8]) for _ in truth])
    assert binary(truth, score)["roc_auc"] == pytest.approx(auc_by_pairs(truth, score))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_catalogue_names_what_is_computed(task):
    truth = np.array([0, 1, 2, 0, 1, 2]) % (2 if task == "binary" else 3)
    k = 2 if task == "binary" else 3
    found = compute(task, truth, truth, truth / k, np.eye(k)[truth], list(range(k)))
    assert set(found) == {name for name, metric in METRICS.items() if task in metric.tasks}
    assert MAIN_METRIC[task] in found


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_better_model_is_better_by_every_metric_in_its_direction(task):
    truth = np.arange(300) % (2 if task == "binary" else 3)
    k = 2 if task == "binary" else 3
    noise = np.random.default_rng(0).random((300, k))

    def measure(strength: float) -> dict[str, float]:
        probabilities = noise + strength * np.eye(k)[truth]
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        score = truth + noise[:, 0] / strength if task == "regression" else probabilities[:, -1]
        return compute(task, truth, probabilities.argmax(axis=1), score, probabilities, list(range(k)))

    weak, strong = measure(0.3), measure(3.0)
    for name in weak.keys() - {"ece"}:  # measures calibration, which stronger separation does not improve
        assert METRICS[name].better(strong[name], weak[name]), name


@pytest.mark.parametrize(
    ("classes", "truth", "positive"),
    [
        ([False, True], np.array([False, True, True, False]), None),
        ([0, 1], np.array([0.0, 1.0, 1.0, 0.0]), 1),
        (["late", "on time"], np.array(["on time", "late", "late", "on time"], dtype=object), "late"),
    ],
)
def test_labels_of_every_type_give_the_same_numbers(classes, truth, positive):
    found = binary(truth, [0.2, 0.9, 0.4, 0.6], classes, positive)
    assert found == binary([0, 1, 1, 0], [0.2, 0.9, 0.4, 0.6])


def test_the_baseline_predicts_the_prior():
    truth = np.array([1] * 30 + [0] * 70)
    found = baseline("binary", truth, [0, 1])
    assert found["roc_auc"] == 0.5
    assert found["accuracy"] == 0.7
    assert found["brier"] == pytest.approx(0.21)
    assert found["log_loss"] == pytest.approx(-(0.3 * np.log(0.3) + 0.7 * np.log(0.7)))
    values = np.array([1.0, 2.0, 3.0])
    assert baseline("regression", values, []) == pytest.approx({"rmse": values.std(), "mae": 2 / 3, "r2": 0.0})
    several = baseline("multiclass", ["a", "a", "b", "c"], ["a", "b", "c"])
    assert several["accuracy"] == 0.5
    assert several["roc_auc_ovr"] == 0.5


def test_a_class_that_did_not_occur_in_training_counts_as_errors():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    found = compute("multiclass", ["a", "b", "z"], ["a", "b", "a"], [0] * 3, probabilities, ["a", "b"])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] > 5


def test_perfectly_calibrated_scores_have_no_calibration_error():
    score = np.repeat([0.25, 0.75], 400)
    truth = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])
    assert binary(truth.astype(int), score)["ece"] == pytest.approx(0)
    predicted, observed, rows = reliability(truth, score)
    assert (predicted.tolist(), observed.tolist(), rows.tolist()) == ([0.25, 0.75], [0.25, 0.75], [400, 400])


@pytest.mark.parametrize(
    ("truth", "score", "message"),
    [
        ([], [], "no rows"),
        ([1, 1], [0.1, 0.2], "All 2 labels are 1"),
        ([0, 1], [0.1, float("nan")], "1 of 2 predicted probabilities are NaN or infinite"),
        ([0, 1], [0.1, float("inf")], "NaN or infinite"),
        ([0, 1], [-3.0, 2.0], "from -3 to 2"),
        ([0, None, 1], [0.1, 0.2, 0.3], "1 of 3 labels are null"),
        ([0.0, float("nan"), 1.0], [0.1, 0.2, 0.3], "1 of 3 labels are null"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "label 2.* 0 and 1"),
    ],
)
def test_invalid_data_is_described_in_the_error(truth, score, message):
    with pytest.raises(EvaluationError, match=message):
        binary(np.array(truth, dtype=object if None in truth else None), score)


@pytest.mark.parametrize(
    ("task", "classes", "prediction"),
    [("multiclass", [0, 1], np.array([0, np.nan])), ("binary", ["a", "b"], np.array(["a", None], object))],
)
def test_null_classes_are_counted_in_the_error(task, classes, prediction):
    with pytest.raises(EvaluationError, match="1 of 2 predictions are null"):
        compute(task, classes, prediction, None, None, classes)


def test_infinite_values_of_a_regression_are_counted_in_the_error():
    with pytest.raises(EvaluationError, match="1 of 2 labels are NaN or infinite"):
        compute("regression", [1.0, np.inf], [1, 1], [1, 1], None, [])
    with pytest.raises(EvaluationError, match="1 of 2 predictions are NaN or infinite"):
        compute("regression", [1.0, 2.0], [1, np.nan], [1, np.nan], None, [])


def test_an_unknown_label_has_code_minus_one():
    assert encode(np.array(["b", "x", "a"], dtype=object), ["a", "b"]).tolist() == [1, -1, 0]


def test_a_predicted_class_outside_the_data_is_an_error_of_the_model():
    truth = np.array(["a", "b", "b", "a"], dtype=object)
    predicted = np.array(["a", "b", "z", 3], dtype=object)
    found = compute("multiclass", truth, predicted, [0] * 4, None, ["a", "b"])
    # "z" and 3 are classes of their own with an F1 of 0.
    assert found == pytest.approx({"accuracy": 0.5, "balanced_accuracy": 0.5, "f1_macro": (2 / 3 + 2 / 3 + 0 + 0) / 4})
    with pytest.raises(EvaluationError, match="predicted the label 'z'"):
        compute("binary", truth, np.array(["a", "b", "z", "a"], dtype=object), [0.1, 0.9, 0.9, 0.1], None, ["a", "b"])


@pytest.mark.parametrize("classes", [[0, 1], [0.0, 1.0], [False, True]])
def test_labels_are_equal_as_in_python(classes):
    truth, score = np.array([0.0, 1.0, 1.0, 0.0]), [0.1, 0.9, 0.4, 0.2]
    predicted = np.array(classes)[[0, 1, 0, 0]]
    assert compute("binary", truth, predicted, score, None, classes)["accuracy"] == 0.75
