"""Compares a window with what was known at training, and decides: healthy, watch or retrain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.artifacts.selection import select, window_of
from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import DatasetNotFoundError, ModelFormatError, SpecError, StoreError
from airflow_mlops.monitoring import drift, performance
from airflow_mlops.monitoring.policy import decide
from airflow_mlops.monitoring.profiles import ModelProfile, profile
from airflow_mlops.monitoring.report import render
from airflow_mlops.registry import models
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.onnx_model import PROFILE_FILE, read_contract
from airflow_mlops.specs.base import DatasetRef, ModelVersionRef
from airflow_mlops.specs.model import ModelContract
from airflow_mlops.specs.monitor import (
    REALISED,
    Findings,
    MonitorResult,
    MonitorSpec,
    Performance,
    Policy,
    Report,
)
from airflow_mlops.steps.context import StepContext

if TYPE_CHECKING:
    from mlflow import MlflowClient

_HISTORY = 36
# Smaller than elsewhere, so that a check fits beside other tasks; it takes no longer.
BATCH_ROWS = 16_384


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
        found = found.model_copy(update=_about_champion(found, champion, client, context.store))
        if found.rows:
            scored_by = _scored_by(datasets, champion, client)
            found = found.model_copy(update=_measured(found, datasets, scored_by, models.download(client, scored_by)))
    report = Report(**dict(found), verdict=decide(found))
    return _result(report, _publish(report, context.store))


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


def _about_champion(
    found: Findings, champion: ModelVersionRef, client: MlflowClient, store: ArtifactStore
) -> dict[str, Any]:
    contract = read_contract(models.download(client, champion))
    trained_on = DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0)
    try:
        trained = open_dataset(store, trained_on).manifest.window
    except DatasetNotFoundError:
        trained = None
    if trained is None:
        unknown = f"The age of {champion} is not known: its training set has no time window in this artifact store."
        return {"notes": [*found.notes, unknown]} if found.policy.max_age else {}
    return {"age_days": (found.window.end - trained.end) / timedelta(days=1)}


def _scored_by(datasets: Sequence[Dataset], champion: ModelVersionRef, client: MlflowClient) -> ModelVersionRef:
    """The version that made the predictions, which may have been replaced since."""
    details = datasets[-1].manifest.details
    made_by = details.get("model", champion.model)
    if made_by != champion.model:
        raise SpecError(
            f"Dataset {datasets[-1].manifest.name} holds predictions of {made_by}, not of {champion.model}."
        )
    number = int(details.get("model_version", champion.version))
    return champion if number == champion.version else models.version(client, champion.model, number)


def _measured(found: Findings, datasets: Sequence[Dataset], scored_by: ModelVersionRef, folder: Path) -> dict[str, Any]:
    contract, reference = read_contract(folder), _read_profile(folder)
    features = list(reference.features.columns)
    columns = [*features, "score"]
    current = profile(batch for item in datasets for batch in item.batches(columns=columns, batch_rows=BATCH_ROWS))
    measured = drift.measure(reference.features, current, found.policy)
    scores = drift.measure(reference.scores, current, found.policy)
    # Judged together: a false alarm is one whatever it is about.
    judged = drift.judge([*measured, *scores], found.policy)
    return {
        "scored_by": scored_by,
        "features": drift.ranked(judged[: len(measured)]),
        "prediction": next((item for item in judged[len(measured) :] if item.column == "score"), None),
        "drift_tests": drift.tests_of(judged, found.policy),
        **_realised(datasets, contract, found),
    }


def _read_profile(folder: Path) -> ModelProfile:
    file = folder / PROFILE_FILE
    try:
        return ModelProfile.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise ModelFormatError(
            f"{folder} has no {PROFILE_FILE} to compare with: the version was not made by TrainOperator."
        ) from None
    except ValidationError as error:
        raise ModelFormatError(f"{file} is not a profile: {error.errors()[0]['msg']}.") from None


def _realised(datasets: Sequence[Dataset], contract: ModelContract, found: Findings) -> dict[str, Any]:
    policy = found.policy
    metric = policy.metric or REALISED[contract.task][0]
    if metric not in REALISED[contract.task]:
        raise SpecError(
            f"policy.metric={metric!r} cannot be measured on predictions of a {contract.task} model: "
            f"use one of {', '.join(REALISED[contract.task])}."
        )
    if not all(performance.LABEL in (column.name for column in dataset.manifest.columns) for dataset in datasets):
        return {"unmeasured": "no labels were joined to the predictions"}
    batches = (batch for dataset in datasets for batch in dataset.batches(columns=performance.COLUMNS))
    try:
        outcomes = performance.outcomes(batches, contract)
    except performance.UnmeasurableError as error:
        return {"unmeasured": str(error)}
    labelled = outcomes.rows + outcomes.skipped
    coverage = labelled / found.rows
    known: dict[str, Any] = {"labelled": labelled, "coverage": coverage}
    if outcomes.skipped:
        left_out = f"{outcomes.skipped:,} labelled rows were left out: label or score is not a finite number."
        known["notes"] = [*found.notes, left_out]
    try:
        estimate = performance.measure(metric, outcomes, policy.confidence)
    except performance.UnmeasurableError as error:
        return {**known, "unmeasured": _too_little(outcomes.rows, coverage, policy) or str(error)}
    reference = contract.metrics.get(metric)
    without = f"{metric} was not measured at training" if reference is None else None
    return {
        **known,
        "unmeasured": _too_little(outcomes.rows, coverage, policy) or without,
        "performance": Performance(
            metric=metric,
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            reference=reference,
            labels=outcomes.rows,
        ),
    }


def _too_little(labels: int, coverage: float, policy: Policy) -> str | None:
    """Why the labels are no ground for a judgement, if so."""
    if not labels:
        return "there are no labels"
    if labels < policy.min_labels:
        return f"there are {labels:,} labels, {policy.min_labels:,} are needed"
    if coverage < policy.min_coverage:
        return f"{coverage:.1%} of the predictions have a label, {policy.min_coverage:.0%} are needed"
    return None


def _publish(report: Report, store: ArtifactStore) -> str:
    """Write the report as a page and as JSON, and return the page's URL."""
    folder = f"reports/{report.model}"
    name = report.window.label
    if re.search(r"[^\w.-]", name):
        name = report.window.key
    page = render(report, _history(report, store, folder))
    store.write_bytes(f"{folder}/{name}.html", page.encode())
    store.write_json(f"{folder}/{name}.json", report.model_dump(mode="json"))
    return store.url_of(f"{folder}/{name}.html")


def _history(report: Report, store: ArtifactStore, folder: str) -> list[Report]:
    """Reports on earlier windows, by time. What cannot be read, an older version's for instance, is left out."""
    found = []
    for key in store.keys(folder):
        if key.endswith(".json"):
            try:
                found.append(Report.model_validate(store.read_json(key)))
            except (StoreError, ValidationError, FileNotFoundError):
                continue
    earlier = [item for item in found if item.window.start < report.window.start]
    return sorted(earlier, key=lambda item: item.window.start)[-_HISTORY:]


def _result(report: Report, url: str) -> MonitorResult:
    verdict, realised = report.verdict, report.performance
    metrics: dict[str, float | None] = {
        "rows": report.rows,
        "labelled": report.labelled,
        "coverage": report.coverage,
        "features_drifted": sum(item.drifted for item in report.features) if report.drift_tests else None,
        "feature_drift": report.features[0].effect if report.features else None,
        "prediction_drift": report.prediction.effect if report.prediction else None,
    }
    if realised is not None:
        metrics |= {
            realised.metric: realised.value,
            f"{realised.metric}_low": realised.low,
            f"{realised.metric}_high": realised.high,
            f"{realised.metric}_reference": realised.reference,
        }
    return MonitorResult(
        decision=verdict.decision,
        reason=verdict.reason,
        model=report.model,
        window=report.window,
        champion=report.champion,
        scored_by=report.scored_by,
        metrics={name: value for name, value in metrics.items() if value is not None},
        metric=realised.metric if realised is not None else None,
        most_drifted=report.features[0].column if report.features and report.features[0].effect is not None else None,
        report_url=url,
        summary=f"{report.model} in {report.window.label}: {verdict.decision}. {verdict.reason}",
    )
