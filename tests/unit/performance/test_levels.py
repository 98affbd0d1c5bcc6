"""The best level of recent champions: compared as a sample of windows, with the stated error."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.performance.findings import Performance
from airflow_mlops.performance.levels import best_recent


def rmse(value: float, error: float = 1.0, metric: str = "rmse") -> Performance:
    return Performance(metric=metric, value=value, low=value - 1.96 * error, high=value + 1.96 * error, labels=100)


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(("windows", "versions"), [(3, 1), (6, 1), (6, 3)])
def test_an_unchanged_level_is_rarely_exceeded(windows, versions, between):
    random = np.random.default_rng(0)

    def window() -> Performance:
        return rmse(100 + between * random.normal() + random.normal())

    hits, often = 0, 300
    for _ in range(often):
        found = best_recent(window(), {number: [window() for _ in range(windows)] for number in range(versions)}, 0.95)
        hits += found.low > 0
    # The one-sided error is 2.5%. Three standard errors for 300 windows are added.
    assert hits / often <= 0.025 + 0.027


def test_a_level_that_was_better_by_far_is_found_whatever_the_present_version_reached():
    then = [rmse(value) for value in (9.0, 10.0, 11.0, 10.0, 9.5)]
    bad = [rmse(value) for value in (20.0, 21.0, 20.0)]
    found = best_recent(rmse(20.5), {1: then, 2: bad}, 0.95)
    assert (found.version, found.windows, found.compared) == (1, 5, 2)
    assert found.value == pytest.approx(9.9)
    assert found.low > 5
    # If larger values of a metric are better, the larger level is the better one.
    auc = {version: [rmse(item.value, 0.1, "roc_auc") for item in known] for version, known in ((1, then), (2, bad))}
    assert best_recent(rmse(20.5, 0.1, "roc_auc"), auc, 0.95).version == 2


def test_a_level_needs_three_windows_of_the_same_metric():
    assert best_recent(rmse(10), {1: [rmse(10), rmse(11)]}, 0.95) is None
    assert best_recent(rmse(10), {1: [rmse(10), rmse(11), rmse(9, metric="mae")]}, 0.95) is None
    assert best_recent(rmse(10), {}, 0.95) is None


def test_the_wider_the_windows_vary_the_wider_the_interval():
    steady, varied = ([rmse(10 + spread * step) for step in (-1, 0, 1)] for spread in (0.1, 5))
    narrow, wide = (best_recent(rmse(12), {1: known}, 0.95) for known in (steady, varied))
    assert wide.low < narrow.low < 2 < narrow.high < wide.high
