"""The drift of a column of categories or booleans.

Pearson's chi-square test finds a change of the shares, another one values that the reference never had. Where a column
has more values than are kept, the shares are those of 64 groups of values, made by hash, and values that the reference
never had are looked for in a sample of values. No value is in another group or less likely in the sample for being new,
so p-values stay valid; a change is found later.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from airflow_mlops.drift.divergence import binned_measures, bins
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.categorical import TOP, CategoricalColumn
from airflow_mlops.profiles.columns.hashing import on_one_sample
from airflow_mlops.profiles.significance import Pair, Test

_SHOWN = 12


def compare(reference: CategoricalColumn, current: CategoricalColumn) -> tuple[dict[str, Any], list[Test]]:
    """The measures of a :class:`~airflow_mlops.drift.findings.Drift`, and the tests that decide."""
    known, seen = reference.counts(), current.counts()
    exact = reference.exact and current.exact
    candidates = [*known, *seen] if exact else [value for column in (reference, current) for value, _ in column.top]
    # By their rows in both together: the most frequent of one are frequent there partly by chance.
    together = {value: known.get(value, 0) + seen.get(value, 0) for value in candidates}
    values = sorted(together, key=lambda value: (-together[value], value))[:TOP]
    before, now = _counted(reference, known, values), _counted(current, seen, values)
    if exact:
        share, groups = 1.0, Pair(before, now)
        every = Pair(*(np.asarray([rows.get(value, 0) for value in together], dtype=float) for rows in (known, seen)))
    else:
        old, new = reference.hashes(), current.hashes()
        groups = Pair(
            np.asarray([*old.buckets, reference.missing], float), np.asarray([*new.buckets, current.missing], float)
        )
        share, every = on_one_sample(old, new)
    found = binned_measures(*groups)
    found["unseen"] = min(1.0, float(every.now[every.before == 0].sum() / share / current.rows))
    tests = []
    if current.valid:
        pair = Pair(*(rows[:-1] for rows in groups))
        apart = float(np.abs(pair.before / pair.before.sum() - pair.now / pair.now.sum()).sum() / 2)
        found["total_variation"] = apart
        if (pair.total > 0).sum() > 1:
            tests.append(Test("chi_square", apart, significance.chi_square(pair)))
        tests.append(Test("unseen", found["unseen"], significance.never_seen(every)))
    common = np.argsort(-(before[:-2] / reference.rows + now[:-2] / current.rows), kind="stable")
    shown, rest = common[:_SHOWN], common[_SHOWN:]
    grouped = [np.asarray([*rows[shown], rows[rest].sum() + rows[-2], rows[-1]]) for rows in (before, now)]
    return {**found, "bins": bins([*(values[index] for index in shown), "others", "missing"], *grouped)}, tests


def _counted(column: CategoricalColumn, rows: dict[str, int], values: list[str]) -> Floats:
    counts = [rows.get(value, 0) for value in values]
    return np.asarray([*counts, max(0, column.valid - sum(counts)), column.missing], dtype=float)
