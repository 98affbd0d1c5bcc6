"""Drift of categorical and boolean columns.

The effect of a change is a share of rows, so a change of a rare value has a small effect. If a value grows from 1% to
2% of the rows, the effect is only 1%, although the odds of the value have doubled. A change therefore also counts as
drift if three conditions hold: the odds of a value changed by a factor of at least 1.5; the value has 1% to 99% of the
rows in one of the samples; and the change of this value alone is significant (Fisher's exact test at 5%,
Bonferroni-corrected for the number of values with such shares). The chi-square test still decides whether the column
has drifted, so the false-alarm rate is unchanged.
"""

from __future__ import annotations

import math

import numpy as np

from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.drift.divergence import bins, divergence
from airflow_mlops.drift.findings import ChangedShare
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.categorical import TOP, CategoricalColumn
from airflow_mlops.profiles.columns.hashing import on_one_sample
from airflow_mlops.profiles.significance import Pair

# Number of bars in the histogram, and number of new or disappeared values that are listed.
_DRAWN, _LISTED = 12, 5
# A value counts as disappeared if the probability that the window lacks it by chance is below this limit.
_CHANCE = 0.001
# A change of a value counts even if its effect is small, if three conditions hold: the odds ratio is at least
# _ODDS_RATIO, the share of the value is from _LEAST_SHARE to 1 - _LEAST_SHARE in one of the samples, and the change is
# significant at _LEVEL.
_ODDS_RATIO, _LEAST_SHARE, _LEVEL = 1.5, 0.01, 0.05


def compare(reference: CategoricalColumn, current: CategoricalColumn, design: float = 1.0) -> Comparison:
    """Compare two categorical columns, or two boolean columns.

    :param reference: profile of the reference column, with at least one non-null value
    :param current: profile of the column in the window
    :param design: the design effect of clustered rows, see :mod:`airflow_mlops.drift.clusters`
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
    found = divergence(groups, design)
    unseen = min(1.0, float(every.now[every.before == 0].sum() / share / current.rows))
    total_variation, tests = None, []
    if current.valid:
        pair = Pair(*(rows[:-1] for rows in groups))
        total_variation = float(np.abs(pair.before / pair.before.sum() - pair.now / pair.now.sum()).sum() / 2)
        if (pair.total > 0).sum() > 1:
            changed = _changed(values, pair, design) if exact else None
            tests.append(Test("chi_square", total_variation, significance.chi_square(pair.thinned(design)), changed))
        tests.append(Test("unseen", unseen, significance.unseen_values(every.thinned(design))))
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


def _changed(values: list[str], pair: Pair, design: float) -> ChangedShare | None:
    """Return the value with the largest odds ratio among the values whose share changed much and significantly.

    :param values: the k most frequent values
    :param pair: the row counts of these values, followed by the count of all other values, each of shape (k + 1,)
    :param design: the design effect of clustered rows
    :return: ``None`` if no share changed much and significantly
    """
    n, m = pair.before.sum(), pair.now.sum()
    shares = [(float(old / n), float(new / m)) for old, new in zip(*pair, strict=True)]
    # A value has the same odds ratio as all other values together. Therefore the share of the value and the share of
    # all other values must both be large enough, in at least one of the samples.
    eligible = [
        index for index in range(len(values)) if max(min(share, 1 - share) for share in shares[index]) >= _LEAST_SHARE
    ]
    found: list[tuple[float, float, int]] = []
    for index in eligible:
        ratio = significance.odds_ratio(*shares[index])
        if ratio >= _ODDS_RATIO:
            old, new = pair.before[index], pair.now[index]
            table = Pair(np.asarray([old, n - old]), np.asarray([new, m - new]))
            if significance.fisher(table.thinned(design)) * len(eligible) <= _LEVEL:
                # If two values have the same odds ratio, such as yes and no, the rarer value is returned.
                found.append((round(ratio, 9), -sum(shares[index]), index))
    if not found:
        return None
    ratio, _, index = max(found)
    old, new = shares[index]
    return ChangedShare(
        value=values[index], reference=old, current=new, odds_ratio=ratio if math.isfinite(ratio) else None
    )


def _counted(column: CategoricalColumn, rows: dict[str, int], values: list[str]) -> Floats:
    """Return the row counts of each of ``values``, of all other values together, and of null.

    :param column: profile of the column
    :param rows: number of rows of each value
    :param values: the values that are counted separately
    :return: shape (len(values) + 2,)
    """
    counts = [rows.get(value, 0) for value in values]
    return np.asarray([*counts, max(0, column.valid - sum(counts)), column.missing], dtype=float)


Shares = list[tuple[str, float]]


def _new_and_disappeared(
    reference: CategoricalColumn, current: CategoricalColumn, known: dict[str, int], seen: dict[str, int]
) -> tuple[Shares, Shares]:
    """Return the most frequent new values and the most frequent disappeared values, with their shares of rows.

    Both lists are empty if one of the profiles does not keep all values, because it is then unknown which values
    occurred. They are also empty if the window has no non-null value.

    :param reference: profile of the reference column
    :param current: profile of the column in the window
    :param known: number of rows of each value in the reference
    :param seen: number of rows of each value in the window
    :return: two items: new values with their shares in the window, and disappeared values with their shares in the
        reference
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
