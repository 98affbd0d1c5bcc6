"""Monitoring's reports, written by hand."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy.findings import Report, Verdict
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.monitor import archive as reports


def publish(
    store: ArtifactStore,
    window: str,
    decision: str = "healthy",
    *,
    model: str = "delays",
    age: timedelta = timedelta(0),
) -> str:
    """Write the report on ``window`` as monitoring did ``age`` ago, and return its key."""
    report = Report(
        model=model,
        window=Window.model_validate(window),
        created=datetime.now(timezone.utc) - age,
        policy=Policy(),
        verdict=Verdict(decision=decision, reason=f"It was {decision}."),
    )
    key = reports.key(model, report.window)
    store.write_json(key, report.model_dump(mode="json"))
    return key
