"""Find change points of realised performance and of drift in the most important features."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

from airflow_mlops.drift.findings import Drift
from airflow_mlops.performance.change_points import change_points
from airflow_mlops.performance.findings import Change, Performance
from airflow_mlops.policy.checks import judged_performance
from airflow_mlops.policy.findings import Findings

MAX_FEATURES, MIN_IMPORTANCE = 5, 0.05
"""The largest number of features to search for change points, and the smallest importance of a searched feature."""


class _Point(NamedTuple):
    findings: Findings
    value: float
    error: float


class _Series(NamedTuple):
    kind: Literal["performance", "drift"]
    name: str
    points: list[_Point]
    min_change: float


def find_changes(history: Sequence[Findings], rate: float) -> list[Change]:
    """Find the change points of realised performance and of drift in the most important features.

    Only windows with predictions of the same version are compared, because a different version has different metrics at
    training. The search in performance leaves out a window if its performance cannot be judged, or was measured by
    another metric or with other row weights than in the latest judged window.

    The search for drift of a feature uses the effect of the drift, which is a share of rows. The standard error of an
    effect on n rows is at most ``0.5 / sqrt(n)``. An unchanged feature has a small effect by chance. If a feature has
    not drifted in a window, the effect therefore counts as at most ``min_effect`` of the policy.

    :param history: findings ordered by time; the last item is about the checked window
    :param rate: false-alarm rate: probability of finding any change point if nothing has changed
    :return: change points of performance, followed by change points of drift, each group ordered by time
    """
    last = history[-1]
    if last.scored_by is None:
        return []
    same = [item for item in history if item.scored_by and item.scored_by.version == last.scored_by.version]
    important = [drift for drift in last.features if (drift.importance or 0) >= MIN_IMPORTANCE]
    important = sorted(important, key=lambda drift: -(drift.importance or 0))[:MAX_FEATURES]
    series = [*_performance(same, last), *(_drift(same, item.column, last) for item in important)]
    each = rate / max(1, len(series))
    changes = [
        Change(
            kind=item.kind,
            of=item.name,
            window=item.points[found.at].findings.window,
            before=found.before,
            after=found.after,
            p_value=found.p_value,
        )
        for item in series
        for found in change_points(
            [point.value for point in item.points], [point.error for point in item.points], each, item.min_change
        )
    ]
    return sorted(changes, key=lambda change: (change.kind != "performance", change.window.start))


def _performance(history: Sequence[Findings], last: Findings) -> list[_Series]:
    judged = [(item, performance) for item in history if (performance := judged_performance(item)) is not None]
    if not judged:
        return []
    latest = judged[-1][1]
    points = [
        _Point(item, measured.value, max(measured.high - measured.value, measured.value - measured.low) / _z(item))
        for item, measured in judged
        if (measured.metric, measured.weight) == (latest.metric, latest.weight)
    ]
    return [_Series("performance", latest.metric, points, _tolerance(latest, last))]


def _drift(history: Sequence[Findings], column: str, last: Findings) -> _Series:
    def drift_in(findings: Findings) -> Drift | None:
        return next((drift for drift in findings.features if drift.column == column), None)

    points = [
        _Point(item, drift.effect if drift.drifted else min(drift.effect, item.policy.min_effect), 0.5 / item.rows**0.5)
        for item in history
        if (drift := drift_in(item)) is not None and drift.effect is not None
    ]
    return _Series("drift", column, points, last.policy.min_effect)


def _tolerance(measured: Performance, last: Findings) -> float:
    """Return the change of the metric that the policy tolerates, in the unit of the metric."""
    tolerance = last.policy.tolerance
    return tolerance if measured.has_absolute_tolerance else tolerance * abs(measured.reference or 0.0)


def _z(findings: Findings) -> float:
    return NormalDist().inv_cdf(0.5 + findings.policy.confidence / 2)
