"""How far a column has moved from its reference profile, and whether that is more than chance.

Every measure is computed from two profiles alone. Both columns are cut into the bins of the reference; values outside
the reference's range, values beyond the frequent ones, and missing values have bins of their own.

A few tests decide about a column, each good at what the others miss: those of its kind (:mod:`numeric_drift`,
:mod:`categorical_drift`, :mod:`text_drift`, :mod:`timestamp_drift`, :mod:`embedding_drift`), and Fisher's of the share that is missing. The smallest of their p-values, times the number of
those that could have rejected (Bonferroni), is the column's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from airflow_mlops.drift import categorical as categorical_drift
from airflow_mlops.drift import categories
from airflow_mlops.drift import embeddings as embedding_drift
from airflow_mlops.drift import numeric as numeric_drift
from airflow_mlops.drift import text as text_drift
from airflow_mlops.drift import timestamps as timestamp_drift
from airflow_mlops.drift.findings import Drift, DriftTests
from airflow_mlops.drift.reference import TRAINING
from airflow_mlops.drift.thresholds import DriftThresholds
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.embeddings import EmbeddingColumn
from airflow_mlops.profiles.columns.numeric import NumericColumn
from airflow_mlops.profiles.columns.text import TextColumn
from airflow_mlops.profiles.columns.timestamps import TimestampColumn
from airflow_mlops.profiles.profile import ColumnProfile, Profile, nothing
from airflow_mlops.profiles.significance import Pair, Test


def compare(reference: Profile, current: Profile, thresholds: DriftThresholds) -> list[Drift]:
    """The drift of every column of ``reference``, what drifted most first; a column that ``current`` lacks is left out."""
    return ranked(judge(measure(reference, current, thresholds), thresholds))


def measure(reference: Profile, current: Profile, thresholds: DriftThresholds, of: str = TRAINING) -> list[Drift]:
    """Every column of ``reference`` that ``current`` has, measured and tested by itself.

    :param of: what ``reference`` is a profile of
    """
    return [
        _column(name, column, current.columns[name], thresholds, of)
        for name, column in reference.columns.items()
        if name in current.columns
    ]


def judge(drifts: Sequence[Drift], thresholds: DriftThresholds) -> list[Drift]:
    """Which of all the columns of a window have drifted, at a false-alarm rate that holds for all of them together.

    A column whose effect is below the floor has not drifted, however sure the effect is, and does not make the others
    look surer.
    """
    floored = [
        1.0 if drift.effect is None or drift.effect < thresholds.min_effect else drift.p_value
        for drift in drifts
        if drift.p_value is not None
    ]
    corrected = iter(significance.adjusted([value for value in floored if value is not None]))
    judged = []
    for drift in drifts:
        if drift.p_value is not None:
            value = next(corrected)
            sure = value <= thresholds.false_alarm_rate
            drift = drift.model_copy(update={"adjusted_p_value": value, "drifted": sure})
        judged.append(drift)
    return judged


def ranked(drifts: Sequence[Drift]) -> list[Drift]:
    """What has drifted first, then by effect times importance, or by the effect alone where importance is not known; what
    was not measured last.
    """

    def order(drift: Drift) -> tuple[bool, float, float]:
        effect = -1.0 if drift.effect is None else drift.effect
        weight = 1.0 if drift.importance is None or drift.effect is None else drift.importance
        return drift.drifted, effect * weight, effect

    return sorted(drifts, key=order, reverse=True)


def tests_of(drifts: Sequence[Drift], thresholds: DriftThresholds) -> DriftTests:
    """How many columns were tested in how many ways, and how that was corrected for."""
    tested = [drift for drift in drifts if drift.p_value is not None]
    return DriftTests(
        false_alarm_rate=thresholds.false_alarm_rate,
        min_effect=thresholds.min_effect,
        columns=len(tested),
        tests=sum(drift.tests for drift in tested),
    )


def _column(
    name: str,
    reference: ColumnProfile,
    current: ColumnProfile,
    thresholds: DriftThresholds,
    of: str,
) -> Drift:
    note = _oddity(reference, current)
    if isinstance(reference, EmbeddingColumn) and isinstance(current, EmbeddingColumn):
        current, note = current.of(reference.dimension), _odd_rows(reference, current)
    drift = Drift(
        column=name,
        kind=reference.kind,
        reference=of,
        missing=_missing(current),
        missing_reference=_missing(reference),
        infinite=_infinite(reference, current),
        broken=_broken(reference, current),
        note=note,
    )
    least = thresholds.min_rows
    if min(reference.rows, current.rows) < least:
        rows = f"{current.rows:,} rows" if current.rows < least else f"{reference.rows:,} rows {drift.when}"
        return drift.model_copy(update={"note": f"not measured: {rows}, {least:,} are needed"})
    if not reference.valid:
        return drift.model_copy(update={"note": f"not measured: no row had a value {drift.when}"})
    if not current.valid:
        current = nothing(reference, current.rows)
    compared = _compared(reference, current)
    if compared is None:
        kinds = f"it was {reference.kind} {drift.when} and is {current.kind} now"
        return drift.model_copy(update={"note": f"not measured: {kinds}"})
    found, tests = compared
    tests = [*tests, *_missing_rate(reference, current)]
    p_values = {**found.pop("p_values"), **{test.name: test.p_value for test in tests}}
    return drift.model_copy(update={**found, "p_values": p_values, **_decided(tests, thresholds)})


def _compared(reference: ColumnProfile, current: ColumnProfile) -> tuple[dict[str, Any], list[Test]] | None:
    """The measures and the tests of two columns of one kind; ``None`` if they are of two."""
    if isinstance(reference, NumericColumn) and isinstance(current, NumericColumn):
        return numeric_drift.compare(reference, current)
    if isinstance(reference, CategoricalColumn) and isinstance(current, CategoricalColumn):
        if isinstance(reference, TextColumn) and reference.free:
            return text_drift.compare(reference, current)
        found, tests = categorical_drift.compare(reference, current)
        return {**found, **categories.named(reference, current)}, tests
    if isinstance(reference, EmbeddingColumn) and isinstance(current, EmbeddingColumn):
        return embedding_drift.compare(reference, current)
    if isinstance(reference, TimestampColumn) and isinstance(current, TimestampColumn):
        return timestamp_drift.compare(reference, current) if reference.kind == current.kind else None
    return None


def _decided(tests: Sequence[Test], thresholds: DriftThresholds) -> dict[str, Any]:
    if not tests:
        # One value and nothing else, then as now.
        return {"p_value": 1.0, "effect": 0.0}
    # What is too small to matter does not stand in the way of what matters.
    surest = min(tests, key=lambda test: (test.effect < thresholds.min_effect, test.p_value, -test.effect))
    return {
        "test": surest.name,
        "effect": surest.effect,
        "p_value": min(1.0, len(tests) * surest.p_value),
        "tests": len(tests),
    }


def _missing_rate(reference: ColumnProfile, current: ColumnProfile) -> list[Test]:
    pair = Pair(
        *(np.asarray([column.valid, column.rows - column.valid], dtype=float) for column in (reference, current))
    )
    # Where neither lacks anything there is nothing to test.
    if not pair.total.all():
        return []
    return [Test("missing", abs(_missing(current) - _missing(reference)), significance.fisher(pair))]


def _missing(column: ColumnProfile) -> float:
    return (column.rows - column.valid) / column.rows if column.rows else 0.0


def _oddity(reference: ColumnProfile, column: ColumnProfile) -> str | None:
    if column.rows and not column.valid:
        return "no row has a value"
    if isinstance(column, TimestampColumn) and column.outside:
        return f"{column.outside:,} rows lie outside the years 1 to 9999"
    if not isinstance(column, NumericColumn) or not isinstance(reference, NumericColumn):
        return None
    if column.infinite:
        return f"{column.infinite:,} rows are infinite" if column.infinite > 1 else "1 row is infinite"
    if _constant(reference, column):
        return f"every row has the value {column.min:.4g}"
    return None


def _broken(reference: ColumnProfile, column: ColumnProfile) -> bool:
    if not column.valid:
        return bool(column.rows and reference.valid)
    return isinstance(column, NumericColumn) and isinstance(reference, NumericColumn) and _constant(reference, column)


def _constant(reference: NumericColumn, column: NumericColumn) -> bool:
    return column.valid > 1 and column.min == column.max and reference.min != reference.max


def _infinite(reference: ColumnProfile, column: ColumnProfile) -> int:
    if isinstance(reference, NumericColumn) and isinstance(column, NumericColumn) and not reference.infinite:
        return column.infinite
    return 0


def _odd_rows(reference: EmbeddingColumn, current: EmbeddingColumn) -> str | None:
    odd = current.of(reference.dimension).odd
    if not odd:
        return _oddity(reference, current)
    return f"{odd:,} rows are no {reference.dimension:,} finite numbers"
