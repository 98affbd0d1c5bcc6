"""Compares a window with what was known at training, and decides: healthy, watch or retrain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from airflow_mlops.core.errors import DatasetNotFoundError, SpecError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.selection import select, window_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import contracts
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.policy.decision import decide
from airflow_mlops.policy.findings import Findings, Report
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.client import connect
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor import columns as monitor_columns
from airflow_mlops.stages.monitor import performance as monitor_performance
from airflow_mlops.stages.monitor import references as monitor_references
from airflow_mlops.stages.monitor import report as monitor_report
from airflow_mlops.stages.monitor import retraining as monitor_retraining
from airflow_mlops.stages.monitor import schema as monitor_schema
from airflow_mlops.stages.monitor import why as monitor_why
from airflow_mlops.stages.monitor.changes import changes
from airflow_mlops.stages.monitor.spec import MonitorResult, MonitorSpec


def run(spec: MonitorSpec, context: StepContext) -> MonitorResult:
    """Measure, decide, and write the report."""
    datasets = _datasets(spec, context.store)
    window = spec.window or window_of(datasets) or getattr(spec.dataset, "window", None)
    if window is None:
        raise SpecError("The dataset to monitor has no time window: say with window= which one the report is about.")
    client = connect(spec.mlflow, context.connection)
    champion = models.champion(client, spec.model)
    found = Findings(
        model=spec.model,
        window=window,
        created=datetime.now(timezone.utc),
        policy=spec.policy,
        champion=champion,
        datasets=[dataset.ref for dataset in datasets],
        rows=sum(dataset.manifest.rows for dataset in datasets),
    )
    if champion is not None:
        known = contracts.read(client, context.store, champion)
        found = found.model_copy(update=monitor_columns.about_champion(found, champion, known, context.store))
        found = found.model_copy(
            update=monitor_retraining.since_training(found, champion, known, client, context.store)
        )
        if found.rows:
            scored_by = monitor_columns.scored_by(datasets, champion, client)
            if scored_by != champion:
                known = contracts.read(client, context.store, scored_by)
            found = found.model_copy(update=_measured(found, spec, datasets, scored_by, known, context.store))
        else:
            monitor_references.forget(context.store, found)
    earlier = monitor_report.history(found, context.store)
    found = found.model_copy(update={"changes": changes([*earlier, found], spec.policy.false_alarm_rate)})
    planned = monitor_retraining.plan(found, earlier, context)
    report = Report(**dict(found), verdict=decide(found, planned), retraining=planned)
    return monitor_report.result(report, monitor_report.publish(report, earlier, context.store), context.store)


def _datasets(spec: MonitorSpec, store: ArtifactStore) -> list[Dataset]:
    if spec.dataset is None:
        return []
    try:
        return select(store, spec.dataset)
    except DatasetNotFoundError:
        # A reference must lead somewhere. A name and a window may well have nothing yet.
        if isinstance(spec.dataset, DatasetRef):
            raise
        return []


def _measured(
    found: Findings,
    spec: MonitorSpec,
    datasets: Sequence[Dataset],
    scored_by: ModelVersionRef,
    known: VersionContract,
    store: ArtifactStore,
) -> dict[str, Any]:
    reference, unseen = monitor_columns.kept(monitor_columns.stored_profile(known, scored_by), datasets)
    found = found.model_copy(update={"notes": [*found.notes, *unseen]})
    measured = {
        "notes": found.notes,
        "scored_by": scored_by,
        "schema_changes": monitor_schema.changes(datasets, reference, known.contract, store),
        "freshness": monitor_schema.freshness(datasets, found.window),
        "label_delay": monitor_performance.delay(datasets),
        **monitor_performance.realised(datasets, known.contract, found),
    }
    so_far = found.model_copy(update=measured)
    current = monitor_columns.current(so_far, datasets, reference, spec.profiles, store)
    baselines = monitor_references.baselines(spec.reference, so_far, scored_by, reference, current, store)
    monitor_references.keep(store, found, scored_by, current)
    measured |= {"reference": baselines.used, "notes": [*so_far.notes, *baselines.notes]}
    measured |= monitor_columns.columns(so_far, datasets, current, baselines, reference, known.contract)
    measured |= monitor_why.fallen(datasets, known.contract, reference.segments, so_far)
    so_far = found.model_copy(update=measured)
    return {**measured, **monitor_performance.estimated(datasets, known.contract, reference.calibration, so_far)}
