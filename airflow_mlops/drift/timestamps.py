"""Drift of timestamp and date columns: changes of the shares of rows per hour of the day and per weekday.

Later times and differences that follow from the calendar are not drift. For example, a window of one day has a single
weekday, and April 2013 has five Mondays and Tuesdays but four of each other weekday. Rows are therefore compared by
hour of the week. If an hour of the week has a larger share of the time span of one sample, the row count of this hour
is scaled down in that sample. Hours of the week that do not occur in both time spans are left out. The hours of the day
are then compared over all weekdays, and the weekdays over all hours.

Summer time is not drift either. If the hours of the day have changed, and the two time spans have different shares of
summer time, the hours are compared a second time with equal shares (:mod:`airflow_mlops.drift.summer_time`). The second
comparison is reported if it explains at least half of the change.

Scaling and mixing reduce the variance of the counts more than the mean, so the tests are conservative.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from airflow_mlops.drift import summer_time
from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.drift.divergence import Divergence, divergence
from airflow_mlops.drift.findings import Bin
from airflow_mlops.drift.summer_time import SummerTime
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.timestamps import DAYS, HOURS, TimestampColumn
from airflow_mlops.profiles.significance import Pair

# Summer time is considered if the p-value of the change of the hours is at most this.
_UNLIKELY = 0.05
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def compare(
    reference: TimestampColumn, current: TimestampColumn, zone: str | None = None, design: float = 1.0
) -> Comparison:
    """Compare two timestamp columns, or two date columns.

    PSI and Jensen-Shannon distance are computed from the hours of the day, or from the weekdays for date columns.

    :param reference: profile of the reference column, with at least one value
    :param current: profile of the column in the window
    :param zone: time zone of the events; ``None`` if it is unknown
    :param design: the design effect of clustered rows, see :mod:`airflow_mlops.drift.clusters`
    """
    found = _compare(reference, current, design)
    hours = _hours(found)
    if hours is None or hours.p_value > _UNLIKELY:
        return found
    most = hours.effect / 2
    for summer in summer_time.differing(reference, current, zone):
        other = _compare(reference, current, design, summer)
        after = _hours(other)
        if after is not None and after.effect < most:
            found = replace(other, note=f"compared after removing the clock change of {summer.zone}")
            most = after.effect
    return found


def _hours(comparison: Comparison) -> Test | None:
    """Return the test of the hours of the day; ``None`` if the hours were not tested."""
    return next((test for test in comparison.tests if test.name == "hour"), None)


def _compare(
    reference: TimestampColumn, current: TimestampColumn, design: float, summer: SummerTime | None = None
) -> Comparison:
    """Compare two columns.

    :param design: the design effect of clustered rows
    :param summer: shares of summer time, to compare the columns as if both had the same share; ``None`` to ignore
        summer time
    """
    aligned = _aligned(reference, current, summer)
    sums = {"weekday": Pair(*(counts.sum(axis=1) for counts in aligned))}
    labels: dict[str, list[str]] = {"weekday": list(_WEEKDAYS)}
    if reference.kind == "timestamp":
        sums = {"hour": Pair(*(counts.sum(axis=0) for counts in aligned)), **sums}
        labels["hour"] = [f"{hour:02}:00" for hour in range(HOURS)]
    tests: list[Test] = []
    measured: Divergence | None = None
    for name, pair in sums.items():
        # With fewer than two hours or weekdays in common there is nothing to compare.
        if (pair.total > 0).sum() < 2 or not pair.before.sum() or not pair.now.sum():
            continue
        p, q = (counts / counts.sum() for counts in pair)
        tests.append(Test(name, float(np.abs(p - q).sum() / 2), significance.chi_square(pair.thinned(design))))
        measured = measured or divergence(pair, design)
    return Comparison(
        psi=measured.psi if measured else None,
        jensen_shannon=measured.jensen_shannon if measured else None,
        measure_p_values=measured.p_values if measured else {},
        tests=tests,
        bins=[bar for name, pair in sums.items() for bar in _bars(labels[name], pair)],
    )


def _aligned(
    reference: TimestampColumn, current: TimestampColumn, summer: SummerTime | None = None
) -> tuple[Floats, Floats]:
    """Scale the row counts of both columns as if each hour of the week occurred equally often in both time spans.

    Hours of the week that do not occur in both time spans get a count of 0. For dates, weekdays replace the hours.

    :param summer: shares of summer time in both columns, to compare the columns as if both had the same share; ``None``
        to ignore summer time
    :return: two items: the counts of the reference and the counts of the window, each by weekday and hour of the day,
        shape (7, 24), or (7, 1) for dates
    """
    counts = [np.asarray(column.counts, dtype=float).reshape(DAYS, -1) for column in (reference, current)]
    before, now = (_passed(column) for column in (reference, current))
    if summer is not None:
        # Each column is mixed with the share of summer time in the other column.
        counts = [summer_time.mixed(counts[0], summer.current), summer_time.mixed(counts[1], summer.reference)]
        before, now = summer_time.mixed(before, summer.current), summer_time.mixed(now, summer.reference)
    both = (before > 0) & (now > 0)
    if not both.any():
        return np.zeros_like(counts[0]), np.zeros_like(counts[1])
    # How often each hour of the week occurs in the window, divided by how often it occurs in the reference. The result
    # is divided by the same ratio for all hours together.
    ratio = np.ones_like(now)
    ratio[both] = now[both] / before[both] * (before[both].sum() / now[both].sum())
    return counts[0] * both * np.minimum(1, ratio), counts[1] * both * np.minimum(1, 1 / ratio)


def _passed(column: TimestampColumn) -> Floats:
    """Count how often each hour of the week occurs between the oldest and the newest row.

    :return: shape (7, 24), or (7, 1) for dates
    """
    width = len(column.counts)
    if column.span is None:
        return np.zeros((DAYS, width // DAYS))
    first, last = column.span
    weeks, rest = divmod(last - first + 1, width)
    some = np.bincount((first + np.arange(rest)) % width, minlength=width)
    return np.asarray(weeks + some, dtype=float).reshape(DAYS, -1)


def _bars(labels: list[str], pair: Pair) -> list[Bin]:
    p, q = (counts / max(1.0, counts.sum()) for counts in pair)
    return [
        Bin(label=label, reference=float(p[index]), current=float(q[index]))
        for index, label in enumerate(labels)
        if pair.total[index]
    ]
