"""The drift of a column of numbers.

Kolmogorov and Smirnov's test finds any change of shape, Cucconi's level and spread, where it finds smaller changes. Both
columns are compared on the bins of all their values together, which do not depend on which rows are new: that leaves
p-values valid. A distance of distribution functions on bins is never larger than that on rows, and equal to it while
there are no more different values than bins.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from airflow_mlops.drift.divergence import binned_measures, bins
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.histogram import on_one_grid
from airflow_mlops.profiles.columns.numeric import NumericColumn, parts
from airflow_mlops.profiles.significance import Pair, Test


def compare(reference: NumericColumn, current: NumericColumn) -> tuple[dict[str, Any], list[Test]]:
    """The measures of a :class:`~airflow_mlops.drift.findings.Drift`, and the tests that decide."""
    old, new = reference.distribution(), current.distribution()
    assert old is not None
    if new is None:
        grid, pair = old, Pair(old.counts.astype(float), np.zeros(len(old.counts)))
    else:
        grid, pair = on_one_grid(old, new)
    # Below the range of the reference, its bins, above its range.
    cuts = [int(np.flatnonzero(pair.before)[0]), *parts(pair.before)]
    before, now = (
        np.asarray([*_between(rows, cuts), column.rows - column.valid])
        for rows, column in zip(pair, (reference, current), strict=True)
    )
    found = binned_measures(before, now)
    tests = []
    if current.valid:
        found["ks"], p_value = significance.kolmogorov_smirnov(pair)
        if len(pair.total) > 1:
            tests = [Test("ks", found["ks"], p_value), Test("cucconi", found["ks"], significance.cucconi(pair))]
        if reference.std:
            with np.errstate(over="ignore", invalid="ignore"):
                middles = grid.lows + (grid.highs - grid.lows) / 2
                moved, p_value = significance.wasserstein(middles / reference.std, pair)
            if math.isfinite(moved):
                found["wasserstein"] = moved
                found["p_values"]["wasserstein"] = p_value
    edges = [old.low, *grid.highs[np.asarray(cuts[1:-1], dtype=int) - 1].tolist(), old.high]
    labels = [f"{_short(a)} to {_short(b)}" if a != b else _short(a) for a, b in pairwise(edges)]
    drawn = bins([f"below {_short(old.low)}", *labels, f"above {_short(old.high)}", "missing"], before, now)
    return {**found, "bins": drawn}, tests


def _between(counts: Floats, cuts: list[int]) -> Floats:
    """The sums of ``counts`` before the first cut, between each and the next, and from the last on."""
    ranks = np.cumsum([0.0, *counts])
    return np.diff(ranks[[0, *cuts, len(counts)]])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"
