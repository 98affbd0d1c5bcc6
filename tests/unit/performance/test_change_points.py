"""Since when something is different: real changes are found where they are, and where nothing changes hardly any."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.drift.findings import Drift
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.monitor.changes import changes, splits

RATE = 0.05


def series(levels: list[float], error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    errors = np.full(len(levels), error)
    return np.asarray(levels) + np.random.default_rng(seed).normal(size=len(levels)) * errors, errors


@pytest.mark.parametrize("windows", [4, 12])
def test_without_a_change_hardly_any_is_found(windows):
    """At the stated rate, over 600 series whose standard errors differ by a factor of up to a hundred."""
    random = np.random.default_rng(windows)
    alarms = 0
    for _ in range(600):
        errors = 10 ** random.uniform(-3, -1, windows)
        alarms += bool(splits(0.7 + random.normal(size=windows) * errors, errors, RATE))
    assert alarms / 600 <= RATE + 2.5 * np.sqrt(RATE * (1 - RATE) / 600)
    # The test is not so cautious that it never finds anything either.
    assert alarms / 600 >= RATE / 4


@pytest.mark.parametrize("seed", range(20))
def test_a_change_is_found_where_it_is(seed):
    (found,) = splits(*series([0.71] * 5 + [0.67] * 4, 0.005, seed), RATE / 5)
    assert found.at == 5
    assert (found.before, found.after) == pytest.approx((0.71, 0.67), abs=0.01)
    assert found.p_value <= RATE / 5


def test_several_changes_have_the_levels_between_them():
    found = splits(*series([0.7] * 6 + [0.6] * 5 + [0.68] * 6, 0.005), RATE / 10)
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
def test_shifting_all_values_changes_nothing_but_the_levels(seed, shift):
    values, errors = drawn(seed)
    there, here = splits(values + shift, errors, RATE), splits(values, errors, RATE)
    assert [split.at for split in there] == [split.at for split in here]
    assert [split.p_value for split in there] == pytest.approx([split.p_value for split in here], abs=1e-3)
    assert [split.after - shift for split in there] == pytest.approx([split.after for split in here], abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
@settings(max_examples=100)
def test_the_unit_of_measurement_does_not_matter(seed, unit):
    values, errors = drawn(seed)
    assert [split.at for split in splits(values * unit, errors * unit, RATE)] == [
        split.at for split in splits(values, errors, RATE)
    ]


def test_one_window_is_no_level_and_a_small_change_no_change():
    for outlier in range(9):
        values = [0.7] * 9
        values[outlier] = 0.5
        assert not splits(*series(values, 0.005), RATE / 10)
    (found,) = splits(*series([0.7, 0.7, 0.5, 0.7, 0.7, 0.6, 0.6, 0.9, 0.6], 0.005), RATE / 10)
    assert (found.at, found.before, found.after) == pytest.approx((5, 0.7, 0.6), abs=0.01)
    assert not splits([0.7, 0.5], [0.005, 0.005], RATE)
    assert not splits([], [], RATE)
    assert not splits([0.7] * 4 + [0.5] * 4, [0.0] * 8, RATE)
    values = series([0.7] * 8 + [0.68] * 8, 0.001)
    assert splits(*values, RATE, floor=0.015)
    assert not splits(*values, RATE, floor=0.025)


def test_uncertain_windows_count_for_little():
    errors = [0.005] * 4 + [0.2] * 2 + [0.005] * 4
    assert not splits([0.7] * 4 + [0.4] * 2 + [0.7] * 4, errors, RATE)
    (found,) = splits([0.7] * 4 + [0.9] * 2 + [0.6] * 4, errors, RATE)
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


def test_the_summer_is_found_in_performance_and_in_what_matters():
    history = [month(number, 0.71 if number < 6 else 0.68, temp=0.0 if number < 5 else 0.4) for number in range(1, 9)]
    performance, drift = changes(history, RATE)
    assert (performance.kind, performance.of, performance.window.label) == ("performance", "roc_auc", "2013-06")
    assert str(performance) == "since 2013-06 roc_auc has been 0.030 lower (0.680 against 0.710 before)"
    assert (drift.kind, drift.of, drift.window.label) == ("drift", "temp", "2013-05")
    assert str(drift) == "since 2013-05 the drift of temp has been 41.0% of the rows, before 1.0%"


def test_a_feature_that_has_not_drifted_stays_below_the_floor_whatever_chance_does():
    def of(number: int, effect: float, drifted: bool, rows: int) -> Findings:
        drift = Drift(column="temp", kind="numeric", effect=effect, drifted=drifted, importance=1.0)
        return month(number, None, features=[drift], rows=rows)

    # Of 100 rows an unchanged feature seems to move by as much.
    few = [of(number, 0.1, False, 100) for number in (1, 2, 3, 4)]
    assert not changes([*few, *(of(number, 0.01, False, 1_000_000) for number in (5, 6, 7, 8))], RATE)
    # One that hovers around the floor has not changed.
    assert not changes([of(number, 0.017 + 0.006 * (number > 4), number > 4, 10**6) for number in range(1, 9)], RATE)
    assert changes([of(number, 0.017 + 0.06 * (number > 4), number > 4, 10**6) for number in range(1, 9)], RATE)


def test_a_new_version_starts_a_new_series():
    history = [month(number, 0.71 if number < 6 else 0.65, version=1 if number < 6 else 2) for number in range(1, 11)]
    assert not changes(history, RATE)
    assert changes([*history[:5], *(month(number, 0.65) for number in range(6, 11))], RATE)
    # One that came back goes on with its own.
    back = [month(1, 0.71), month(2, 0.71), month(3, 0.5, 2), month(4, 0.5, 2), month(5, 0.65), month(6, 0.65)]
    assert [change.window.label for change in changes(back, RATE)] == ["2013-05"]


def test_what_was_not_judged_or_is_another_metric_is_no_part_of_the_series():
    low = [month(number, 0.6, unmeasured="there are 12 labels") for number in (3, 4, 5)]
    assert not changes([month(1, 0.71), month(2, 0.71), *low, month(6, 0.71), month(7, 0.71)], RATE)
    other = [month(number, 0.6, metric="accuracy") for number in (1, 2, 3)]
    assert not changes([*other, *(month(number, 0.71) for number in (4, 5, 6))], RATE)
    assert not changes([month(1, None)], RATE)
    assert not changes([month(1, None, scored_by=None)], RATE)


def test_all_series_share_the_rate():
    values = [0.71, 0.71, 0.71, 0.71, 0.685, 0.69, 0.685, 0.685]
    history = [month(number, value, features=[]) for number, value in enumerate(values, 1)]
    (alone,) = changes(history, RATE)
    among = [month(number, value) for number, value in enumerate(values, 1)]
    assert [change.p_value for change in changes(among, RATE)] == [alone.p_value]
    # One more series is looked at, so that a change has to be twice as sure.
    assert changes(history, alone.p_value)
    assert not changes(among, alone.p_value * 1.5)


def test_a_loss_changes_by_a_share_of_the_reference():
    def of(after: float) -> list[Findings]:
        return [month(number, 1.0 if number < 5 else after, metric="rmse") for number in range(1, 9)]

    # 2% of 0.7 is tolerated.
    assert not changes(of(1.013), 0.5)
    assert str(changes(of(1.05), RATE)[0]) == "since 2013-05 rmse has been 0.050 higher (1.050 against 1.000 before)"
