"""Compares a window with what was known at training, and decides: healthy, watch or retrain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_mlops.artifacts import reports
from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.artifacts.selection import select, window_of
from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import DatasetNotFoundError, ModelFormatError, SpecError, StoreError
from airflow_mlops.monitoring import drift, estimation, performance
from airflow_mlops.monitoring.calibration import LossModel, ProbabilityCalibration
from airflow_mlops.monitoring.delays import LABEL_AT, label_delay
from airflow_mlops.monitoring.policy import decide, immature, unforeseen
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
    LabelDelay,
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
    columns = [*features, "score"]
    current = profile(batch for item in datasets for batch in item.batches(columns=columns, batch_rows=BATCH_ROWS))
    measured = drift.measure(reference.features, current, found.policy)
    scores = drift.measure(reference.scores, current, found.policy)
    # Judged together: a false alarm is one whatever it is about.
    judged = drift.judge([*measured, *scores], found.policy)
    found_here = {
        "scored_by": scored_by,
        "features": drift.ranked(judged[: len(measured)]),
        "prediction": next((item for item in judged[len(measured) :] if item.column == "score"), None),
        "drift_tests": drift.tests_of(judged, found.policy),
        "label_delay": _label_delay(datasets),
        **_realised(datasets, known.contract, found),
    }
    so_far = found.model_copy(update=found_here)
    return {**found_here, **_estimated(datasets, known.contract, reference.calibration, so_far)}


def _reference(known: Known, scored_by: ModelVersionRef) -> ModelProfile:
    if known.profile is None:
        raise ModelFormatError(f"{scored_by} has no {PROFILE_FILE} to compare with: train it with TrainOperator.")
    try:
        return ModelProfile.model_validate(known.profile)
    except ValidationError as error:
        raise ModelFormatError(f"The profile of {scored_by} is not one: {error.errors()[0]['msg']}.") from None


def _metric(policy: Policy, contract: ModelContract) -> str:
    # A classifier that gives labels alone has no roc_auc to compare with, but accuracy.
    measured = [name for name in REALISED[contract.task] if name in contract.metrics]
    metric = policy.metric or (measured or REALISED[contract.task])[0]
    if metric not in REALISED[contract.task]:
        raise SpecError(
            f"policy.metric={metric!r} cannot be measured on predictions of a {contract.task} model: "
            f"use one of {', '.join(REALISED[contract.task])}."
        )
    return metric


def _realised(datasets: Sequence[Dataset], contract: ModelContract, found: Findings) -> dict[str, Any]:
    policy, metric = found.policy, _metric(found.policy, contract)
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
        return {**known, "unmeasured": immature(found) or _too_little(outcomes.rows, coverage, policy) or str(error)}
    without = f"{metric} was not measured at training" if metric not in contract.metrics else None
    return {
        **known,
        "unmeasured": immature(found) or _too_little(outcomes.rows, coverage, policy) or without,
        "performance": _performance(metric, estimate, contract, outcomes.rows),
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


def _label_delay(datasets: Sequence[Dataset]) -> LabelDelay | None:
    event_time = str(datasets[-1].manifest.details.get("timestamp"))
    wanted = [LABEL_AT, event_time]
    if not all({*wanted} <= {column.name for column in dataset.manifest.columns} for dataset in datasets):
        return None
    return label_delay((batch for dataset in datasets for batch in dataset.batches(columns=wanted)), event_time)


def _estimated(
    datasets: Sequence[Dataset],
    contract: ModelContract,
    calibration: ProbabilityCalibration | LossModel | None,
    found: Findings,
) -> dict[str, Any]:
    """What the metric should be, from the scores alone, and how that fits the labels where they are known."""
    policy, metric = found.policy, _metric(found.policy, contract)
    judged = found.performance is not None and found.unmeasured is None
    columns = ["score", performance.LABEL] if judged else ["score"]
    batches = (batch for dataset in datasets for batch in dataset.batches(columns=columns))
    try:
        if calibration is None:
            raise performance.UnmeasurableError("the version's profile does not say what its scores mean")
        scores = estimation.collect(performance.scores(batches, labelled=judged), calibration)
        if scores.total < policy.min_rows:
            raise performance.UnmeasurableError(f"there are {scores.total:,} scores, {policy.min_rows:,} are needed")
        threshold = contract.threshold if contract.task == "binary" else None
        estimate = estimation.estimate(metric, scores, calibration, policy.confidence, threshold)
    except performance.UnmeasurableError as error:
        return {"notes": [*found.notes, f"Performance was not estimated from the scores alone: {error}."]}
    estimated = _performance(metric, estimate, contract, scores.total)
    outside = unforeseen(found.model_copy(update={"estimated": estimated}))
    if outside is None:
        return {"estimated": estimated}
    where = "outside: the scores no longer mean what they meant at training" if outside else "inside"
    interval = f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
    checked = f"From the scores alone {metric} was estimated at {interval}; the realised value lies {where}."
    return {"estimated": estimated, "notes": [*found.notes, checked]}


def _performance(metric: str, estimate: performance.Estimate, contract: ModelContract, rows: int) -> Performance:
    return Performance(
        metric=metric,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        reference=contract.metrics.get(metric),
        labels=rows,
    )


def _publish(report: Report, store: ArtifactStore) -> str:
    """Write the report as a page and as JSON, and return the page's URL."""
    key = reports.key(report.model, report.window)
    page = render(report, _history(report, store))
    store.write_bytes(reports.page(key), page.encode())
    store.write_json(key, report.model_dump(mode="json"))
    return store.url_of(reports.page(key))


def _history(report: Report, store: ArtifactStore) -> list[Report]:
    """Reports on earlier windows, by time. What cannot be read, an older version's for instance, is left out."""
    found = []
    for key in reports.keys(store, report.model):
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
    for prefix, found in (("", realised), ("estimated_", report.estimated)):
        if found is not None:
            metrics |= {
                f"{prefix}{found.metric}": found.value,
                f"{prefix}{found.metric}_low": found.low,
                f"{prefix}{found.metric}_high": found.high,
                f"{prefix}{found.metric}_reference": found.reference,
            }
    if report.label_delay is not None:
        metrics |= {f"label_delay_{name}": days for name, days in report.label_delay}
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
