"""Monitoring's report: written as a page and as JSON, and summed up as the step's result."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pydantic import ValidationError

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Drift
from airflow_mlops.policy.findings import Findings, Report, Retraining
from airflow_mlops.stages.monitor import archive as reports
from airflow_mlops.stages.monitor.page.report import render
from airflow_mlops.stages.monitor.spec import MonitorResult

_HISTORY = 36


def publish(report: Report, earlier: Sequence[Report], store: ArtifactStore) -> str:
    """Write the report as a page and as JSON, and return the page's URL.

    :param earlier: reports on earlier windows, by time
    """
    key = reports.key(report.model, report.window)
    page = render(report, earlier)
    store.write_bytes(reports.page(key), page.encode())
    store.write_json(key, report.model_dump(mode="json"))
    return page_url(report, store)


def page_url(found: Findings, store: ArtifactStore) -> str:
    """Where the page is, or will be."""
    return store.url_of(reports.page(reports.key(found.model, found.window)))


def history(about: Findings, store: ArtifactStore) -> list[Report]:
    """Reports on earlier windows, by time. What cannot be read, an older version's for instance, is left out."""
    found = []
    for key in reports.keys(store, about.model):
        try:
            found.append(Report.model_validate(store.read_json(key)))
        except (StoreError, ValidationError, FileNotFoundError):
            continue
    earlier = [item for item in found if item.window.start < about.window.start]
    return sorted(earlier, key=lambda item: item.window.start)[-_HISTORY:]


def superseded(report: Report, store: ArtifactStore) -> bool:
    """Whether there is a report on a later window that knows as much about performance."""
    for key in reports.after(store, report.model, report.window):
        try:
            later = Report.model_validate(store.read_json(key))
        except (StoreError, ValidationError, FileNotFoundError):
            continue
        if _judged(later) or not _judged(report):
            return True
    return False


def _judged(report: Report) -> bool:
    return report.performance is not None and report.unmeasured is None


def _recent(found: Findings) -> dict[str, float | None]:
    if found.freshness is None:
        return {}
    age = found.freshness.age(found.created)
    return {
        "newest_row_age_days": age / timedelta(days=1) if age is not None else None,
        "newest_row_behind_days": found.freshness.behind_days,
    }


def metrics(found: Findings) -> dict[str, float]:
    """The numbers of a check, see :class:`~airflow_mlops.stages.monitor.spec.MonitorResult`; of what was measured only."""
    moved_most = _moved_most(found)
    numbers: dict[str, float | None] = {
        "rows": found.rows,
        "labelled": found.labelled,
        "coverage": found.coverage,
        "features_drifted": sum(item.drifted for item in found.features) if found.drift_tests else None,
        "feature_drift": moved_most.effect if moved_most else None,
        **{
            f"{name}_drift": drift.effect
            for name in ("prediction", "label", "multivariate")
            if (drift := getattr(found, name)) is not None
        },
        **_recent(found),
    }
    for prefix, performance in (("", found.performance), ("estimated_", found.estimated)):
        if performance is not None:
            numbers |= {
                f"{prefix}{performance.metric}": performance.value,
                f"{prefix}{performance.metric}_low": performance.low,
                f"{prefix}{performance.metric}_high": performance.high,
                f"{prefix}{performance.metric}_reference": performance.reference,
            }
    if found.label_delay is not None:
        numbers |= {f"label_delay_{name}": days for name, days in found.label_delay}
    return {name: value for name, value in numbers.items() if value is not None}


def _moved_most(found: Findings) -> Drift | None:
    """Of the features that have drifted, or of all if none has, the one that moved most."""
    measured = [item for item in found.features if item.effect is not None]
    return max(measured, key=lambda item: (item.drifted, item.effect), default=None)


def result(report: Report, url: str, store: ArtifactStore) -> MonitorResult:
    """What goes to XCom."""
    verdict, realised, moved_most = report.verdict, report.performance, _moved_most(report)
    planned = report.retraining or Retraining()
    changed = [item.window.label for item in report.changes if item.kind == "performance"]
    return MonitorResult(
        decision=verdict.decision,
        reason=verdict.reason,
        model=report.model,
        window=report.window,
        champion=report.champion,
        scored_by=report.scored_by,
        metrics=metrics(report),
        metric=realised.metric if realised is not None else None,
        most_drifted=moved_most.column if moved_most else None,
        worst_segment=report.segments[0].name if report.segments else None,
        changed_since=changed[-1] if changed else None,
        report_url=url,
        superseded=superseded(report, store),
        request=planned.request if verdict.decision == "retrain" else None,
        held_back=[] if verdict.decision == "retrain" else [held.trigger for held in planned.due],
        summary=f"{report.model} in {report.window.label}: {verdict.decision}. {verdict.reason}",
    )
