"""Change points: real changes are found where they are, and false ones at the stated rate."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.drift.findings import Drift
from airflow_mlops.performance.change_points import change_points
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.monitor.changes import find_changes

RATE = 0.05


def series(levels: list[float], error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    errors = np.full(len(levels), error)
    return np.asarray(levels) + np.random.default_rng(seed).normal(size=len(levels)) * errors, errors


@pytest.mark.parametrize("windows", [4, 12])
def test_false_alarms_occur_at_the_stated_rate(windows):
    """At the stated rate, over 600 series whose standard errors differ by a factor of up to a hundred."""
    random = np.random.default_rng(windows)
    alarms = 0
    for _ in range(600):
        errors = 10 ** random.uniform(-3, -1, windows)
        alarms += bool(change_points(0.7 + random.normal(size=windows) * errors, errors, RATE))
    assert alarms / 600 <= RATE + 2.5 * np.sqrt(RATE * (1 - RATE) / 600)
    # The test is not too conservative.
    assert alarms / 600 >= RATE / 4


@pytest.mark.parametrize("seed", range(20))
def test_a_change_is_found_where_it_is(seed):
    (found,) = change_points(*series([0.71] * 5 + [0.67] * 4, 0.005, seed), RATE / 5)
    assert found.at == 5
    assert (found.before, found.after) == pytest.approx((0.71, 0.67), abs=0.01)
    assert found.p_value <= RATE / 5


def test_several_changes_share_the_level_between_them():
    found = change_points(*series([0.7] * 6 + [0.6] * 5 + [0.68] * 6, 0.005), RATE / 10)
    assert [split.at for split in found] == [6, 11]
    assert found[0].after == found[1].before == pytest.approx(0.6, abs=0.01)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to 20 windows whose level may change once."""
    random = np.random.default_rng(seed)
    windows = int(random.integers(1, 20))
    errors = 10 ** random.uniform(-3, -1.5, windows)
    values = random.normal(size=windows) * errors
    values[int(random.integers(0, windows)) :] += random.choice([0, 0.05])
    return values, errors


@given(st.integers(0, 2**32 - 1), st.floats(-1_000, 1_000))
@settings(max_examples=100)
def test_a_constant_offset_changes_only_the_levels(seed, shift):
    values, errors = drawn(seed)
    there, here = change_points(values + shift, errors, RATE), change_points(values, errors, RATE)
    assert [split.at for split in there] == [split.at for split in here]
    assert [split.p_value for split in there] == pytest.approx([split.p_value for split in here], abs=1e-3)
    assert [split.after - shift for split in there] == pytest.approx([split.after for split in here], abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
@settings(max_examples=100)
def test_the_unit_of_measurement_does_not_matter(seed, unit):
    values, errors = drawn(seed)
    assert [split.at for split in change_points(values * unit, errors * unit, RATE)] == [
        split.at for split in change_points(values, errors, RATE)
    ]


def test_a_single_window_is_not_a_level_and_a_small_change_does_not_count():
    for outlier in range(9):
        values = [0.7] * 9
        values[outlier] = 0.5
        assert not change_points(*series(values, 0.005), RATE / 10)
    (found,) = change_points(*series([0.7, 0.7, 0.5, 0.7, 0.7, 0.6, 0.6, 0.9, 0.6], 0.005), RATE / 10)
    assert (found.at, found.before, found.after) == pytest.approx((5, 0.7, 0.6), abs=0.01)
    assert not change_points([0.7, 0.5], [0.005, 0.005], RATE)
    assert not change_points([], [], RATE)
    assert not change_points([0.7] * 4 + [0.5] * 4, [0.0] * 8, RATE)
    values = series([0.7] * 8 + [0.68] * 8, 0.001)
    assert change_points(*values, RATE, min_change=0.015)
    assert not change_points(*values, RATE, min_change=0.025)


def test_windows_with_a_large_standard_error_have_little_weight():
    errors = [0.005] * 4 + [0.2] * 2 + [0.005] * 4
    assert not change_points([0.7] * 4 + [0.4] * 2 + [0.7] * 4, errors, RATE)
    (found,) = change_points([0.7] * 4 + [0.9] * 2 + [0.6] * 4, errors, RATE)
    assert found.after == pytest.approx(0.6, abs=0.001)


def month(number: int, value: float | None, version: int = 1, temp: float = 0.0, metric: str = "roc_auc", **fields):
    measured = value is not None and Performance(
        metric=metric, value=value, low=value - 0.01, high=value + 0.01, reference=0.7, labels=5_000
    )
    known = {
        "model": "delays", "window": f"2013-{number:02}", "created": datetime(2014, 1, 1, tzinfo=timezone.utc),
        "policy": Policy(), "scored_by": ModelVersionRef(model="delays", version=version, run_id="r"), "rows": 10_000,
        "performance": measured or None,
        "features": [
            Drift(column="temp", kind="numeric", effect=temp + 0.01, drifted=temp > 0.02, importance=0.6),
            Drift(column="wind", kind="numeric", effect=temp + 0.01, drifted=temp > 0.02, importance=0.04),
        ],
    }  # fmt: skip
    return Findings(**{**known, **fields})


def test_the_summer_is_found_in_performance_and_in_important_features():
    history = [month(number, 0.71 if number < 6 else 0.68, temp=0.0 if number < 5 else 0.4) for number in range(1, 9)]
    performance, drift = find_changes(history, RATE)
    assert (performance.kind, performance.of, performance.window.label) == ("performance", "roc_auc", "2013-06")
    assert str(performance) == "since 2013-06, ROC AUC has been 0.680 (0.710 before)"
    assert (drift.kind, drift.of, drift.window.label) == ("drift", "temp", "2013-05")
    assert str(drift) == "since 2013-05, the effect of the drift of temp has been 0.410 (0.010 before)"


def test_the_level_of_a_feature_without_drift_is_at_most_the_smallest_effect():
    def of(number: int, effect: float, drifted: bool, rows: int) -> Findings:
        drift = Drift(column="temp", kind="numeric", effect=effect, drifted=drifted, importance=1.0)
        return month(number, None, features=[drift], rows=rows)

    # With 100 rows, an unchanged feature can have such a large effect by chance.
    few = [of(number, 0.1, False, 100) for number in (1, 2, 3, 4)]
    assert not find_changes([*few, *(of(number, 0.01, False, 1_000_000) for number in (5, 6, 7, 8))], RATE)
    # A drift that varies around the smallest effect has not changed.
    assert not find_changes(
        [of(number, 0.017 + 0.006 * (number > 4), number > 4, 10**6) for number in range(1, 9)], RATE
    )
    assert find_changes([of(number, 0.017 + 0.06 * (number > 4), number > 4, 10**6) for number in range(1, 9)], RATE)


def test_a_new_version_starts_a_new_series():
    history = [month(number, 0.71 if number < 6 else 0.65, version=1 if number < 6 else 2) for number in range(1, 11)]
    assert not find_changes(history, RATE)
    assert find_changes([*history[:5], *(month(number, 0.65) for number in range(6, 11))], RATE)
    # A version that returns continues its own series.
    back = [month(1, 0.71), month(2, 0.71), month(3, 0.5, 2), month(4, 0.5, 2), month(5, 0.65), month(6, 0.65)]
    assert [change.window.label for change in find_changes(back, RATE)] == ["2013-05"]


def test_unjudged_windows_and_other_metrics_are_left_out_of_the_series():
    low = [month(number, 0.6, unmeasured="there are 12 labels") for number in (3, 4, 5)]
    assert not find_changes([month(1, 0.71), month(2, 0.71), *low, month(6, 0.71), month(7, 0.71)], RATE)
    other = [month(number, 0.6, metric="accuracy") for number in (1, 2, 3)]
    assert not find_changes([*other, *(month(number, 0.71) for number in (4, 5, 6))], RATE)
    assert not find_changes([month(1, None)], RATE)
    assert not find_changes([month(1, None, scored_by=None)], RATE)


def test_all_series_share_the_rate():
    values = [0.71, 0.71, 0.71, 0.71, 0.685, 0.69, 0.685, 0.685]
    history = [month(number, value, features=[]) for number, value in enumerate(values, 1)]
    (alone,) = find_changes(history, RATE)
    among = [month(number, value) for number, value in enumerate(values, 1)]
    assert [change.p_value for change in find_changes(among, RATE)] == [alone.p_value]
    # With a second series a change must be significant at half the rate.
    assert find_changes(history, alone.p_value)
    assert not find_changes(among, alone.p_value * 1.5)


def test_a_loss_changes_by_a_share_of_the_reference():
    def of(after: float) -> list[Findings]:
        return [month(number, 1.0 if number < 5 else after, metric="rmse") for number in range(1, 9)]

    # 2% of 0.7 is tolerated.
    assert not find_changes(of(1.013), 0.5)
    assert str(find_changes(of(1.05), RATE)[0]) == "since 2013-05, RMSE has been 1.050 (1.000 before)"
