"""Looks up what the latest check of a model said."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from airflow_mlops.core.errors import ModelUnhealthyError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.model_health.spec import ModelHealthResult, ModelHealthSpec
from airflow_mlops.stages.monitor import archive as reports

log = logging.getLogger(__name__)


def look(spec: ModelHealthSpec, store: ArtifactStore) -> ModelHealthResult | None:
    """What the report says that ``spec`` asks for, or ``None`` while there is none.

    :raises ModelUnhealthyError: it says something else than ``spec.accept``
    :raises StoreError: the store cannot be read
    """
    key = reports.newest(store, spec.model) if spec.window is None else reports.key(spec.model, spec.window)
    found = reports.read(store, key) if key is not None else None
    if key is None or found is None:
        which = f" in {spec.window.label}" if spec.window is not None else ""
        log.info("There is no report on %s%s yet.", spec.model, which)
        return None
    where, verdict = f"{found.model} in {found.window.label}", found.verdict
    if spec.max_age is not None and datetime.now(timezone.utc) - found.created > spec.max_age:
        log.info("The report on %s is too old: it is of %s.", where, found.created.isoformat())
        return None
    url = store.url_of(reports.page(key))
    if verdict.decision not in spec.accept:
        raise ModelUnhealthyError(
            f"{where}: {verdict.decision}. {verdict.reason} Only {' or '.join(spec.accept)} is accepted here; see {url}."
        )
    return ModelHealthResult(
        decision=verdict.decision,
        reason=verdict.reason,
        model=found.model,
        window=found.window,
        created=found.created,
        report_url=url,
        summary=f"{where}: {verdict.decision}. {verdict.reason}",
    )
