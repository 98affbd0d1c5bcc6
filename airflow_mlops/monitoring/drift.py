"""How far a column has moved from its reference profile, and whether that is more than chance.

Every measure is computed from two profiles alone. Both columns are cut into the bins of the reference; values outside
the reference's range, values beyond the frequent ones, and missing values have bins of their own.

A few tests decide about a column, each good at what the others miss. For numbers: Kolmogorov and Smirnov's for any
change of shape, Cucconi's for level and spread, where it finds smaller changes. For text and booleans: Pearson's
chi-square, and one for values that the reference never had. For both: Fisher's of the share that is missing. The
smallest of their p-values, times the number of those that could have rejected (Bonferroni), is the column's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from airflow_mlops.monitoring import significance
from airflow_mlops.monitoring.profiles import BINS, TOP, CategoricalColumn, Floats, NumericColumn, Profile, nothing
from airflow_mlops.monitoring.significance import Pair, effective_rows
from airflow_mlops.specs.monitor import Bin, Drift, DriftTests, Policy

_SHOWN = 12


class _Test(NamedTuple):
    """A test that decides, or helps to.

    :param effect: in shares of rows, from 0 to 1
    """

    name: str
    effect: float
    p_value: float


def compare(reference: Profile, current: Profile, policy: Policy) -> list[Drift]:
    """The drift of every column of ``reference``, what drifted most first; a column that ``current`` lacks is left out."""
    return ranked(judge(measure(reference, current, policy), policy))


def measure(reference: Profile, current: Profile, policy: Policy) -> list[Drift]:
    """Every column of ``reference`` that ``current`` has, measured and tested by itself."""
    return [
        _column(name, column, current.columns[name], policy)
        for name, column in reference.columns.items()
        if name in current.columns
    ]


def judge(drifts: Sequence[Drift], policy: Policy) -> list[Drift]:
    """Which of all the columns of a window have drifted, at a false-alarm rate that holds for all of them together.

    A column whose effect is below the floor has not drifted, however sure the effect is, and does not make the others
    look surer.
    """
    floored = [
        1.0 if drift.effect is None or drift.effect < policy.min_effect else drift.p_value
        for drift in drifts
        if drift.p_value is not None
    ]
    corrected = iter(significance.adjusted([value for value in floored if value is not None]))
    judged = []
    for drift in drifts:
        if drift.p_value is not None:
            value = next(corrected)
            sure = value <= policy.false_alarm_rate
            drift = drift.model_copy(update={"adjusted_p_value": value, "drifted": sure})
        judged.append(drift)
    return judged


def ranked(drifts: Sequence[Drift]) -> list[Drift]:
    """What has drifted first, then by the size of the effect; what was not measured last."""
    return sorted(drifts, key=lambda drift: (drift.drifted, -1 if drift.effect is None else drift.effect), reverse=True)


def tests_of(drifts: Sequence[Drift], policy: Policy) -> DriftTests:
    """How many columns were tested in how many ways, and how that was corrected for."""
    tested = [drift for drift in drifts if drift.p_value is not None]
    return DriftTests(
        false_alarm_rate=policy.false_alarm_rate,
        min_effect=policy.min_effect,
        columns=len(tested),
        tests=sum(drift.tests for drift in tested),
    )


def psi(reference: Floats, current: Floats) -> Any:
    """Population stability index of two vectors of counts, smoothed by half a row a bin.

    :param reference: shape (..., k), as ``current``
    :return: shape (...)
    """
    p, q = ((counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True) for counts in (reference, current))
    return np.sum((q - p) * np.log(q / p), axis=-1)


def jensen_shannon(reference: Floats, current: Floats) -> Any:
    """Jensen-Shannon distance, base 2, of two vectors of counts: from 0 to 1.

    :param reference: shape (..., k), as ``current``
    :return: shape (...)
    """
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in (reference, current))
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    return np.sqrt(np.clip(parts.sum(axis=-1) / 2, 0, 1))


def _column(
    name: str,
    reference: NumericColumn | CategoricalColumn,
    current: NumericColumn | CategoricalColumn,
    policy: Policy,
) -> Drift:
    drift = Drift(
        column=name,
        kind=reference.kind,
        missing=_missing(current),
        missing_reference=_missing(reference),
        note=_oddity(current),
    )
    least = policy.min_rows
    if min(reference.rows, current.rows) < least:
        rows = f"{current.rows:,} rows" if current.rows < least else f"{reference.rows:,} rows at training"
        return drift.model_copy(update={"note": f"not measured: {rows}, {least:,} are needed"})
    if not reference.valid:
        return drift.model_copy(update={"note": "not measured: no row had a value at training"})
    if not current.valid:
        current = nothing(reference.kind, current.rows)
    if isinstance(reference, NumericColumn) and isinstance(current, NumericColumn):
        found, tests = _numeric(reference, current)
    elif isinstance(reference, CategoricalColumn) and isinstance(current, CategoricalColumn):
        found, tests = _categorical(reference, current)
    else:
        kinds = f"it was {reference.kind} at training and is {current.kind} now"
        return drift.model_copy(update={"note": f"not measured: {kinds}"})
    tests += _missing_rate(reference, current)
    p_values = {**found.pop("p_values"), **{test.name: test.p_value for test in tests}}
    return drift.model_copy(update={**found, "p_values": p_values, **_decided(tests, policy)})


def _decided(tests: Sequence[_Test], policy: Policy) -> dict[str, Any]:
    if not tests:
        # One value and nothing else, then as now.
        return {"p_value": 1.0, "effect": 0.0}
    # What is too small to matter does not stand in the way of what matters.
    surest = min(tests, key=lambda test: (test.effect < policy.min_effect, test.p_value, -test.effect))
    return {
        "test": surest.name,
        "effect": surest.effect,
        "p_value": min(1.0, len(tests) * surest.p_value),
        "tests": len(tests),
    }


def _missing_rate(
    reference: NumericColumn | CategoricalColumn, current: NumericColumn | CategoricalColumn
) -> list[_Test]:
    pair = Pair(
        *(np.asarray([column.valid, column.rows - column.valid], dtype=float) for column in (reference, current))
    )
    # Where neither lacks anything there is nothing to test.
    if not pair.total.all():
        return []
    return [_Test("missing", abs(_missing(current) - _missing(reference)), significance.fisher(pair))]


def _numeric(reference: NumericColumn, current: NumericColumn) -> tuple[dict[str, Any], list[_Test]]:
    low, high = reference.edges[0], reference.edges[-1]
    # Below the range, the bins of the reference, above the range.
    cuts = [math.nextafter(low, -math.inf), *reference.edges[1:-1], high]
    before, now = _binned(reference, cuts), _binned(current, cuts)
    found = _binned_measures(before, now, _shrunk(before, now, reference.bin_error, current.bin_error, 1 / BINS))
    tests = []
    if current.valid:
        errors = reference.rank_error, current.rank_error
        points, rows = significance.pooled(reference.points(), current.points())
        # Where most values tie, what is left to chance is the share that does not.
        tied = float(rows.total.max() / rows.total.sum())
        pair = _shrunk(*rows, *errors, max(0.5, tied)) if len(points) > 1 else rows
        found["ks"], p_value = significance.kolmogorov_smirnov(pair, exact=not any(errors))
        if len(points) > 1:
            tests = [_Test("ks", found["ks"], p_value), _Test("cucconi", found["ks"], significance.cucconi(pair))]
        if reference.std:
            with np.errstate(over="ignore", invalid="ignore"):
                moved, p_value = significance.wasserstein(points / reference.std, rows, math.hypot(*errors))
            if math.isfinite(moved):
                found["wasserstein"] = moved
                found["p_values"]["wasserstein"] = p_value
    labels = [f"{_short(a)} to {_short(b)}" if a != b else _short(a) for a, b in pairwise(reference.edges)]
    bins = _bins([f"below {_short(low)}", *labels, f"above {_short(high)}", "missing"], before, now)
    return {**found, "bins": bins}, tests


def _binned(column: NumericColumn, cuts: list[float]) -> Floats:
    counts = np.diff([0.0, *column.cdf(cuts), 1.0 if column.valid else 0.0]) * column.valid
    return np.asarray([*counts, column.rows - column.valid], dtype=float)


def _categorical(reference: CategoricalColumn, current: CategoricalColumn) -> tuple[dict[str, Any], list[_Test]]:
    known, seen = reference.counts(), current.counts()
    exact = not reference.error and not current.error
    candidates = [*known, *seen] if exact else [value for column in (reference, current) for value, _ in column.top]
    # By their rows in both together: the most frequent of one are frequent there partly by chance.
    together = {value: known.get(value, 0) + seen.get(value, 0) for value in candidates}
    values = sorted(together, key=lambda value: (-together[value], value))[:TOP]
    before, now = _counted(reference, known, values), _counted(current, seen, values)
    # Half the largest error stands for its spread.
    errors = reference.error / 2, current.error / 2
    found = _binned_measures(before, now, _shrunk(before, now, *errors))
    tests = []
    if current.valid:
        pair = _shrunk(before[:-1], now[:-1], *errors)
        apart = float(np.abs(before[:-1] / before[:-1].sum() - now[:-1] / now[:-1].sum()).sum() / 2)
        found["total_variation"] = apart
        if (pair.total > 0).sum() > 1:
            tests.append(_Test("chi_square", apart, significance.chi_square(pair)))
        if exact:
            every = Pair(
                *(np.asarray([rows.get(value, 0) for value in together], dtype=float) for rows in (known, seen))
            )
            found["unseen"] = float(every.now[every.before == 0].sum() / current.rows)
            tests.append(_Test("unseen", found["unseen"], significance.never_seen(every)))
    elif exact:
        found["unseen"] = 0.0
    common = np.argsort(-(before[:-2] / reference.rows + now[:-2] / current.rows), kind="stable")
    shown, rest = common[:_SHOWN], common[_SHOWN:]
    grouped = [np.asarray([*rows[shown], rows[rest].sum() + rows[-2], rows[-1]]) for rows in (before, now)]
    return {**found, "bins": _bins([*(values[index] for index in shown), "others", "missing"], *grouped)}, tests


def _counted(column: CategoricalColumn, rows: dict[str, int], values: list[str]) -> Floats:
    counts = [rows.get(value, 0) for value in values]
    return np.asarray([*counts, max(0, column.valid - sum(counts)), column.missing], dtype=float)


def _binned_measures(before: Floats, now: Floats, worth: Pair) -> dict[str, Any]:
    found = {"psi": float(psi(before, now)), "jensen_shannon": float(jensen_shannon(before, now))}
    p_values = significance.measures(worth, (psi, jensen_shannon))
    return {**found, "p_values": dict(zip(found, p_values, strict=True))}


def _shrunk(before: Floats, now: Floats, error_before: float, error_now: float, share: float = 0.5) -> Pair:
    """Counts of as many rows as the profiles are worth."""
    n, m = before.sum(), now.sum()
    return Pair(before * (effective_rows(n, error_before, share) / n), now * (effective_rows(m, error_now, share) / m))


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
