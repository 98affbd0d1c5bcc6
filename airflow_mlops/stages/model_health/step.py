"""Read the monitoring report on a model, and compare the report's decision with the accepted decisions."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from airflow_mlops.core.errors import ModelUnhealthyError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy import archive
from airflow_mlops.stages.model_health.spec import ModelHealthResult, ModelHealthSpec

log = logging.getLogger(__name__)


def look(spec: ModelHealthSpec, store: ArtifactStore) -> ModelHealthResult | None:
    """Read the monitoring report once, and return a summary of the report.

    :return: ``None`` if there is no report yet, or if the report is older than ``spec.max_age``
    :raises ModelUnhealthyError: the decision of the report is not in ``spec.accept``
    :raises StoreError: the artifact store cannot be read
    """
    key = archive.newest(store, spec.model) if spec.window is None else archive.existing(store, spec.model, spec.window)
    report = archive.read(store, key) if key is not None else None
    if key is None or report is None:
        window = f" in {spec.window.label}" if spec.window is not None else ""
        log.info("There is no report on model %r%s yet.", spec.model, window)
        return None
    subject, verdict = f"{report.model} in {report.window.label}", report.verdict
    if spec.max_age is not None and datetime.now(timezone.utc) - report.created > spec.max_age:
        log.info(
            "The report on model %s is older than `max_age` (%s), because it was written at %s.",
            subject,
            spec.max_age,
            report.created.isoformat(),
        )
        return None
    url = store.url_of(archive.page(key))
    summary = f"{subject}: {verdict.decision}. {verdict.headline or verdict.reason}"
    if verdict.decision not in spec.accept:
        accepted = " or ".join(spec.accept)
        raise ModelUnhealthyError(
            f"The decision on model {subject} is {verdict.decision}, but accept= allows only {accepted}. "
            f"{verdict.reason} See {url}."
        )
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
