"""Drift of each column on its own: how far it moved from its reference profile, and whether by more than chance.

Everything is computed from two profiles alone. A few tests decide about a column, each sensitive to changes that the
others miss: those of its kind (the modules :mod:`numeric`, :mod:`categorical`, :mod:`text`, :mod:`timestamps` and
:mod:`embeddings`), and Fisher's exact test of the share of missing values. The p-value of the column is the smallest of
theirs times their number (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from airflow_mlops.drift import categorical, embeddings, numeric, text, timestamps
from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.drift.findings import Drift, DriftTests
from airflow_mlops.drift.reference import TRAINING, at_reference
from airflow_mlops.drift.thresholds import DriftThresholds
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.embeddings import EmbeddingColumn
from airflow_mlops.profiles.columns.numeric import NumericColumn
from airflow_mlops.profiles.columns.text import TextColumn
from airflow_mlops.profiles.columns.timestamps import TimestampColumn
from airflow_mlops.profiles.profile import ColumnProfile, Profile, all_missing
from airflow_mlops.profiles.significance import Pair


class Decision(NamedTuple):
    """The outcome of all tests of one column; the fields are those of :class:`~airflow_mlops.drift.findings.Drift`."""

    test: str | None = None
    effect: float | None = None
    p_value: float | None = None
    tests: int = 0


def compare(reference: Profile, current: Profile, thresholds: DriftThresholds) -> list[Drift]:
    """The drift of every column of ``reference`` that ``current`` has, ranked by :func:`ranked`."""
    return ranked(decide(measure(reference, current, thresholds), thresholds))


def measure(
    reference: Profile, current: Profile, thresholds: DriftThresholds, reference_name: str = TRAINING
) -> list[Drift]:
    """Measure and test every column of ``reference`` that ``current`` has, each on its own.

    :param reference_name: what ``reference`` is a profile of: ``training`` or windows, as in ``2012-12``
    :return: not yet decided, see :func:`decide`
    """
    return [
        _column(name, column, current.columns[name], thresholds, reference_name)
        for name, column in reference.columns.items()
        if name in current.columns
    ]


def decide(drifts: Sequence[Drift], thresholds: DriftThresholds) -> list[Drift]:
    """Decide which columns of a window have drifted. The false-alarm rate holds for all of them together.

    A column whose effect is below ``min_effect`` has not drifted, however significant the effect is. It enters the
    correction with a p-value of 1, so that it does not make the other columns more significant.
    """
    p_values = [
        1.0 if drift.effect is None or drift.effect < thresholds.min_effect else drift.p_value
        for drift in drifts
        if drift.p_value is not None
    ]
    adjusted = iter(significance.adjusted(p_values))
    return [
        drift if drift.p_value is None else drift.decided(next(adjusted), thresholds.false_alarm_rate)
        for drift in drifts
    ]


def ranked(drifts: Sequence[Drift]) -> list[Drift]:
    """Drifted columns first, then by effect times importance (by the effect if the importance is not known). Columns
    that were not measured come last.
    """

    def order(drift: Drift) -> tuple[bool, float, float]:
        effect = -1.0 if drift.effect is None else drift.effect
        weight = 1.0 if drift.importance is None or drift.effect is None else drift.importance
        return drift.drifted, effect * weight, effect

    return sorted(drifts, key=order, reverse=True)


def tests_summary(drifts: Sequence[Drift], thresholds: DriftThresholds) -> DriftTests:
    """How many columns were tested by how many tests, and how the number of tests was corrected for."""
    tested = [drift for drift in drifts if drift.p_value is not None]
    return DriftTests(
        false_alarm_rate=thresholds.false_alarm_rate,
        min_effect=thresholds.min_effect,
        columns=len(tested),
        tests=sum(drift.tests for drift in tested),
    )


def _column(
    name: str, reference: ColumnProfile, current: ColumnProfile, thresholds: DriftThresholds, reference_name: str
) -> Drift:
    if isinstance(reference, EmbeddingColumn) and isinstance(current, EmbeddingColumn):
        current = current.with_dimension(reference.dimension)
    when = at_reference(reference_name)
    comparison, decision, note = Comparison(), Decision(), _too_little(reference, current, thresholds.min_rows, when)
    if note is None:
        found = _compared(reference, current if current.valid else all_missing(reference, current.rows))
        if found is None:
            note = f"not measured: it was {reference.kind} {when} and is {current.kind} now"
        else:
            comparison = replace(found, tests=[*found.tests, *_missing_rate(reference, current)])
            decision = _decision(comparison.tests, thresholds.min_effect)
            note = comparison.note or _remark(reference, current)
    return Drift(
        column=name,
        kind=reference.kind,
        reference=reference_name,
        psi=comparison.psi,
        jensen_shannon=comparison.jensen_shannon,
        ks=comparison.ks,
        wasserstein=comparison.wasserstein,
        total_variation=comparison.total_variation,
        missing=_missing(current),
        missing_reference=_missing(reference),
        unseen=comparison.unseen,
        new_values=comparison.new_values,
        gone_values=comparison.gone_values,
        infinite=_new_infinite(reference, current),
        broken=_broken(reference, current),
        p_values={**comparison.measure_p_values, **{test.name: test.p_value for test in comparison.tests}},
        test=decision.test,
        effect=decision.effect,
        tests=decision.tests,
        p_value=decision.p_value,
        note=note,
        bins=comparison.bins,
    )


def _too_little(reference: ColumnProfile, current: ColumnProfile, min_rows: int, when: str) -> str | None:
    """A note that one of the columns has too few rows or no value to be measured; ``None`` if both have enough."""
    if current.rows < min_rows:
        return f"not measured: {current.rows:,} rows, {min_rows:,} are needed"
    if reference.rows < min_rows:
        return f"not measured: {reference.rows:,} rows {when}, {min_rows:,} are needed"
    return None if reference.valid else f"not measured: no row had a value {when}"


def _compared(reference: ColumnProfile, current: ColumnProfile) -> Comparison | None:
    """``None`` if the columns are of different kinds."""
    if isinstance(reference, NumericColumn) and isinstance(current, NumericColumn):
        return numeric.compare(reference, current)
    if isinstance(reference, CategoricalColumn) and isinstance(current, CategoricalColumn):
        if isinstance(reference, TextColumn) and reference.free:
            return text.compare(reference, current)
        return categorical.compare(reference, current)
    if isinstance(reference, EmbeddingColumn) and isinstance(current, EmbeddingColumn):
        return embeddings.compare(reference, current)
    if isinstance(reference, TimestampColumn) and isinstance(current, TimestampColumn):
        return timestamps.compare(reference, current) if reference.kind == current.kind else None
    return None


def _decision(tests: Sequence[Test], min_effect: float) -> Decision:
    """The most significant test decides, times the number of tests. Effects too small to matter decide last."""
    if not tests:
        # Both samples hold the same single value.
        return Decision(effect=0.0, p_value=1.0)
    first = min(tests, key=lambda test: (test.effect < min_effect, test.p_value, -test.effect))
    return Decision(first.name, first.effect, min(1.0, len(tests) * first.p_value), len(tests))


def _missing_rate(reference: ColumnProfile, current: ColumnProfile) -> list[Test]:
    pair = Pair(
        *(np.asarray([column.valid, column.rows - column.valid], dtype=float) for column in (reference, current))
    )
    # There is nothing to test if neither has a missing value, or neither has any other.
    if not pair.total.all():
        return []
    return [Test("missing", abs(_missing(current) - _missing(reference)), significance.fisher(pair))]


def _missing(column: ColumnProfile) -> float:
    return (column.rows - column.valid) / column.rows if column.rows else 0.0


def _remark(reference: ColumnProfile, current: ColumnProfile) -> str | None:
    """What is unusual about the current column."""
    if isinstance(current, EmbeddingColumn) and isinstance(reference, EmbeddingColumn) and current.odd:
        return f"{current.odd:,} rows are not lists of {reference.dimension:,} finite numbers"
    if current.rows and not current.valid:
        return "no row has a value"
    if isinstance(current, TimestampColumn) and current.outside:
        return f"{current.outside:,} rows lie outside the years 1 to 9999"
    if not isinstance(current, NumericColumn) or not isinstance(reference, NumericColumn):
        return None
    if current.infinite:
        return f"{current.infinite:,} rows are infinite" if current.infinite > 1 else "1 row is infinite"
    return f"every row has the value {current.min:.4g}" if _became_constant(reference, current) else None


def _broken(reference: ColumnProfile, current: ColumnProfile) -> bool:
    if not current.valid:
        return bool(current.rows and reference.valid)
    if isinstance(current, NumericColumn) and isinstance(reference, NumericColumn):
        return _became_constant(reference, current)
    return False


def _became_constant(reference: NumericColumn, current: NumericColumn) -> bool:
    return current.valid > 1 and current.min == current.max and reference.min != reference.max


def _new_infinite(reference: ColumnProfile, current: ColumnProfile) -> int:
    """The number of infinite values, if the reference has none."""
    if isinstance(reference, NumericColumn) and isinstance(current, NumericColumn) and not reference.infinite:
        return current.infinite
    return 0
