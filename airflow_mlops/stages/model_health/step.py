"""Looks up the report on a model, and compares its decision with the accepted ones."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from airflow_mlops.core.errors import ModelUnhealthyError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy import archive
from airflow_mlops.stages.model_health.spec import ModelHealthResult, ModelHealthSpec

log = logging.getLogger(__name__)


def look(spec: ModelHealthSpec, store: ArtifactStore) -> ModelHealthResult | None:
    """The summary of the report; ``None`` if there is no report yet, or only an older one than ``spec.max_age``.

    :raises ModelUnhealthyError: the decision is not one of ``spec.accept``
    :raises StoreError: the store cannot be read
    """
    key = archive.newest(store, spec.model) if spec.window is None else archive.key(spec.model, spec.window)
    report = archive.read(store, key) if key is not None else None
    if key is None or report is None:
        window = f" in {spec.window.label}" if spec.window is not None else ""
        log.info("There is no report on %s%s yet.", spec.model, window)
        return None
    subject, verdict = f"{report.model} in {report.window.label}", report.verdict
    if spec.max_age is not None and datetime.now(timezone.utc) - report.created > spec.max_age:
        log.info("The report on %s is too old: it was written at %s.", subject, report.created.isoformat())
        return None
    url = store.url_of(archive.page(key))
    summary = f"{subject}: {verdict.decision}. {verdict.headline or verdict.reason}"
    if verdict.decision not in spec.accept:
        accepted = " or ".join(spec.accept)
        raise ModelUnhealthyError(f"{subject}: {verdict.decision}. {verdict.reason} Accepted: {accepted}. See {url}.")
    return ModelHealthResult(
        decision=verdict.decision,
        headline=verdict.headline,
        reason=verdict.reason,
        model=report.model,
        window=report.window,
        created=report.created,
        report_url=url,
        summary=summary,
    )
