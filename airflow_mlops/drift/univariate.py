"""Univariate drift: each column of a window is compared separately with the same column of the reference.

All measures and tests are computed from the profiles of window and reference. Several tests decide whether a column has
drifted: the tests for the kind of the column (modules :mod:`numeric`, :mod:`categorical`, :mod:`text`,
:mod:`timestamps` and :mod:`embeddings`), and Fisher's exact test of the share of null rows. The p-value of the column
is the smallest p-value of these tests times the number of tests (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from airflow_mlops.core.counts import counted
from airflow_mlops.core.numbers import rounded
from airflow_mlops.drift import categorical, embeddings, numeric, text, timestamps
from airflow_mlops.drift.breakage import fault, is_constant
from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.drift.findings import ChangedShare, Drift, DriftTests
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
    """The combined result of all tests of one column.

    :class:`~airflow_mlops.drift.findings.Drift` explains the fields.
    """

    test: str | None = None
    effect: float | None = None
    p_value: float | None = None
    tests: int = 0
    changed: ChangedShare | None = None


def compare(reference: Profile, current: Profile, thresholds: DriftThresholds) -> list[Drift]:
    """Measure the drift of every column that exists in both profiles, and rank the columns by :func:`ranked`.

    :param reference: profile of the reference
    :param current: profile of the window
    :param thresholds: the settings that decide which changes count as drift
    :return: the drift of each column, strongest first
    """
    return ranked(decide(measure(reference, current, thresholds), thresholds))


def measure(
    reference: Profile,
    current: Profile,
    thresholds: DriftThresholds,
    reference_name: str = TRAINING,
    zone: str | None = None,
    constant: Mapping[str, float] | None = None,
    designs: Mapping[str, float] | None = None,
) -> list[Drift]:
    """Measure and test each column that exists in both profiles, separately from the other columns.

    :param reference: profile of the reference
    :param current: profile of the window
    :param thresholds: ``min_rows`` and ``min_effect`` are used here
    :param reference_name: ``training``, or the label of earlier windows, such as ``2012-12``
    :param zone: time zone of the events, for the change to and from summer time; ``None`` if it is unknown
    :param constant: how often each numeric column was constant, by column name. The training data are divided into
        calendar spans of about the length of the window, and the value is the share of spans in which the column had a
        single value. For a column without an entry, only the distribution of its values decides whether it is frozen,
        see :mod:`airflow_mlops.drift.breakage`
    :param designs: the design effect of each column, if rows are clustered (:mod:`airflow_mlops.drift.clusters`)
    :return: the drift of each column; :func:`decide` decides which columns have drifted
    """
    return [
        _column(
            name,
            column,
            current.columns[name],
            thresholds,
            reference_name,
            zone,
            (constant or {}).get(name),
            (designs or {}).get(name, 1.0),
        )
        for name, column in reference.columns.items()
        if name in current.columns
    ]


def decide(drifts: Sequence[Drift], thresholds: DriftThresholds) -> list[Drift]:
    """Decide which columns of a window have drifted.

    The false-alarm rate applies to all columns together. A column with an effect below ``min_effect`` has not drifted,
    even if the effect is significant, unless the odds of a value changed by a large factor
    (:mod:`airflow_mlops.drift.categorical`). A column with too small a change enters the correction for multiple tests
    with a p-value of 1, so that it does not make other columns more significant.

    :param drifts: the measured drift of each column, from :func:`measure`
    :param thresholds: ``false_alarm_rate`` and ``min_effect`` are used here
    :return: the same columns in the same order, each with the decision
    """
    p_values = [
        drift.p_value if _counts(drift, thresholds.min_effect) else 1.0 for drift in drifts if drift.p_value is not None
    ]
    adjusted = iter(significance.adjusted(p_values))
    return [
        drift if drift.p_value is None else drift.decided(next(adjusted), thresholds.false_alarm_rate)
        for drift in drifts
    ]


def _counts(drift: Drift, min_effect: float) -> bool:
    return drift.changed is not None or (drift.effect is not None and drift.effect >= min_effect)


def ranked(drifts: Sequence[Drift]) -> list[Drift]:
    """Sort columns by their drift, strongest first.

    Columns that have drifted come before the others. Within both groups, the order is by effect times importance, or by
    effect alone if the importance is unknown. Columns that were not measured come last.
    """

    def order(drift: Drift) -> tuple[bool, float, float]:
        effect = -1.0 if drift.effect is None else drift.effect
        weight = 1.0 if drift.importance is None or drift.effect is None else drift.importance
        return drift.drifted, effect * weight, effect

    return sorted(drifts, key=order, reverse=True)


def tests_summary(drifts: Sequence[Drift], thresholds: DriftThresholds) -> DriftTests:
    """Return the numbers of tested columns and of tests, with the settings of the tests.

    :param drifts: the drift of each column
    :param thresholds: the settings of the tests
    """
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
    reference_name: str,
    zone: str | None,
    constant: float | None,
    design: float,
) -> Drift:
    if isinstance(reference, EmbeddingColumn) and isinstance(current, EmbeddingColumn):
        current = current.with_dimension(reference.dimension)
    when = at_reference(reference_name)
    comparison, decision, note = Comparison(), Decision(), _too_little(reference, current, thresholds.min_rows, when)
    if note is None:
        found = _compared(reference, current if current.valid else all_missing(reference, current.rows), zone, design)
        if found is None:
            note = f"not measured: it was {reference.kind} {when} and is {current.kind} now"
        else:
            comparison = replace(found, tests=[*found.tests, *_missing_rate(reference, current, design)])
            decision = _decision(comparison.tests, thresholds.min_effect)
            note = comparison.note or _remark(reference, current)
    broken = fault(reference, current, when, comparison.ks, constant)
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
        broken=broken is not None,
        fault=broken,
        p_values={**comparison.measure_p_values, **{test.name: test.p_value for test in comparison.tests}},
        test=decision.test,
        effect=decision.effect,
        tests=decision.tests,
        changed=decision.changed,
        p_value=decision.p_value,
        note=note,
        bins=comparison.bins,
    )


def _too_little(reference: ColumnProfile, current: ColumnProfile, min_rows: int, when: str) -> str | None:
    """Return a note if one of the columns has too few rows, or no value, to measure drift; otherwise ``None``."""
    if current.rows < min_rows:
        return f"not measured: {counted(current.rows, 'row')}, {min_rows:,} are needed"
    if reference.rows < min_rows:
        return f"not measured: {counted(reference.rows, 'row')} {when}, {min_rows:,} are needed"
    return None if reference.valid else f"not measured: no row had a value {when}"


def _compared(reference: ColumnProfile, current: ColumnProfile, zone: str | None, design: float) -> Comparison | None:
    """Compare two columns by the tests for their kind. Return ``None`` if the columns are of different kinds."""
    if isinstance(reference, NumericColumn) and isinstance(current, NumericColumn):
        return numeric.compare(reference, current, design)
    if isinstance(reference, CategoricalColumn) and isinstance(current, CategoricalColumn):
        if isinstance(reference, TextColumn) and reference.free:
            return text.compare(reference, current, design)
        return categorical.compare(reference, current, design)
    if isinstance(reference, EmbeddingColumn) and isinstance(current, EmbeddingColumn):
        return embeddings.compare(reference, current, design)
    if isinstance(reference, TimestampColumn) and isinstance(current, TimestampColumn):
        return timestamps.compare(reference, current, zone, design) if reference.kind == current.kind else None
    return None


def _decision(tests: Sequence[Test], min_effect: float) -> Decision:
    """Choose the test that decides for a column: the test with the smallest p-value.

    The p-value is multiplied by the number of tests (Bonferroni). A test with too small a change is chosen only if the
    changes of all tests are too small.
    """
    if not tests:
        # No test applies, because all rows of both samples have the same value.
        return Decision(effect=0.0, p_value=1.0)
    first = min(tests, key=lambda test: (not test.counts(min_effect), test.p_value, -test.effect))
    changed = first.changed if first.effect < min_effect else None
    return Decision(first.name, first.effect, min(1.0, len(tests) * first.p_value), len(tests), changed)


def _missing_rate(reference: ColumnProfile, current: ColumnProfile, design: float) -> list[Test]:
    pair = Pair(
        *(np.asarray([column.valid, column.rows - column.valid], dtype=float) for column in (reference, current))
    )
    # There is nothing to test if no row is null in either sample, or if all rows are null in both samples.
    if not pair.total.all():
        return []
    return [Test("missing", abs(_missing(current) - _missing(reference)), significance.fisher(pair.thinned(design)))]


def _missing(column: ColumnProfile) -> float:
    return (column.rows - column.valid) / column.rows if column.rows else 0.0


def _remark(reference: ColumnProfile, current: ColumnProfile) -> str | None:
    """Describe what is unusual about the column in the window. Return ``None`` if nothing is unusual."""
    if isinstance(current, EmbeddingColumn) and isinstance(reference, EmbeddingColumn) and current.odd:
        return f"{counted(current.odd, 'row')} without {reference.dimension:,} finite numbers"
    if current.rows and not current.valid:
        return "no row has a value"
    if isinstance(current, TimestampColumn) and current.outside:
        return f"{counted(current.outside, 'row')} outside the years 1 to 9999"
    if not isinstance(current, NumericColumn) or not isinstance(reference, NumericColumn):
        return None
    if current.infinite:
        return f"infinite in {counted(current.infinite, 'row')}"
    if not is_constant(reference, current):
        return None
    # A whole number may be a code, so it keeps its digits.
    value = current.max
    assert value is not None
    return f"every row has the value {f'{value:.10g}' if value.is_integer() else rounded(value)}"


def _new_infinite(reference: ColumnProfile, current: ColumnProfile) -> int:
    """Return the number of infinite values in the window if the reference has no infinite value, otherwise 0."""
    if isinstance(reference, NumericColumn) and isinstance(current, NumericColumn) and not reference.infinite:
        return current.infinite
    return 0
