"""The false-alarm rate over whole windows, small: the same windows as ``python -m benchmarks.false_alarms`` draws."""

from __future__ import annotations

from scipy import stats

from benchmarks.false_alarms import judge, rates

WINDOWS = 40


def test_windows_without_drift_seldom_alarm_and_a_shift_is_found_as_often_as_by_kolmogorov_and_smirnov():
    found = [judge(window, most_rows=4_000, most_features=20) for window in range(WINDOWS)]
    figures = rates(found)
    # So many alarms or more would be chance in one of ten thousand suites.
    assert stats.binom.sf(figures["false_alarm_rate"] * WINDOWS - 1, WINDOWS, 0.05) > 1e-4
    assert figures["uncorrected_false_alarm_rate"] > 0.3
    # At the whole 5%, which is more than ours has: a few windows of difference are chance.
    plain = sum(item["ks_shifted"] <= 0.05 for item in found)
    assert plain > 5
    assert sum(item["found"] for item in found) >= plain - 3
