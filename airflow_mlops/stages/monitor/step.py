"""Check a window: compare predictions with training, decide about retraining, and write the report."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError, SpecError
from airflow_mlops.core.references import DatasetSelection, ModelVersionRef
from airflow_mlops.data.columns import kept_apart
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.selection import select, window_of
from airflow_mlops.drift import training_reference
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.models import contracts
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.overview import index
from airflow_mlops.policy.findings import Report
from airflow_mlops.policy.verdict import decide
from airflow_mlops.registry import versions
from airflow_mlops.registry.aliases import last_move
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import require_promoted
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.presence import require_ledger
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor import (
    challengers,
    champion,
    clusters,
    columns,
    fairness,
    performance,
    positives,
    references,
    replaced,
    report,
    segments,
    timing,
)
from airflow_mlops.stages.monitor.attributions import drift as attributions
from airflow_mlops.stages.monitor.champion import ChampionFacts
from airflow_mlops.stages.monitor.changes import find_changes
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.findings import Measurements, compose
from airflow_mlops.stages.monitor.requests import request_retraining
from airflow_mlops.stages.monitor.spec import MonitorResult, MonitorSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


def run(spec: MonitorSpec, context: StepContext) -> MonitorResult:
    """Measure drift and performance of a window, decide about retraining, and write the report.

    :raises SpecError: the window is unknown, a parameter does not fit the predictions, or a shadow or a canary made the
        predictions
    :raises SchemaError: a dataset has no predictions
    :raises StoreError: the store does not have the ledger, for example because its file system is not mounted
    """
    store = context.store
    check = _check(spec, context)
    context.processed(check.rows)
    # With the number of entries before the measurements, request_retraining() recognises requests that other checks
    # have recorded in the meantime.
    ledger = Ledger(store, spec.model)
    entries = ledger.entries()
    client = connect(spec.mlflow, context.connection)
    present = versions.champion(client, spec.model)
    facts, measured = ChampionFacts(), Measurements()
    earlier = report.history(check.model, check.window, store)
    if present is not None:
        if last_move(entries) is None:
            # Otherwise a window of a store that is not mounted would seem to have no predictions.
            require_ledger(client, ledger, present)
        require_promoted(store, present)
        stored = contracts.read(client, store, present, ledger)
        facts = champion.facts(check, present, stored, client)
        if check.rows:
            *earlier_versions, latest = check.of_each_version()
            with clusters.numbered(latest) as checked:
                measured = _measure(checked, check, spec, _reference(latest, present, stored, client))
            realised = performance.with_recent(measured.realised, check, earlier)
            measured = replace(
                measured, realised=realised, replaced=[replaced.measure(item, client) for item in earlier_versions]
            )
            probed = challengers.probe(check, present, stored, measured.realised, earlier, ledger, spec.trainer, client)
            measured = replace(measured, challenger=probed.comparison, notes=[*measured.notes, *probed.notes])
        else:
            references.forget(store, check.model, check.window)
    findings = compose(check, facts, measured)
    changes = find_changes([*earlier, findings], spec.policy.false_alarm_rate)
    findings = compose(check, facts, measured, changes)
    context.require_unfinished()
    planned = request_retraining(findings, earlier, context, ledger, len(entries))
    verdict = decide(findings, planned, earlier)
    # The plan contains the request of this window. The requests that started the DAG run are left out of the report.
    task = context.provenance.model_copy(update={"requests": []})
    written = Report(**dict(findings), verdict=verdict, retraining=planned, provenance=task)
    url = report.publish(written, earlier, store)
    index.update(store, spec.model, "monitoring")
    if planned.request is not None:
        index.update(store, spec.model, "decisions")
    for detail in written.verdict.details:
        log.info("%s", detail)
    return report.result(written, url, store)


def _check(spec: MonitorSpec, context: StepContext) -> Check:
    datasets = _datasets(spec, context)
    if apart := [(item.manifest.name, kind) for item in datasets if (kind := kept_apart(item.manifest.details))]:
        name, kind = apart[0]
        raise SpecError(
            f"Dataset {name!r} has {kind} predictions, but monitoring reports are only about the champion's predictions. "
            "Set `dataset` to the champion's predictions. To compare the two versions, use EvaluateOperator."
        )
    window = spec.window or window_of(datasets) or getattr(spec.dataset, "window", None)
    if window is None:
        raise SpecError("The dataset to monitor has no time window. Set window= to the window of the report.")
    return Check(spec.model, window, datetime.now(timezone.utc), spec.policy, datasets, context.store)


def _datasets(spec: MonitorSpec, context: StepContext) -> list[Dataset]:
    if spec.dataset is None:
        return []
    try:
        return select(context.store, spec.dataset, kept=context.kept)
    except DatasetNotFoundError:
        # A dataset that is given by its id must exist. For a name and a window there may be no data yet.
        if isinstance(spec.dataset, DatasetSelection):
            return []
        raise


def _reference(
    check: Check, present: ModelVersionRef, stored: VersionContract, client: MlflowClient
) -> TrainingReference:
    """Load the training reference of the version that made the predictions.

    :param present: the champion
    :param stored: the model contract that is stored with the champion
    :raises SchemaError: a dataset has no predictions
    """
    for dataset in check.datasets:
        if "score" not in dataset.manifest.column_names:
            raise SchemaError(
                f"Dataset {dataset.manifest.name!r} has no predictions, because it has no column 'score'. Set `dataset` to the output of "
                "ScoreOperator or JoinLabelsOperator."
            )
    scored_by = training_reference.version_of(check.datasets, present, client, check.latest_version)
    if scored_by != present:
        stored = contracts.read(client, check.store, scored_by)
    return training_reference.load(scored_by, stored, check.datasets, check.store)


def _measure(check: Check, whole: Check, spec: MonitorSpec, reference: TrainingReference) -> Measurements:
    """Measure performance and drift of the predictions of one version.

    :param check: the check of the predictions of one version
    :param whole: the check of the predictions of all versions. Age of the rows and label delay are measured on all
        predictions, because neither depends on the version
    :param reference: the training reference of the version
    """
    # Sorting the labelled rows needs the most memory, so it is done before the profiles are in memory.
    realised = performance.realised(check, reference)
    found = segments.compare(check, reference, realised)
    # The profiles of shards mix the scores of all versions.
    current = columns.window_profile(check, reference, spec.profiles if check.version is None else [])
    baselines = references.baselines(spec.reference, check, reference, current)
    references.keep(check.store, check.model, check.window, reference.version, current)
    explained = attributions.measure(check, reference)
    drift = columns.measure(
        check,
        reference,
        current,
        baselines,
        judge_labels=realised.immature is None,
        attributions=explained.drift,
    )
    estimated = performance.estimated(check, reference, realised)
    differences, without = fairness.measure(check, reference, realised)
    return Measurements(
        scored_by=reference.version,
        rows=check.rows,
        schema_changes=reference.schema_changes,
        freshness=timing.freshness(whole),
        label_delay=timing.delay(whole),
        realised=realised,
        estimated=estimated,
        positives=positives.positive_rate(check, reference),
        fairness=differences,
        drift=drift,
        reference=baselines.used,
        segments=found,
        notes=[*reference.notes, *realised.notes, *without, *baselines.notes, *explained.notes, *estimated.notes],
    )
