"""The drift of a column of numbers.

Kolmogorov and Smirnov's test finds any change of shape, Cucconi's level and spread, where it finds smaller changes.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from airflow_mlops.monitoring import significance
from airflow_mlops.monitoring.columns.base import Floats
from airflow_mlops.monitoring.columns.numeric import BINS, NumericColumn
from airflow_mlops.monitoring.divergence import binned_measures, bins, shrunk
from airflow_mlops.monitoring.significance import Test


def compare(reference: NumericColumn, current: NumericColumn) -> tuple[dict[str, Any], list[Test]]:
    """The measures of a :class:`~airflow_mlops.specs.drift.Drift`, and the tests that decide."""
    low, high = reference.edges[0], reference.edges[-1]
    # Below the range, the bins of the reference, above the range.
    cuts = [math.nextafter(low, -math.inf), *reference.edges[1:-1], high]
    before, now = _binned(reference, cuts), _binned(current, cuts)
    found = binned_measures(before, now, shrunk(before, now, reference.bin_error, current.bin_error, 1 / BINS))
    tests = []
    if current.valid:
        errors = reference.rank_error, current.rank_error
        points, rows = significance.pooled(reference.points(), current.points())
        # Where most values tie, what is left to chance is the share that does not.
        tied = float(rows.total.max() / rows.total.sum())
        pair = shrunk(*rows, *errors, max(0.5, tied)) if len(points) > 1 else rows
        found["ks"], p_value = significance.kolmogorov_smirnov(pair, exact=not any(errors))
        if len(points) > 1:
            tests = [Test("ks", found["ks"], p_value), Test("cucconi", found["ks"], significance.cucconi(pair))]
        if reference.std:
            with np.errstate(over="ignore", invalid="ignore"):
                moved, p_value = significance.wasserstein(points / reference.std, rows, math.hypot(*errors))
            if math.isfinite(moved):
                found["wasserstein"] = moved
                found["p_values"]["wasserstein"] = p_value
    labels = [f"{_short(a)} to {_short(b)}" if a != b else _short(a) for a, b in pairwise(reference.edges)]
    drawn = bins([f"below {_short(low)}", *labels, f"above {_short(high)}", "missing"], before, now)
    return {**found, "bins": drawn}, tests


def _binned(column: NumericColumn, cuts: list[float]) -> Floats:
    counts = np.diff([0.0, *column.cdf(cuts), 1.0 if column.valid else 0.0]) * column.valid
    return np.asarray([*counts, column.rows - column.valid], dtype=float)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"
