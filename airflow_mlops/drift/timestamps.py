"""The drift of a column of timestamps or dates: whether things happen at other hours, or on other weekdays, than before.

A window of one day has one weekday, and April 2013 has five Mondays and Tuesdays where the other weekdays come four
times: neither is drift. So rows are compared hour of the week by hour of the week, and where one of the two samples
passes an hour more often than the other, for their lengths, its rows there are scaled down. An hour that one of them
never passes is left out of both. Hours are then compared over all days, and weekdays over all hours.

Scaling a count down shrinks its variance more than its mean, so that the tests err on the side of too few alarms.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from airflow_mlops.drift.divergence import jensen_shannon, psi
from airflow_mlops.drift.findings import Bin
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.timestamps import DAYS, HOURS, TimestampColumn
from airflow_mlops.profiles.significance import Pair, Test

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def compare(reference: TimestampColumn, current: TimestampColumn) -> tuple[dict[str, Any], list[Test]]:
    """The measures of a :class:`~airflow_mlops.drift.findings.Drift`, and the tests that decide."""
    alike = _alike(reference, current)
    sums = {"weekday": Pair(*(counts.sum(axis=1) for counts in alike))}
    names: dict[str, list[str]] = {"weekday": list(_WEEKDAYS)}
    if reference.kind == "timestamp":
        sums = {"hour": Pair(*(counts.sum(axis=0) for counts in alike)), **sums}
        names["hour"] = [f"{hour:02}:00" for hour in range(HOURS)]
    tests = []
    found: dict[str, Any] = {"p_values": {}}
    for name, pair in sums.items():
        # Where they have no two hours or weekdays in common, there is nothing to compare.
        if (pair.total > 0).sum() < 2 or not pair.before.sum() or not pair.now.sum():
            continue
        p, q = (counts / counts.sum() for counts in pair)
        tests.append(Test(name, float(np.abs(p - q).sum() / 2), significance.chi_square(pair)))
        if "psi" not in found:
            found |= {"psi": float(psi(*pair)), "jensen_shannon": float(jensen_shannon(*pair))}
            p_values = significance.measures(pair, (psi, jensen_shannon))
            found["p_values"] = dict(zip(("psi", "jensen_shannon"), p_values, strict=True))
    return {**found, "bins": [bar for name, pair in sums.items() for bar in _bars(names[name], pair)]}, tests


def _alike(reference: TimestampColumn, current: TimestampColumn) -> tuple[Floats, Floats]:
    """Rows of both by weekday and hour, shape (7, 24) or (7, 1), as if each hour came equally often in both."""
    counts = [np.asarray(column.counts, dtype=float).reshape(DAYS, -1) for column in (reference, current)]
    before, now = (_passed(column) for column in (reference, current))
    both = (before > 0) & (now > 0)
    if not both.any():
        return np.zeros_like(counts[0]), np.zeros_like(counts[1])
    # How much more often than the average hour each came now, for the times that it came before.
    ratio = np.ones_like(now)
    ratio[both] = now[both] / before[both] * (before[both].sum() / now[both].sum())
    return counts[0] * both * np.minimum(1, ratio), counts[1] * both * np.minimum(1, 1 / ratio)


def _passed(column: TimestampColumn) -> Floats:
    """How often each hour of the week came between the oldest and the newest row."""
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
