"""Drift of categorical and boolean columns.

Pearson's chi-square test detects changed shares of values. A second test detects values that do not occur in the
reference. If a column has more distinct values than its profile keeps, the values are divided into 64 groups by their
hashes, and the chi-square test compares the shares of these groups. The test for unseen values then uses a sample of
the values. Neither the groups nor the sample depend on whether a value is new, so p-values stay valid, and the tests
only lose power.
"""

from __future__ import annotations

import math

import numpy as np

from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.drift.divergence import bins, divergence
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.categorical import TOP, CategoricalColumn
from airflow_mlops.profiles.columns.hashing import on_one_sample
from airflow_mlops.profiles.significance import Pair

# Number of bars in the histogram, and number of new or disappeared values that are listed.
_DRAWN, _LISTED = 12, 5
# A value counts as disappeared if the probability that the window lacks it by chance is below this limit.
_CHANCE = 0.001


def compare(reference: CategoricalColumn, current: CategoricalColumn) -> Comparison:
    """Compare two categorical columns, or two boolean columns.

    :param reference: profile of the reference column, with at least one non-null value
    :param current: profile of the column in the window
    """
    known, seen = reference.counts(), current.counts()
    exact = reference.exact and current.exact
    candidates = [*known, *seen] if exact else [value for column in (reference, current) for value, _ in column.top]
    # Values are ordered by their frequency in both samples together, because the order in one sample depends on chance.
    together = {value: known.get(value, 0) + seen.get(value, 0) for value in candidates}
    values = sorted(together, key=lambda value: (-together[value], value))[:TOP]
    shown = Pair(_counted(reference, known, values), _counted(current, seen, values))
    if exact:
        share, groups = 1.0, shown
        every = Pair(*(np.asarray([rows.get(value, 0) for value in together], dtype=float) for rows in (known, seen)))
    else:
        old, new = reference.hashes(), current.hashes()
        groups = Pair(
            np.asarray([*old.buckets, reference.missing], float), np.asarray([*new.buckets, current.missing], float)
        )
        share, every = on_one_sample(old, new)
    found = divergence(groups)
    unseen = min(1.0, float(every.now[every.before == 0].sum() / share / current.rows))
    total_variation, tests = None, []
    if current.valid:
        pair = Pair(*(rows[:-1] for rows in groups))
        total_variation = float(np.abs(pair.before / pair.before.sum() - pair.now / pair.now.sum()).sum() / 2)
        if (pair.total > 0).sum() > 1:
            tests.append(Test("chi_square", total_variation, significance.chi_square(pair)))
        tests.append(Test("unseen", unseen, significance.unseen_values(every)))
    new_values, disappeared = _new_and_disappeared(reference, current, known, seen)
    common = np.argsort(-(shown.before[:-2] / reference.rows + shown.now[:-2] / current.rows), kind="stable")
    drawn, rest = common[:_DRAWN], common[_DRAWN:]
    bars = Pair(*(np.asarray([*rows[drawn], rows[rest].sum() + rows[-2], rows[-1]]) for rows in shown))
    return Comparison(
        psi=found.psi,
        jensen_shannon=found.jensen_shannon,
        total_variation=total_variation,
        unseen=unseen,
        new_values=new_values,
        gone_values=disappeared,
        measure_p_values=found.p_values,
        tests=tests,
        bins=bins([*(values[index] for index in drawn), "others", "missing"], bars),
    )


def _counted(column: CategoricalColumn, rows: dict[str, int], values: list[str]) -> Floats:
    """Count the rows of each of ``values``, of all other values, and the null rows.

    :return: shape (len(values) + 2,)
    """
    counts = [rows.get(value, 0) for value in values]
    return np.asarray([*counts, max(0, column.valid - sum(counts)), column.missing], dtype=float)


Shares = list[tuple[str, float]]


def _new_and_disappeared(
    reference: CategoricalColumn, current: CategoricalColumn, known: dict[str, int], seen: dict[str, int]
) -> tuple[Shares, Shares]:
    """Return the most frequent new values and the most frequent disappeared values, with their shares of rows.

    Both lists are empty if one of the profiles does not keep every value, because a value that the profile does not
    keep may still have occurred.
    """
    if reference.error or current.error or not current.valid:
        return [], []
    new = {value: rows / current.rows for value, rows in seen.items() if value not in known}
    disappeared = {
        value: rows / reference.rows
        for value, rows in known.items()
        if value not in seen and _expected(rows / reference.valid, current.valid)
    }
    return _most_frequent(new), _most_frequent(disappeared)


def _expected(share: float, rows: int) -> bool:
    """Return whether a sample of ``rows`` rows would almost certainly include a value with this share of rows."""
    return share >= 1 or rows * math.log1p(-share) < math.log(_CHANCE)


def _most_frequent(shares: dict[str, float]) -> Shares:
    return sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:_LISTED]
