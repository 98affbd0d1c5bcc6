"""The margin of prediction intervals is the finite-sample quantile of absolute residuals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.contract import PredictionInterval
from airflow_mlops.core.errors import SpecError
from airflow_mlops.metrics.interval_ends import covers
from airflow_mlops.models.conformal import margin
from airflow_mlops.models.rules.interval import IntervalRule, check_interval, fewest_rows, rank

ROWS, COVERAGE = 1_000, 0.9
FLOATS = st.floats(-1e300, 1e300)


@pytest.mark.parametrize(
    ("coverage", "rows", "expected"),
    [
        # Ranks ceil(10 * 0.9) = 9, ceil(11 * 0.9) = 10, ceil(10 * 0.5) = 5, ceil(12 * 0.5) = 6, ceil(20 * 0.95) = 19.
        (0.9, 9, 9), (0.9, 10, 10), (0.5, 9, 5), (0.5, 11, 6), (0.95, 19, 19), (0.05, 9, 1),
        # In floating point, 100 * 0.55 is above 55, and 100 * 0.29 is below 29.
        (0.55, 99, 55), (0.29, 99, 29), (0.9, 99, 90),
    ],
)  # fmt: skip
def test_margins_by_hand(coverage, rows, expected):
    """The residuals are 1, 2, ... in another order, half of them below the prediction."""
    size = np.random.default_rng(0).permutation(rows) + 1.0
    assert margin(10 + size * np.resize([1, -1], rows), np.full(rows, 10.0), coverage) == expected
    assert rank(rows, coverage) == expected


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_the_fewest_rows_are_the_fewest_that_have_the_quantile(coverage):
    fewest = fewest_rows(coverage)
    assert rank(fewest, coverage) <= fewest
    assert fewest == 1 or rank(fewest - 1, coverage) > fewest - 1


def test_mean_coverage_is_nominal_at_1000_rows():
    """The predictions are too low on average, with skewed errors. The guarantee holds for any model and distribution."""
    random, found = np.random.default_rng(1), []
    for _ in range(400):
        truth, new = random.gamma(2, 3, (2, ROWS))
        interval = PredictionInterval(coverage=COVERAGE, margin=margin(truth, np.full(ROWS, 4.0), COVERAGE))
        found.append(covers(interval, new, np.full(ROWS, 4.0)).mean())
    # The standard error of the mean is 0.0007. A mean coverage within 1% of nominal is required.
    assert np.mean(found) == pytest.approx(COVERAGE, abs=0.003)
    assert np.std(found) == pytest.approx(math.sqrt(2 * COVERAGE * (1 - COVERAGE) / ROWS), rel=0.15)


@pytest.mark.parametrize("rows", [9, 29])
def test_coverage_of_few_rows_is_at_least_nominal(rows):
    """The plain quantile of 9 residuals would cover 82%."""
    random = np.random.default_rng(2)
    truth, new = random.normal(size=(4_000, rows)), random.normal(size=4_000)
    margins = np.array([margin(labels, np.zeros(rows), 0.9) for labels in truth])
    assert (np.abs(new) <= margins).mean() == pytest.approx(0.9, abs=0.015)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=9, max_size=30), st.sampled_from([0.1, 0.5, 0.9]), FLOATS)
def test_an_interval_contains_its_prediction_and_enough_of_the_rows_it_was_found_on(rows, coverage, value):
    truth, predicted = np.array(rows).T
    found = PredictionInterval(coverage=coverage, margin=margin(truth, predicted, coverage))
    assert found.margin >= 0
    assert covers(found, np.array([value]), np.array([value])).all()
    # The ends are rounded, but the interval still contains every row up to the rank.
    assert covers(found, truth, predicted).sum() >= rank(len(rows), coverage)
    assert PredictionInterval.model_validate_json(found.model_dump_json()) == found


def test_equal_residuals_of_whole_labels_are_inside():
    """The prediction is constant, and 60 of 100 residuals are 2.3 - 0.1 or a rounding of it."""
    truth = np.repeat([2.3 - 2.2, 2.3 + 2.2, 0.0, 9.0], [30, 30, 30, 10])
    value = np.full(100, 2.3)
    assert covers(PredictionInterval(coverage=0.5, margin=margin(truth, value, 0.5)), truth, value)[:60].all()


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (0, "the coverage is 0, but must be above 0 and below 1"),
        (1, "the coverage is 1, but must be above 0 and below 1"),
        (90, "the coverage is 90, but must be above 0 and below 1"),
        ("nan", "the coverage is nan"),
        (True, "the coverage is nan"),
        ("most", "'most' is not a coverage"),
        ({"coverage": 1.5}, "the coverage is 1.5"),
        ({}, "coverage"),
        ({"covrage": 0.9}, "unknown key 'covrage': choose one of coverage .did you mean 'coverage'"),
        # `margin` is set only for a refit, which has no residuals yet.
        ({"coverage": 0.9, "margin": 3}, "unknown key 'margin'"),
    ],
)
def test_an_invalid_coverage_is_refused(declared, message):
    with pytest.raises(SpecError, match=f"The interval of task 't'.*{message}"):
        check_interval(declared, "The interval of task 't'", threshold=None, calibration=None, class_weight=None)


def test_every_way_to_write_a_coverage_is_one_rule():
    from airflow_mlops.models.rules.interval import _Declared

    for declared in (0.9, "0.9", {"coverage": 0.9}, {"coverage": "0.9"}):
        assert _Declared(interval=declared).interval == IntervalRule(coverage=0.9)
