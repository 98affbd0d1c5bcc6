"""A custom metric: how it is declared, called and resampled, and which errors it gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from airflow_mlops.core.errors import MetricError, SpecError
from airflow_mlops.metrics import custom
from airflow_mlops.metrics.catalog import METRICS, find_metric
from airflow_mlops.metrics.comparison import compare, estimate
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError
from airflow_mlops.metrics.realised import measure as realised
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline, measure

from .test_formulas import rows

OWN = "tests.support.own_metrics"


@pytest.mark.parametrize(
    ("name", "direction", "fact"),
    [
        ("rocauc", None, "did you mean 'roc_auc'"),
        ("my module:cost", True, "'my module:cost'"),
        ("module:", True, "package.module:function"),
        (":cost", True, "package.module:function"),
        (f"{OWN}:cost", None, "greater_is_better"),
        ("roc_auc", False, "greater_is_better"),
    ],
)
def test_an_invalid_declaration_is_described_in_the_error(name, direction, fact):
    with pytest.raises(ValueError, match=fact):
        find_metric(name, direction)


def test_the_direction_is_the_declared_one():
    assert find_metric("roc_auc") is METRICS["roc_auc"]
    up, down = (find_metric(f"{OWN}:cost", direction) for direction in (True, False))
    assert (up.better(2, 1), down.better(2, 1)) == (True, False)
    assert (up.sign, down.sign) == (1, -1)


@pytest.mark.parametrize(
    ("path", "fact"),
    [
        ("tests.support.no_such_module:cost", "no_such_module"),
        (f"{OWN}:no_such_function", "no_such_function"),
        (f"{OWN}:NOT_A_FUNCTION", "not a function"),
        (f"{OWN}:of_one_argument", "y_true, y_pred"),
    ],
)
def test_a_path_that_names_no_metric_is_a_spec_error(path, fact):
    with pytest.raises(SpecError, match=fact) as raised:
        custom.load(path)
    assert path in str(raised.value)


@pytest.mark.parametrize(
    ("path", "fact"), [("broken", "KeyError"), ("undefined", "nan on 200 rows"), ("a_text", "str")]
)
def test_a_failing_function_is_a_final_error_that_names_it(path, fact):
    with pytest.raises(MetricError, match=fact) as raised:
        measure(rows("binary", 200, 1.0, 1), [f"{OWN}:{path}"])
    assert f"{OWN}:{path}" in str(raised.value)
    assert not raised.value.retryable


def test_functions_of_scikit_learn_can_be_named():
    found = rows("binary", 300, 1.0, 1)
    values = measure(found, ["sklearn.metrics:balanced_accuracy_score", "sklearn.metrics:roc_auc_score"])
    assert values["sklearn.metrics:balanced_accuracy_score"] == pytest.approx(
        metrics.balanced_accuracy_score(found.truth, found.predicted)
    )
    assert values["sklearn.metrics:roc_auc_score"] == pytest.approx(values["roc_auc"])
    several = rows("multiclass", 300, 1.0, 1)
    kappa = measure(several, ["sklearn.metrics:cohen_kappa_score"])["sklearn.metrics:cohen_kappa_score"]
    assert kappa == pytest.approx(metrics.cohen_kappa_score(several.truth, several.predicted))
    numbers = rows("regression", 300, 1.0, 1)
    pinball = measure(numbers, ["sklearn.metrics:mean_pinball_loss"])["sklearn.metrics:mean_pinball_loss"]
    assert pinball == pytest.approx(metrics.mean_pinball_loss(numbers.truth, numbers.score))


def test_the_name_of_the_second_parameter_decides_what_is_passed():
    found = rows("binary", 300, 1.0, 1)
    values = measure(found, [f"{OWN}:negative_brier", f"{OWN}:cost"])
    assert values[f"{OWN}:negative_brier"] == pytest.approx(-values["brier"])
    misses, alarms = (found.truth & ~found.predicted).mean(), (~found.truth & found.predicted).mean()
    assert values[f"{OWN}:cost"] == pytest.approx(5 * misses + alarms)
    several = rows("multiclass", 300, 1.0, 1)
    path = f"{OWN}:largest_probability"
    assert measure(several, [path])[path] == pytest.approx(several.score.max(axis=1).mean())
    # Without probabilities, the metric is left out, like the built-in metrics of probabilities.
    labels_only = Rows("binary", found.truth, found.predicted, None)
    assert f"{OWN}:negative_brier" not in measure(labels_only, [f"{OWN}:negative_brier"])


def test_the_baseline_leaves_out_a_metric_that_is_undefined_for_it():
    truth = np.arange(50) % 2
    own = [f"{OWN}:undefined", f"{OWN}:cost"]
    found = baseline("binary", truth, [0, 1], own=own)
    assert f"{OWN}:undefined" not in found
    assert found[f"{OWN}:cost"] in (0.5, 2.5)


def test_the_bootstrap_over_rows_agrees_with_the_closed_form():
    found = rows("binary", 2_000, 1.0, 1)
    own, built_in = estimate(f"{OWN}:negative_brier", found, Resampling(1)), estimate("brier", found, Resampling(2_000))
    assert own.value == pytest.approx(-built_in.value)
    assert own.standard_error == pytest.approx(built_in.standard_error, rel=0.1)
    again = estimate(f"{OWN}:negative_brier", found, Resampling(1))
    assert again.lower(0.95) == own.lower(0.95)


def test_a_comparison_is_paired_and_follows_the_direction():
    mine, theirs = rows("binary", 2_000, 1.0, 1), rows("binary", 2_000, 1.1, 2)
    index = np.arange(1_000)
    own = compare(find_metric(f"{OWN}:negative_brier", True), mine, theirs, Resampling(1), [None, index])
    built_in = compare(METRICS["brier"], mine, theirs, Resampling(2_000), [None, index])
    for one, other in zip(own, built_in, strict=True):
        assert one.rows == other.rows
        assert one.improvement.value == pytest.approx(other.improvement.value)
        assert one.improvement.standard_error == pytest.approx(other.improvement.standard_error, rel=0.15)
    (turned,) = compare(find_metric(f"{OWN}:negative_brier", False), mine, theirs, Resampling(1))
    assert turned.improvement.value == pytest.approx(-own[0].improvement.value)
    (one_class,) = compare(
        find_metric(f"{OWN}:cost", False), mine, theirs, Resampling(1), [np.flatnonzero(mine.truth)[:50]]
    )
    assert math.isinf(one_class.improvement.standard_error)


def test_realised_performance_has_the_interval_of_the_bootstrap():
    found = rows("binary", 2_000, 1.0, 1)
    outcomes = Outcomes(found.truth, found.score, found.truth == found.predicted)
    own, built_in = (realised(name, outcomes, 0.95) for name in (f"{OWN}:negative_brier", "brier"))
    assert own.value == pytest.approx(-built_in.value)
    assert own.high - own.low == pytest.approx(built_in.high - built_in.low, rel=0.15)
    cost = realised(f"{OWN}:cost", outcomes, 0.95)
    assert cost.value == pytest.approx(measure(found, [f"{OWN}:cost"])[f"{OWN}:cost"])
    numbers = rows("regression", 500, 1.0, 1)
    errors = Outcomes(numbers.truth, numbers.score, np.zeros(500, dtype=bool))
    assert realised(f"{OWN}:mean_absolute", errors, 0.95, "regression").value == pytest.approx(
        realised("mae", errors, 0.95).value
    )


def test_probabilities_of_all_classes_are_not_logged():
    codes = np.array([[0, 1, 2, 2], [0, 1, 1, 2]])
    right = codes[0] == codes[1]
    outcomes = Outcomes(right, np.full(4, 0.8), right, codes=codes)
    with pytest.raises(UnmeasurableError, match="largest_probability"):
        realised(f"{OWN}:largest_probability", outcomes, 0.95, "multiclass")
    path = "sklearn.metrics:cohen_kappa_score"
    many = Outcomes(np.tile(right, 50), np.full(200, 0.8), np.tile(right, 50), codes=np.tile(codes, 50))
    assert realised(path, many, 0.95, "multiclass").value == pytest.approx(metrics.cohen_kappa_score(*many.codes))


def test_the_source_of_a_metric_is_hashed():
    hashes = custom.source_hashes([f"{OWN}:cost", f"{OWN}:broken"])
    assert len(set(hashes.values())) == 1
    assert all(len(value) == 64 for value in hashes.values())
