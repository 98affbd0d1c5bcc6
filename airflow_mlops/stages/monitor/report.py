"""Write the monitoring report as HTML and as JSON, and summarise the report as the result of the step."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pydantic import ValidationError

from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Drift
from airflow_mlops.policy import archive
from airflow_mlops.policy.checks import judged_performance
from airflow_mlops.policy.findings import Findings, Report, RetrainingPlan
from airflow_mlops.stages.monitor.page.report import render
from airflow_mlops.stages.monitor.spec import MonitorResult

_HISTORY = 36


def publish(report: Report, earlier: Sequence[Report], store: ArtifactStore) -> str:
    """Write the report as HTML and as JSON.

    The HTML page is written first, so every JSON report has a page.

    :param earlier: reports on earlier windows, ordered by time
    :return: URL of the page
    """
    key = archive.key(store, report.model, report.window)
    page = render(report, earlier)
    store.write_bytes(archive.page(key), page.encode())
    store.write_json(key, report.model_dump(mode="json"))
    return page_url(report, store)


def page_url(findings: Findings, store: ArtifactStore) -> str:
    """Return the URL of the HTML page of a report. The page need not exist yet."""
    return store.url_of(archive.page(archive.key(store, findings.model, findings.window)))


def history(model: str, window: Window, store: ArtifactStore) -> list[Report]:
    """Return the reports on at most 36 windows before ``window``, ordered by time. Unreadable reports are left out."""
    found = store.read_many(archive.before(store, model, window, _HISTORY))
    reports = (_parse(content) for content in found.values())
    earlier = [report for report in reports if report is not None and report.window.start < window.start]
    return sorted(earlier, key=lambda report: report.window.start)


def superseded(report: Report, store: ArtifactStore) -> bool:
    """Return whether a report on a later window makes ``report`` outdated.

    A later report makes ``report`` outdated if the later report judges performance, or if ``report`` does not.
    """
    for key in archive.after(store, report.model, report.window):
        later = _read(store, key)
        if later is not None and (judged_performance(later) is not None or judged_performance(report) is None):
            return True
    return False


def _read(store: ArtifactStore, key: str) -> Report | None:
    """Read the report ``key``; ``None`` if the report is unreadable, for example because of an incompatible format."""
    try:
        return _parse(store.read_bytes(key))
    except (StoreError, FileNotFoundError):
        return None


def _parse(content: bytes) -> Report | None:
    try:
        return Report.model_validate_json(content)
    except ValidationError:
        return None


def metrics(findings: Findings) -> dict[str, float]:
    """Return the measured numbers by name.

    :class:`~airflow_mlops.stages.monitor.spec.MonitorResult` describes the numbers.
    """
    numbers: dict[str, float | None] = {
        "rows": findings.rows,
        "labelled": findings.labelled,
        "coverage": findings.coverage,
        "features_drifted": sum(item.drifted for item in findings.features) if findings.drift_tests else None,
    }
    drifts = {
        "feature": _most_drifted(findings),
        "prediction": findings.prediction,
        "label": findings.label,
        "multivariate": findings.multivariate,
        "attribution": findings.attributions,
    }
    numbers |= {f"{name}_drift": drift.effect for name, drift in drifts.items() if drift is not None}
    if findings.freshness is not None:
        age = findings.freshness.age(findings.created)
        numbers["newest_row_age_days"] = age / timedelta(days=1) if age is not None else None
        numbers["newest_row_behind_days"] = findings.freshness.behind_days
    for prefix, performance in (("", findings.performance), ("estimated_", findings.estimated)):
        if performance is not None:
            numbers |= {
                f"{prefix}{performance.metric}": performance.value,
                f"{prefix}{performance.metric}_low": performance.low,
                f"{prefix}{performance.metric}_high": performance.high,
                f"{prefix}{performance.metric}_reference": performance.reference,
            }
    if (bias := findings.bias) is not None:
        numbers |= {"bias": bias.value, "bias_low": bias.low, "bias_high": bias.high, "bias_reference": bias.reference}
    if (covered := findings.interval) is not None:
        numbers |= {
            covered.metric: covered.value,
            f"{covered.metric}_low": covered.low,
            f"{covered.metric}_high": covered.high,
            f"{covered.metric}_reference": covered.reference,
        }
    if (rate := findings.positives) is not None:
        numbers |= {
            "positive_rate": rate.value,
            "positive_rate_low": rate.low,
            "positive_rate_high": rate.high,
            "positive_rate_reference": rate.reference,
        }
    for item in findings.fairness:
        name = item.metric_name
        numbers |= {
            name: item.value,
            f"{name}_low": item.low,
            f"{name}_high": item.high,
            f"{name}_reference": item.reference,
        }
    if findings.label_delay is not None:
        numbers |= {f"label_delay_{name}": days for name, days in findings.label_delay}
    return {name: value for name, value in numbers.items() if value is not None}


def _most_drifted(findings: Findings) -> Drift | None:
    """Return the drifted feature with the largest effect. If no feature drifted, consider all measured features."""
    measured = [item for item in findings.features if item.effect is not None]
    return max(measured, key=lambda item: (item.drifted, item.effect), default=None)


def result(report: Report, url: str, store: ArtifactStore) -> MonitorResult:
    """Summarise the report as the result of the step.

    :param url: URL of the page
    """
    verdict, realised, most_drifted = report.verdict, report.performance, _most_drifted(report)
    planned = report.retraining or RetrainingPlan()
    changed = [item.window.label for item in report.changes if item.kind == "performance"]
    retrain = verdict.decision == "retrain"
    return MonitorResult(
        decision=verdict.decision,
        headline=verdict.headline,
        details=verdict.details,
        reason=verdict.reason,
        model=report.model,
        window=report.window,
        champion=report.champion,
        scored_by=report.scored_by,
        metrics=metrics(report),
        metric=realised.metric if realised is not None else None,
        most_drifted=most_drifted.column if most_drifted else None,
        worst_segment=report.segments[0].name if report.segments else None,
        changed_since=changed[-1] if changed else None,
        report_url=url,
        superseded=superseded(report, store),
        request=planned.request if retrain else None,
        held_back=[] if retrain else [active.trigger for active in planned.due],
        summary=f"{report.model} in {report.window.label}: {verdict.decision}. {verdict.headline}",
    )
