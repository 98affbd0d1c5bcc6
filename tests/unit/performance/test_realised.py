"""Realised performance: its value, the coverage of its interval, and the errors if it cannot be measured."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.metrics.ordered_ranks import Ordered, ordered_precision
from airflow_mlops.metrics.ranks import area
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, losses, measure, outcomes


def contract(task: str = "binary", classes: list | None = None, positive=True) -> ModelContract:
    known = {"binary": [False, True], "multiclass": ["a", "b", "c"], "regression": []}[task]
    return ModelContract(
        task=task, label="late", features=[FeatureColumn(name="x", kind="number")],
        classes=known if classes is None else classes, positive=positive if task == "binary" else None,
        dataset_name="d", dataset_id="0",
    )  # fmt: skip


def batch(label, prediction, score) -> list[pa.RecordBatch]:
    return pa.table({"label": label, "prediction": prediction, "score": score}).to_batches(max_chunksize=3)


def found(truth, score, right=None) -> Outcomes:
    truth = np.asarray(truth)
    return Outcomes(truth, np.asarray(score, float), truth if right is None else np.asarray(right))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=4, max_size=60))
@settings(deadline=None)
def test_delong_gives_the_area_and_its_variance_by_definition(rows):
    truth, score = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    above, below = score[truth], score[~truth]
    if min(len(above), len(below)) < 2:
        with pytest.raises(UnmeasurableError):
            measure("roc_auc", found(truth, score), 0.95)
        return
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    variance = wins.mean(axis=1).var(ddof=1) / len(above) + wins.mean(axis=0).var(ddof=1) / len(below)
    single = area(truth, score)
    assert (single.value, single.standard_error**2) == pytest.approx((wins.mean(), variance))


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "log_loss", "brier", "rmse", "mae"])
def test_the_interval_has_its_coverage(metric):
    random = np.random.default_rng(3)

    def draw(rows: int) -> Outcomes:
        p = random.beta(2, 4, rows)
        truth = random.random(rows) < p
        if metric in ("rmse", "mae"):
            return found(p + random.normal(0, 0.1, rows), p, np.zeros(rows, bool))
        return found(truth, p, (p > 0.4) == truth)

    true = measure(metric, draw(1_000_000), 0.95).value
    held = sum(one.low <= true <= one.high for one in (measure(metric, draw(400), 0.9) for _ in range(500)))
    # 450 expected, with a standard deviation of 6.7.
    assert 420 <= held <= 480


@given(st.integers(1, 400), st.floats(0, 1))
@settings(deadline=None)
def test_accuracy_has_wilsons_interval(rows, share):
    from scipy.stats import binomtest

    right = np.arange(rows) < round(rows * share)
    one = measure("accuracy", found(right, np.zeros(rows), right), 0.95)
    expected = binomtest(int(right.sum()), rows).proportion_ci(0.95, method="wilson")
    assert (one.low, one.high) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))


def test_metrics_equal_those_of_scikit_learn():
    from sklearn import metrics

    random = np.random.default_rng(0)
    p = random.random(500)
    truth = random.random(500) < p
    one = found(truth, p, (p > 0.5) == truth)
    assert measure("roc_auc", one, 0.95).value == pytest.approx(metrics.roc_auc_score(truth, p))
    assert measure("log_loss", one, 0.95).value == pytest.approx(metrics.log_loss(truth, p))
    assert measure("brier", one, 0.95).value == pytest.approx(metrics.brier_score_loss(truth, p))
    numbers = found(random.normal(size=500), p, np.zeros(500, bool))
    squared = metrics.mean_squared_error(numbers.truth, p)
    assert measure("rmse", numbers, 0.95).value == pytest.approx(math.sqrt(squared))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60), st.integers(1, 8))
@settings(deadline=None)
def test_metrics_of_a_rare_class_are_those_of_scikit_learn(rows, threshold):
    from sklearn import metrics

    truth, score = np.array([row[0] for row in rows]), np.array([row[1] / 8 for row in rows])
    predicted = score >= threshold / 8
    one = found(truth, score, predicted == truth)
    expected = {
        "average_precision": lambda: metrics.average_precision_score(truth, score),
        "balanced_accuracy": lambda: metrics.balanced_accuracy_score(truth, predicted),
        "f1": lambda: metrics.f1_score(truth, predicted),
        "precision": lambda: metrics.precision_score(truth, predicted),
        "recall": lambda: metrics.recall_score(truth, predicted),
    }
    for metric, value in expected.items():
        undefined = not predicted.any() if metric == "precision" else truth.all() or not truth.any()
        if undefined:
            with pytest.raises(UnmeasurableError):
                measure(metric, one, 0.95)
            continue
        interval = measure(metric, one, 0.95)
        assert interval.value == pytest.approx(value(), abs=1e-9)
        assert 0 <= interval.low <= interval.value + 1e-9
        assert interval.value - 1e-9 <= interval.high <= 1
        # The mean loss of the rows is 1 minus the metric, so the losses of segments can be added up.
        assert losses(metric, one).mean() == pytest.approx(1 - interval.value, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=60))
@settings(deadline=None)
def test_metrics_of_several_classes_are_those_of_scikit_learn(rows):
    from sklearn import metrics

    codes = np.array(rows).T
    right = codes[0] == codes[1]
    one = Outcomes(right, np.zeros(len(rows)), right, codes=codes)
    recalls = [right[codes[0] == code].mean() for code in np.unique(codes[0])]
    expected = {
        "balanced_accuracy": np.mean(recalls),
        "f1_macro": metrics.f1_score(*codes, average="macro", zero_division=0),
    }
    for metric, value in expected.items():
        interval = measure(metric, one, 0.95, "multiclass")
        assert interval.value == pytest.approx(value)
        assert 0 <= interval.low <= interval.value + 1e-9
        assert interval.value - 1e-9 <= interval.high <= 1
        assert losses(metric, one).mean() == pytest.approx(1 - interval.value, abs=1e-6)


@pytest.mark.parametrize("metric", ["average_precision", "balanced_accuracy", "f1", "precision", "recall"])
@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_the_interval_covers_for_a_rare_class(metric, rate):
    random = np.random.default_rng(3)

    def draw(rows: int) -> Outcomes:
        truth = random.random(rows) < rate
        score = random.normal(size=rows) + 2 * truth
        return found(truth, score, (score > 1.5) == truth)

    true = measure(metric, draw(1_000_000), 0.95).value
    held = sum(one.low <= true <= one.high for one in (measure(metric, draw(500), 0.95) for _ in range(300)))
    # 285 expected, with a standard deviation of 3.8.
    assert held >= 0.93 * 300


def test_average_precision_of_others_has_less_bias():
    random, rows, biased, corrected = np.random.default_rng(5), 400, [], []
    for _ in range(400):
        truth = np.arange(rows) < 8
        score = random.normal(size=rows) + truth
        biased.append(measure("average_precision", found(truth, score), 0.95).value)
        order = np.argsort(-score)
        ordered = [Ordered(truth[order], score[order])]
        corrected.append(ordered_precision(partial(iter, ordered)).of_others)
    truth = np.arange(400_000) < 8_000
    true = measure("average_precision", found(truth, random.normal(size=400_000) + truth), 0.95).value
    assert np.mean(biased) - true > 0.03
    assert abs(np.mean(corrected) - true) < 0.5 * (np.mean(biased) - true)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1_macro"])
def test_the_interval_covers_for_several_classes(metric):
    random = np.random.default_rng(4)

    def draw(rows: int) -> Outcomes:
        codes = random.choice(3, rows, p=[0.8, 0.15, 0.05])
        predicted = np.where(random.random(rows) < 0.75, codes, random.choice(3, rows))
        return Outcomes(codes == predicted, np.zeros(rows), codes == predicted, codes=np.stack([codes, predicted]))

    true = measure(metric, draw(1_000_000), 0.95, "multiclass").value
    drawn = (measure(metric, draw(400), 0.95, "multiclass") for _ in range(300))
    assert sum(one.low <= true <= one.high for one in drawn) >= 0.93 * 300


def test_only_labelled_rows_count_and_nan_is_not_a_label():
    rows = batch([True, None, False, True, None], [True] * 5, [0.9, 0.8, 0.1, 0.7, 0.2])
    one = outcomes(rows, contract())
    assert one.truth.tolist() == [True, False, True]
    assert one.score.tolist() == [0.9, 0.1, 0.7]
    assert one.right.tolist() == [True, False, True]
    floats = outcomes(batch([1.0, float("nan"), 0.0], [1, 1, 0], [0.9, 0.8, 0.1]), contract(classes=[0, 1], positive=1))
    assert floats.truth.tolist() == [True, False]


def test_labels_of_another_type_are_converted():
    one = outcomes(batch([1, 0], [True, False], [0.9, 0.1]), contract())
    assert one.truth.tolist() == [True, False]
    assert one.right.all()


def test_the_accuracy_of_several_classes():
    one = outcomes(batch(["a", "b", "c"], ["a", "c", "c"], [0.5, 0.5, 0.5]), contract("multiclass"))
    assert one.right.tolist() == [True, False, True]
    assert measure("accuracy", one, 0.95).value == pytest.approx(2 / 3)


def test_rows_of_a_new_class_are_errors():
    rows = batch(["a", "b", "new", "new", "other"], ["a", "c", "a", "b", "z"], [0.5] * 5)
    one = outcomes(rows, contract("multiclass"))
    assert one.right.tolist() == [True, False, False, False, False]
    assert (one.unknown, one.example) == (3, "new")
    assert measure("accuracy", one, 0.95).value == pytest.approx(0.2)
    # For custom metrics, an unknown label and an unknown prediction are different classes.
    assert one.prepared("multiclass").truth.tolist() == [0, 1, 3, 3, 3]
    assert one.prepared("multiclass").predicted.tolist() == [0, 2, 0, 1, 4]


def test_values_that_are_not_finite_are_left_out_and_counted():
    one = outcomes(batch([1.0, float("inf"), 3.0], [0.0] * 3, [1.0, 2.0, float("nan")]), contract("regression"))
    assert (one.truth.tolist(), one.skipped) == ([1.0], 2)


@pytest.mark.parametrize(
    ("label", "model", "said"),
    [
        ([True, True, True], contract(), "all 3 labels are of the positive class"),
        ([False] * 3, contract(), "all 3 labels are of the negative class"),
        ([True, False, False], contract(), "only one label is of the positive class"),
        (pa.nulls(3, pa.bool_()), contract(), "there are no labels"),
        (["yes", "no", "no"], contract(), "label 'yes' .* False, True"),
        ([1, 2, 3], contract("multiclass"), "label 1 is not one of .* 'a', 'b', 'c'"),
        (["a", "b", "c"], contract("regression"), "labels have the type string"),
    ],
)
def test_the_error_says_why_nothing_can_be_measured(label, model, said):
    prediction = [True] * 3 if model.task == "binary" else [1.0] * 3
    metric = {"regression": "rmse", "multiclass": "accuracy"}.get(model.task, "roc_auc")
    with pytest.raises(UnmeasurableError, match=said):
        measure(metric, outcomes(batch(label, prediction, [0.9, 0.2, 0.1]), model), 0.95)


def test_no_rows_and_huge_errors_cannot_be_measured():
    with pytest.raises(UnmeasurableError, match="there are no labels"):
        measure("roc_auc", outcomes([], contract()), 0.95)
    with pytest.raises(UnmeasurableError, match="too large"):
        measure("rmse", found(np.array([1e300, -1e300]), [0, 0], [False, False]), 0.95)
