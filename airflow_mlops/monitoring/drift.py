"""How far a column has moved from its reference profile.

Every measure is computed from two profiles alone. Both columns are cut into the bins of the reference; values outside
the reference's range, values it never saw, and missing values have bins of their own.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from airflow_mlops.monitoring.profiles import CategoricalColumn, Floats, NumericColumn, Profile, nothing
from airflow_mlops.specs.monitor import Bin, Drift

_RANKS = (np.arange(200) + 0.5) / 200
_SHOWN = 12
# Up to here a profile's counts of values are exact, so that a value it does not know was never there.
_EXACT_VALUES = 700


def compare(reference: Profile, current: Profile, min_rows: int) -> list[Drift]:
    """The drift of every column of ``reference``, the largest first; a column that ``current`` lacks is left out.

    :param min_rows: with fewer rows in either profile nothing is measured
    """
    found = [
        compare_column(name, column, current.columns[name], min_rows)
        for name, column in reference.columns.items()
        if name in current.columns
    ]
    return sorted(found, key=lambda drift: -1 if drift.psi is None else drift.psi, reverse=True)


def compare_column(
    name: str,
    reference: NumericColumn | CategoricalColumn,
    current: NumericColumn | CategoricalColumn,
    min_rows: int,
) -> Drift:
    """The drift of one column."""
    drift = Drift(
        column=name,
        kind=reference.kind,
        missing=_missing(current),
        missing_reference=_missing(reference),
        note=_oddity(current),
    )
    if min(reference.rows, current.rows) < min_rows:
        rows = f"{current.rows:,} rows" if current.rows < min_rows else f"{reference.rows:,} rows at training"
        return drift.model_copy(update={"note": f"not measured: {rows}, {min_rows:,} are needed"})
    if not reference.valid:
        return drift.model_copy(update={"note": "not measured: no row had a value at training"})
    if not current.valid:
        current = nothing(reference.kind, current.rows)
    if isinstance(reference, NumericColumn) and isinstance(current, NumericColumn):
        return drift.model_copy(update=_numeric(reference, current))
    if isinstance(reference, CategoricalColumn) and isinstance(current, CategoricalColumn):
        return drift.model_copy(update=_categorical(reference, current))
    kinds = f"it was {reference.kind} at training and is {current.kind} now"
    return drift.model_copy(update={"note": f"not measured: {kinds}"})


def psi(reference: Floats, current: Floats) -> float:
    """Population stability index of two vectors of counts, smoothed by half a row a bin."""
    p = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    q = (current + 0.5) / (current.sum() + 0.5 * len(current))
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon(reference: Floats, current: Floats) -> float:
    """Jensen-Shannon distance, base 2, of two vectors of counts: from 0 to 1."""
    p, q = reference / reference.sum(), current / current.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    return math.sqrt(min(1.0, max(0.0, float(parts.sum()) / 2)))


def _numeric(reference: NumericColumn, current: NumericColumn) -> dict[str, Any]:
    low, high = reference.edges[0], reference.edges[-1]
    # Below the range, the bins of the reference, above the range.
    cuts = [math.nextafter(low, -math.inf), *reference.edges[1:-1], high]
    before, now = _binned(reference, cuts), _binned(current, cuts)
    found: dict[str, Any] = {"psi": psi(before, now), "jensen_shannon": jensen_shannon(before, now)}
    if current.valid:
        points = np.unique([*reference.quantiles(_RANKS), *current.quantiles(_RANKS)])
        found["ks"] = float(np.abs(reference.cdf(points) - current.cdf(points)).max())
        if reference.std:
            with np.errstate(over="ignore", invalid="ignore"):
                apart = (reference.quantiles(_RANKS) / reference.std) - (current.quantiles(_RANKS) / reference.std)
                moved = float(np.abs(apart).mean())
            found["wasserstein"] = moved if math.isfinite(moved) else None
    labels = [f"{_short(a)} to {_short(b)}" if a != b else _short(a) for a, b in pairwise(reference.edges)]
    return {**found, "bins": _bins([f"below {_short(low)}", *labels, f"above {_short(high)}", "missing"], before, now)}


def _binned(column: NumericColumn, cuts: list[float]) -> Floats:
    counts = np.diff([0.0, *column.cdf(cuts), 1.0 if column.valid else 0.0]) * column.valid
    return np.asarray([*counts, column.rows - column.valid], dtype=float)


def _categorical(reference: CategoricalColumn, current: CategoricalColumn) -> dict[str, Any]:
    values = list(dict.fromkeys(value for column in (reference, current) for value, _ in column.top))
    before, now = _counted(reference, values), _counted(current, values)
    unseen = None
    if max(reference.distinct, current.distinct) <= _EXACT_VALUES:
        known = reference.counts([value for value, _ in current.top]) > 0
        unseen = sum(rows for (_, rows), there in zip(current.top, known, strict=True) if not there) / current.rows
    common = np.argsort(-(before[:-2] / reference.rows + now[:-2] / current.rows), kind="stable")
    shown, rest = common[:_SHOWN], common[_SHOWN:]
    grouped = [np.asarray([*rows[shown], rows[rest].sum() + rows[-2], rows[-1]]) for rows in (before, now)]
    return {
        "psi": psi(before, now),
        "jensen_shannon": jensen_shannon(before, now),
        "unseen": unseen,
        "bins": _bins([*(values[index] for index in shown), "others", "missing"], *grouped),
    }


def _counted(column: CategoricalColumn, values: list[str]) -> Floats:
    counts = column.counts(values)
    return np.asarray([*counts, max(0.0, column.valid - counts.sum()), column.missing], dtype=float)


def _bins(labels: list[str], before: Floats, now: Floats) -> list[Bin]:
    p, q = before / before.sum(), now / now.sum()
    outer = {0, len(labels) - 2, len(labels) - 1}
    return [
        Bin(label=label, reference=float(p[index]), current=float(q[index]))
        for index, label in enumerate(labels)
        # An empty bin at the margin says nothing.
        if p[index] or q[index] or index not in outer
    ]


def _missing(column: NumericColumn | CategoricalColumn) -> float:
    return (column.rows - column.valid) / column.rows if column.rows else 0.0


def _oddity(column: NumericColumn | CategoricalColumn) -> str | None:
    if column.rows and not column.valid:
        return "no row has a value"
    if isinstance(column, NumericColumn) and column.infinite:
        return f"{column.infinite:,} rows are infinite"
    return None


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"
