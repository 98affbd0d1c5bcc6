"""Drift of timestamp and date columns: whether rows fall on other hours of the day or other weekdays than before.

The passing of time is not drift, and neither is the calendar: a window of one day has one weekday, and April 2013 has
five Mondays and Tuesdays but four of each other weekday. Rows are therefore compared by hour of the week. If the time
span of one sample passes an hour of the week relatively more often than that of the other, its rows in that hour are
scaled down. Hours that one of the spans never passes are left out of both. Hours of the day are then compared over all
weekdays, and weekdays over all hours.

Scaling counts down shrinks their variance more than their mean, so the tests are conservative.
"""

from __future__ import annotations

import numpy as np

from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.drift.divergence import Divergence, divergence
from airflow_mlops.drift.findings import Bin
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.timestamps import DAYS, HOURS, TimestampColumn
from airflow_mlops.profiles.significance import Pair

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def compare(reference: TimestampColumn, current: TimestampColumn) -> Comparison:
    """Compare two timestamp columns, or two date columns. The measures are those of hours (dates: of weekdays)."""
    aligned = _aligned(reference, current)
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
        tests.append(Test(name, float(np.abs(p - q).sum() / 2), significance.chi_square(pair)))
        measured = measured or divergence(pair)
    return Comparison(
        psi=measured.psi if measured else None,
        jensen_shannon=measured.jensen_shannon if measured else None,
        measure_p_values=measured.p_values if measured else {},
        tests=tests,
        bins=[bar for name, pair in sums.items() for bar in _bars(labels[name], pair)],
    )


def _aligned(reference: TimestampColumn, current: TimestampColumn) -> tuple[Floats, Floats]:
    """Rows of both by weekday and hour, shape (7, 24) or (7, 1), as if both spans passed each hour equally often."""
    counts = [np.asarray(column.counts, dtype=float).reshape(DAYS, -1) for column in (reference, current)]
    before, now = (_passed(column) for column in (reference, current))
    both = (before > 0) & (now > 0)
    if not both.any():
        return np.zeros_like(counts[0]), np.zeros_like(counts[1])
    # How often the current span passes each hour for each time that the reference's passes it, over the average hour.
    ratio = np.ones_like(now)
    ratio[both] = now[both] / before[both] * (before[both].sum() / now[both].sum())
    return counts[0] * both * np.minimum(1, ratio), counts[1] * both * np.minimum(1, 1 / ratio)


def _passed(column: TimestampColumn) -> Floats:
    """How often each hour of the week occurs between the oldest and the newest row, shape (7, 24) or (7, 1)."""
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
