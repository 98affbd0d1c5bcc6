"""The gain of challengers over several windows: which windows count, and how much."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.gains import DECAY, best_gain, compare, windows_between

V1 = ModelVersionRef(model="delays", version=1, run_id="r")


def comparison(*gains: tuple[int | None, float, float], metric: str = "roc_auc") -> Comparison:
    """The comparison of one window, with a champion whose loss is 0.5.

    :param gains: past, gain and standard error of each challenger
    """
    losses = np.array([1.0, 1.0])
    challengers = [
        compare(losses, losses, past, 100, 0.7).model_copy(update={"gain": gain, "standard_error": error})
        for past, gain, error in gains
    ]
    return Comparison(
        champion=V1, metric=metric, rows=100, value=0.5, loss=0.5, challengers=challengers, since_training=3
    )


def test_the_weight_of_a_window_falls_with_the_number_of_later_windows():
    now, before = comparison((None, 0.03, 0.02)), comparison((None, 0.05, 0.001))
    found = best_gain(now, [(3, before), (1, before)], 0.95, 0.02)
    weights = DECAY**3 + DECAY
    assert found.windows == 3
    assert found.share == pytest.approx((0.03 + 0.05 * weights) / (0.5 * (1 + weights)))


def test_windows_with_another_metric_do_not_count():
    now, before = comparison((None, 0.03, 0.02)), comparison((None, 0.05, 0.001), metric="brier")
    assert best_gain(now, [(1, before)], 0.95, 0.02) is None


def test_a_challenger_is_pooled_with_challengers_of_the_same_past_only():
    now = comparison((None, 0.03, 0.02))
    before = comparison((1, 0.05, 0.001), (None, 0.0, 0.001))
    assert best_gain(now, [(1, before)], 0.95, 0.02) is None
    assert best_gain(now, [(1, comparison((1, 0.05, 0.001)))], 0.95, 0.02) is None


def test_a_sudden_gain_is_found_although_challengers_were_worse_before():
    now, before = comparison((None, 0.1, 0.01)), comparison((None, -0.3, 0.01))
    found = best_gain(now, [(1, before)], 0.95, 0.02)
    assert found.windows == 1
    assert found.share == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("earlier", "windows"), [("2013-04", 1), ("2013-03", 1), ("2013-02", 2), ("2012-04", 12), ("2013-05", 1)]
)
def test_the_distance_of_windows_is_at_least_one(earlier, windows):
    assert windows_between(Window.model_validate(earlier), Window.model_validate("2013-04")) == windows
