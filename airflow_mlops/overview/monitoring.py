"""The monitored windows of a model.

A copy of the main numbers of each report is stored as ``indexes/monitoring/MODEL.json.gz``
(:mod:`airflow_mlops.overview.copies`), so that the history of a model takes few requests, however long it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import copies
from airflow_mlops.overview.facts import TREND, Level, Monitoring, Point, TaskFacts, Trend, WindowFacts
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry.ledger import folder_name

# Version of the points in a stored copy.
_VERSION = 1
# Largest number of reports that are read without a stored copy of their points.
_FEW = 3


class Monitored(Model):
    """The newest facts from the monitored windows of a model.

    :param last: the last window and the trend; ``None`` without a window
    :param labels_until: end of the last window in which predictions have labels
    :param dags: DAGs that checked the windows of the trend
    """

    last: Monitoring | None = None
    labels_until: AwareDatetime | None = None
    dags: list[str] = Field(default_factory=list)


def points(store: ArtifactStore, model: str) -> tuple[list[Point], list[str]]:
    """Return the monitored windows of a model, ordered by time, and the keys of reports that cannot be read.

    A report cannot be read if it is damaged, or if an incompatible version of this package wrote it.

    :raises StoreError: the store cannot be read
    """
    key = f"indexes/monitoring/{folder_name(model)}.json.gz"
    listed = archive.all_info(store, model)
    # Reading a few reports takes fewer requests than reading and writing the copy of their points.
    known = copies.load(store, key, _VERSION) if len(listed) > _FEW else {}
    found, made = copies.read_models(Point, store, listed, _content, known)
    if len(listed) > _FEW and (found.read or found.known.keys() - listed.keys()):
        copies.save(store, key, _VERSION, found.values)
    unreadable = [key for key, (_, value) in found.values.items() if value is None]
    return sorted(made, key=lambda point: (point.window.start, point.window.end)), unreadable


def problem(unreadable: Sequence[str]) -> str | None:
    """Return a sentence about reports that cannot be read; ``None`` if there are none."""
    if not unreadable:
        return None
    others = f" and {len(unreadable) - 1} other reports" if len(unreadable) > 1 else ""
    return (
        f"The report {unreadable[-1]}{others} cannot be read. Run MonitorOperator for its window again, or install the version "
        "of airflow-mlops that wrote it."
    )


def _content(key: str, content: bytes) -> Any:
    point = parse(key, content)
    if point is None:
        return None
    return point.model_dump(mode="json", exclude_defaults=True)


def parse(key: str, content: bytes) -> Point | None:
    """Return the main numbers of a report; ``None`` if the report has an incompatible format.

    :param key: store key of the report
    """
    try:
        report = Report.model_validate_json(content)
    except ValidationError:
        return None
    measured = report.performance or report.estimated
    return Point(
        window=WindowFacts.of(report.window),
        verdict=report.verdict.decision,
        headline=report.verdict.headline or report.verdict.reason,
        checked=report.created,
        version=report.scored_by.version if report.scored_by is not None else None,
        rows=report.rows,
        labelled=report.labelled,
        coverage=report.coverage,
        metric=measured.metric if measured is not None else None,
        greater_is_better=measured.higher_is_better if measured is not None else None,
        realised=_level(report.performance),
        estimated=_level(report.estimated),
        requested=report.verdict.decision == "retrain",
        report=archive.page(key),
        task=task_of(report.provenance),
    )


def _level(found: Performance | None) -> Level | None:
    if found is None:
        return None
    return Level(value=found.value, low=found.low, high=found.high, reference=found.reference)


def task_of(provenance: Provenance) -> TaskFacts | None:
    """Return the task of a step; ``None`` if no Airflow task ran the step."""
    if not provenance.dag_id:
        return None
    return TaskFacts(
        dag_id=provenance.dag_id,
        run_id=provenance.run_id,
        task_id=provenance.task_id,
        map_index=provenance.map_index,
    )


def monitored(windows: Sequence[Point]) -> Monitored:
    """Return the newest facts from the monitored windows.

    :param windows: the monitored windows, ordered by time
    """
    shown = windows[-TREND:]
    return Monitored(
        last=_summary(windows),
        labels_until=max((point.window.end for point in windows if point.labelled), default=None),
        dags=sorted({point.task.dag_id for point in shown if point.task is not None}),
    )


def _summary(windows: Sequence[Point]) -> Monitoring | None:
    """Return the last window and the trend; ``None`` without a window."""
    if not windows:
        return None
    last = latest(windows)
    assert last is not None
    shown = windows[-TREND:]
    measured = next((point for point in reversed(shown) if point.metric is not None), last)
    return Monitoring(
        window=last.window,
        checked=last.checked,
        verdict=last.verdict,
        headline=last.headline,
        metric=measured.metric,
        greater_is_better=measured.greater_is_better,
        coverage=last.coverage,
        trend=_trend(shown, measured.metric),
    )


def _trend(windows: Sequence[Point], metric: str | None) -> Trend:
    def values(levels: Iterable[Level | None]) -> list[float | None]:
        found = zip(windows, levels, strict=True)
        return [level.value if level is not None and point.metric == metric else None for point, level in found]

    return Trend(
        windows=[point.window.label for point in windows],
        values=values(point.realised for point in windows),
        estimated=values(point.estimated for point in windows),
        verdicts=[point.verdict for point in windows],
    )


def latest(windows: Sequence[Point]) -> Point | None:
    """Return the window that ends last; ``None`` without a window."""
    return max(windows, key=lambda point: point.window.end, default=None)


def details(store: ArtifactStore, windows: Sequence[Point]) -> list[str]:
    """Return the facts behind the verdict on the last window, one sentence each.

    :raises StoreError: the store cannot be read
    """
    last = latest(windows)
    if last is None:
        return []
    found = archive.read(store, report_key(last))
    return found.verdict.details if found is not None else []


def report_key(point: Point) -> str:
    """Return the store key of the report on a window."""
    return f"{point.report.removesuffix('.html')}.json"
