"""MASE and sMAPE: by hand, and the same in gates and in monitoring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.realised.labelled import Outcomes, UnmeasurableError
from airflow_mlops.metrics.realised.measurement import measure as realised
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline, measure

TRUTH, VALUE = np.array([10.0, 0.0, 4.0, 8.0]), np.array([8.0, 0.0, 7.0, 8.0])
COLUMNS = {"mase_scale": np.array([2.0, 0.0, 1.0, 4.0]), "seasonal_naive": np.array([9.0, 0.0, 4.0, 4.0])}
ROWS = Rows("regression", TRUTH, VALUE, VALUE, columns=COLUMNS)
# The second row has no scale.
MASE, SMAPE = (2 / 2 + 3 / 1 + 0) / 3, (2 / 9 + 0 + 3 / 5.5 + 0) / 4


def test_by_hand():
    found = measure(ROWS, ["mase", "smape"])
    assert (found["mase"], found["smape"]) == pytest.approx((MASE, SMAPE))
    weighted = measure(replace(ROWS, weight=np.array([1.0, 5.0, 3.0, 0.0])), ["mase", "smape"])
    assert weighted["mase"] == pytest.approx((1 + 9) / 4)
    assert weighted["smape"] == pytest.approx((2 / 9 + 3 * 3 / 5.5) / 9)
    assert "mase" not in measure(replace(ROWS, columns={**COLUMNS, "mase_scale": np.zeros(4)}), ["mase"])


def test_the_baseline_of_forecasts_is_the_seasonal_naive_forecast():
    found = baseline("regression", TRUTH, [], own=["mase", "smape"], columns=COLUMNS)
    assert found["mase"] == pytest.approx((1 / 2 + 0 + 4 / 4) / 3)
    assert found["mae"] == pytest.approx(5 / 4)
    assert baseline("regression", TRUTH, [])["mae"] == pytest.approx(np.abs(TRUTH - TRUTH.mean()).mean())


@pytest.mark.parametrize("metric", ["mase", "smape"])
@pytest.mark.parametrize("weighted", [False, True])
def test_monitoring_measures_the_same_value_with_the_error_of_the_gates(metric, weighted):
    random = np.random.default_rng(0)
    truth, scale = random.gamma(3, 2, 400), random.choice([0.0, 1.0, 3.0], 400)
    value = truth + random.normal(size=400)
    weight = random.uniform(0.5, 2, 400) if weighted else None
    columns = {"mase_scale": scale, "seasonal_naive": value}
    outcomes = Outcomes(truth, value, np.zeros(400, bool), columns=columns)
    outcomes = outcomes.weighted(weight) if weight is not None else outcomes
    found = realised(metric, outcomes, 0.95, "regression")
    expected, by_row = influence(metric, Rows("regression", truth, value, value, weight, columns=columns))
    error = np.sqrt(np.square(by_row).sum())
    assert found.value == pytest.approx(expected)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_without_a_scale_there_is_no_mase():
    outcomes = Outcomes(TRUTH, VALUE, np.zeros(4, bool))
    with pytest.raises(UnmeasurableError, match="mase_scale"):
        realised("mase", outcomes, 0.95, "regression")
    with pytest.raises(UnmeasurableError, match="0 in all rows"):
        realised("mase", replace(outcomes, columns={**COLUMNS, "mase_scale": np.zeros(4)}), 0.95, "regression")
