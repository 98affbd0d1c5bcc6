"""Since when performance, or the drift of the features that matter most, has stood at another level."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from airflow_mlops.drift.findings import Drift
from airflow_mlops.performance.change_points import splits
from airflow_mlops.performance.findings import Change, Performance
from airflow_mlops.policy.findings import Findings

FEATURES, IMPORTANCE = 5, 0.05
"""Of the drift of how many features changes are looked for; features with at least this share of the importance."""


class _Point(NamedTuple):
    found: Findings
    value: float
    error: float


def changes(history: Sequence[Findings], rate: float) -> list[Change]:
    """Changes of realised performance, and of the drift of the features that matter most.

    Windows are compared that the same version made the predictions of, as a new one is another model with a reference of
    its own. Performance is that which could be judged. The level of a feature's drift is its effect, but at most the floor
    where it has not drifted, as even an unchanged feature of few rows has one; the standard error of such a share of rows is at most half over the root of the rows.

    :param history: by time; the last one is the window that is looked at
    :param rate: how often any change may be found although nothing has changed
    :return: performance first, then by time
    """
    last = history[-1]
    if last.scored_by is None:
        return []
    same = [found for found in history if found.scored_by and found.scored_by.version == last.scored_by.version]
    heavy = [drift for drift in last.features if (drift.importance or 0) >= IMPORTANCE]
    heavy = sorted(heavy, key=lambda drift: -(drift.importance or 0))[:FEATURES]
    performance = _performance(same)
    series: list[tuple[str, str, list[_Point], float]] = []
    if performance is not None:
        measured, points = performance
        series.append(("performance", measured.metric, points, _floor(measured, last)))
    series += [("drift", item.column, _drift(same, item.column), last.policy.min_effect) for item in heavy]
    each = rate / max(1, len(series))
    every = [
        Change(
            kind=kind,
            of=name,
            window=points[split.at].found.window,
            before=split.before,
            after=split.after,
            p_value=split.p_value,
        )
        for kind, name, points, floor in series
        for split in splits([point.value for point in points], [point.error for point in points], each, floor)
    ]
    return sorted(every, key=lambda change: (change.kind != "performance", change.window.start))


def _performance(history: Sequence[Findings]) -> tuple[Performance, list[_Point]] | None:
    judged = [(found, found.performance) for found in history if found.performance and found.unmeasured is None]
    if not judged:
        return None
    latest = judged[-1][1]
    return latest, [
        _Point(found, measured.value, max(measured.high - measured.value, measured.value - measured.low) / _z(found))
        for found, measured in judged
        if measured.metric == latest.metric
    ]


def _drift(history: Sequence[Findings], column: str) -> list[_Point]:
    def of(found: Findings) -> Drift | None:
        return next((drift for drift in found.features if drift.column == column), None)

    return [
        _Point(
            found, drift.effect if drift.drifted else min(drift.effect, found.policy.min_effect), 0.5 / found.rows**0.5
        )
        for found in history
        if (drift := of(found)) is not None and drift.effect is not None
    ]


def _floor(measured: Performance, last: Findings) -> float:
    """What the policy tolerates: a difference where more is better, a share of the reference elsewhere."""
    tolerance = last.policy.tolerance
    return tolerance if measured.higher_is_better else tolerance * abs(measured.reference or 0.0)


def _z(found: Findings) -> float:
    return NormalDist().inv_cdf(0.5 + found.policy.confidence / 2)
