"""Write monitoring reports without checking a window."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Report, Verdict
from airflow_mlops.policy.spec import Policy


def publish(
    store: ArtifactStore,
    window: str,
    decision: str = "healthy",
    *,
    model: str = "delays",
    age: timedelta = timedelta(0),
) -> str:
    """Write a report on ``window`` with the age ``age``, and return its key."""
    report = Report(
        model=model,
        window=Window.model_validate(window),
        created=datetime.now(timezone.utc) - age,
        policy=Policy(),
        verdict=Verdict(
            decision=decision,
            headline=f"It was {decision}",
            details=["For a test."],
            reason=f"It was {decision}. For a test.",
        ),
    )
    key = archive.key(store, model, report.window)
    store.write_json(key, report.model_dump(mode="json"))
    return key
