"""Drift of numeric columns.

The Kolmogorov-Smirnov test detects any change of the distribution. Cucconi's test detects smaller changes of level and
spread. The values of both samples are pooled, and the rows of each sample are counted in the bins of one common
histogram. These bins do not depend on which rows belong to which sample, so p-values stay valid. The Kolmogorov-Smirnov
distance computed from bins is at most the distance computed from rows. Both distances are equal if each bin contains a
single value.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.drift.divergence import bins, divergence
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.histogram import on_one_grid
from airflow_mlops.profiles.columns.numeric import NumericColumn, parts
from airflow_mlops.profiles.significance import Pair


def compare(reference: NumericColumn, current: NumericColumn, design: float = 1.0) -> Comparison:
    """Compare two numeric columns.

    :param reference: profile of the reference column, with at least one finite value
    :param current: profile of the column in the window
    :param design: the design effect of clustered rows, see :mod:`airflow_mlops.drift.clusters`
    """
    old, new = reference.distribution(), current.distribution()
    assert old is not None
    if new is None:
        grid, pair = old, Pair(old.counts.astype(float), np.zeros(len(old.counts)))
    else:
        grid, pair = on_one_grid(old, new)
    # The bars of the report are for values below the range of the reference, at most ten bins within this range, values
    # above this range, and rows without a finite value.
    cuts = [int(np.flatnonzero(pair.before)[0]), *parts(pair.before)]
    binned = Pair(
        *(
            np.asarray([*_between(rows, cuts), column.rows - column.valid])
            for rows, column in zip(pair, (reference, current), strict=True)
        )
    )
    found = divergence(binned, design)
    pair = pair.thinned(design)
    p_values = dict(found.p_values)
    tests: list[Test] = []
    ks = wasserstein = None
    if current.valid:
        ks, p_value = significance.kolmogorov_smirnov(pair)
        if len(pair.total) > 1:
            tests = [Test("ks", ks, p_value), Test("cucconi", ks, significance.cucconi(pair))]
        if reference.std:
            with np.errstate(over="ignore", invalid="ignore"):
                middles = grid.lows + (grid.highs - grid.lows) / 2
                distance, p_value = significance.wasserstein(middles / reference.std, pair)
            if math.isfinite(distance):
                wasserstein, p_values["wasserstein"] = distance, p_value
    edges = [old.low, *grid.highs[np.asarray(cuts[1:-1], dtype=int) - 1].tolist(), old.high]
    labels = [f"{_short(a)} to {_short(b)}" if a != b else _short(a) for a, b in pairwise(edges)]
    return Comparison(
        psi=found.psi,
        jensen_shannon=found.jensen_shannon,
        ks=ks,
        wasserstein=wasserstein,
        measure_p_values=p_values,
        tests=tests,
        bins=bins([f"below {_short(old.low)}", *labels, f"above {_short(old.high)}", "missing"], binned),
    )


def _between(counts: Floats, cuts: list[int]) -> Floats:
    """Sum ``counts`` before the first cut, between neighbouring cuts, and after the last cut."""
    ranks = np.concatenate([[0.0], np.cumsum(counts)])
    return np.diff(ranks[[0, *cuts, len(counts)]])


def _short(value: float) -> str:
    if value != int(value) or abs(value) >= 1e6:
        return f"{value:.4g}"
    # Numbers with four digits have no comma, because they may be years.
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"
