"""Compares a window with what was known at training, and decides: healthy, watch or retrain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.artifacts.selection import select, window_of
from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import DatasetNotFoundError, ModelFormatError, SpecError, StoreError
from airflow_mlops.monitoring import performance
from airflow_mlops.monitoring.drift import compare
from airflow_mlops.monitoring.policy import decide
from airflow_mlops.monitoring.profiles import ModelProfile, profile
from airflow_mlops.monitoring.report import render
from airflow_mlops.registry import contracts, models
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.contracts import Known
from airflow_mlops.registry.onnx_model import PROFILE_FILE
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
        known = contracts.known(client, context.store, champion)
        found = found.model_copy(update=_about_champion(found, champion, known, context.store))
        if found.rows:
            scored_by = _scored_by(datasets, champion, client)
            if scored_by != champion:
                known = contracts.known(client, context.store, scored_by)
            found = found.model_copy(update=_measured(found, datasets, scored_by, known))
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


def _about_champion(found: Findings, champion: ModelVersionRef, known: Known, store: ArtifactStore) -> dict[str, Any]:
    trained_on = DatasetRef(name=known.contract.dataset_name, id=known.contract.dataset_id, rows=0)
    try:
        trained = open_dataset(store, trained_on).manifest.window
    except DatasetNotFoundError:
        trained = None
    if trained is None:
        unknown = f"The age of {champion} is not known: its training set has no time window in this artifact store."
        return {"notes": [*found.notes, unknown]} if found.policy.max_age else {}
    age: dict[str, Any] = {"age_days": (found.window.end - trained.end) / timedelta(days=1)}
    if known.elsewhere and found.policy.max_age:
        guessed = f"{champion} came from elsewhere: its age is that of the training set it was measured on."
        age["notes"] = [*found.notes, guessed]
    return age


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


def _measured(found: Findings, datasets: Sequence[Dataset], scored_by: ModelVersionRef, known: Known) -> dict[str, Any]:
    reference = _reference(known, scored_by)
    features = list(reference.features.columns)
    current = profile(batch for dataset in datasets for batch in dataset.batches(columns=[*features, "score"]))
    scores = compare(reference.scores, current, found.policy.min_rows)
    return {
        "scored_by": scored_by,
        "features": compare(reference.features, current, found.policy.min_rows),
        "prediction": next((drift for drift in scores if drift.column == "score"), None),
        **_realised(datasets, known.contract, found),
    }


def _reference(known: Known, scored_by: ModelVersionRef) -> ModelProfile:
    if known.profile is None:
        raise ModelFormatError(f"{scored_by} has no {PROFILE_FILE} to compare with: train it with TrainOperator.")
    try:
        return ModelProfile.model_validate(known.profile)
    except ValidationError as error:
        raise ModelFormatError(f"The profile of {scored_by} is not one: {error.errors()[0]['msg']}.") from None


def _realised(datasets: Sequence[Dataset], contract: ModelContract, found: Findings) -> dict[str, Any]:
    policy = found.policy
    # A classifier that gives labels alone has no roc_auc to compare with, but accuracy.
    measured = [name for name in REALISED[contract.task] if name in contract.metrics]
    metric = policy.metric or (measured or REALISED[contract.task])[0]
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
        "feature_drift": report.features[0].psi if report.features else None,
        "prediction_drift": report.prediction.psi if report.prediction else None,
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
        most_drifted=report.features[0].column if report.features and report.features[0].psi is not None else None,
        report_url=url,
        summary=f"{report.model} in {report.window.label}: {verdict.decision}. {verdict.reason}",
    )
