"""The OpenLineage inputs and outputs of each step, derived from the spec and the result of the step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import base_subset_dataset, data_quality_assertions_dataset

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.references import DatasetRef, MLflowTarget, ModelVersionRef, names
from airflow_mlops.core.usage import Usage
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.lineage import facets, sources
from airflow_mlops.lineage.datasets import Datasets, feature_view
from airflow_mlops.lineage.facets import (
    Facets,
    MLOpsMeasuredInputDatasetFacet,
    MLOpsUsageRunFacet,
    MLOpsVerdictRunFacet,
)
from airflow_mlops.lineage.models import Models
from airflow_mlops.lineage.naming import bare
from airflow_mlops.registry.versions import CHAMPION
from airflow_mlops.stages.canary.spec import CanaryResult, CanarySpec
from airflow_mlops.stages.compare_features.spec import CompareFeaturesSpec
from airflow_mlops.stages.deploy.spec import DeploySpec
from airflow_mlops.stages.evaluate.spec import EvaluateResult, EvaluateSpec
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsResult, ForecastRowsSpec
from airflow_mlops.stages.ingest.spec import IngestResult, IngestSpec
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesResult, MaterializeFeaturesSpec
from airflow_mlops.stages.monitor.spec import MonitorResult, MonitorSpec
from airflow_mlops.stages.profile.spec import ProfileSpec
from airflow_mlops.stages.promote.spec import PromoteResult, PromoteSpec
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsSpec
from airflow_mlops.stages.refit.spec import RefitResult, RefitSpec
from airflow_mlops.stages.rollback.spec import RollbackResult, RollbackSpec
from airflow_mlops.stages.score.spec import ScoreResult, ScoreSpec
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.stages.train.spec import TrainResult, TrainSpec
from airflow_mlops.stages.training_set.spec import TrainingSetResult, TrainingSetSpec
from airflow_mlops.stages.transfer.spec import TransferResult, TransferSpec
from airflow_mlops.stages.validate.outcomes import read_outcomes
from airflow_mlops.stages.validate.spec import ExpectationOutcome, ValidateResult, ValidateSpec

ResultJson = dict[str, Any] | None
Lineage = OperatorLineage[Any, Any]


def lineage_of(call: StepCall | None, result: ResultJson) -> Lineage:
    """Return the lineage of a step.

    :param call: the step call, with the name and the spec of the step; ``None`` if the task failed before it created
        the call
    :param result: the result of the step as JSON; ``None`` if the step failed. In this case the lineage is derived from
        the spec alone
    """
    if call is None:
        return OperatorLineage()
    found = _STEPS[call.step](call, result, Datasets(call.store))
    # A dataset with two roles, such as champion and scoring version, becomes one input.
    inputs = {(dataset.namespace, dataset.name): dataset for dataset in reversed(found.inputs)}
    return OperatorLineage(
        inputs=list(reversed(inputs.values())),
        outputs=found.outputs,
        run_facets={**found.run_facets, **_usage(result)},
        job_facets=found.job_facets,
    )


def _usage(result: ResultJson) -> dict[str, Any]:
    """Return the run facet with the usage of the step; empty for a failed step and for results of earlier releases."""
    if not result or not result.get("usage"):
        return {}
    usage = Usage.model_validate(result["usage"])
    return {
        "mlops_usage": MLOpsUsageRunFacet(
            seconds=usage.seconds,
            cpuSeconds=usage.cpu_seconds,
            gpuSeconds=usage.gpu_seconds,
            peakMemoryMb=usage.peak_memory_mb,
            readBytes=usage.read_bytes,
            writtenBytes=usage.written_bytes,
            rows=usage.rows,
        )
    }


def _ingest(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of an ingestion, which reads tables or files and writes a raw dataset."""
    spec = IngestSpec.model_validate(call.spec)
    done = IngestResult.model_validate(result) if result else None
    made = datasets.manifest(done.dataset) if done else None
    found: Lineage = OperatorLineage(inputs=sources.files(spec, made))
    if spec.sql and spec.conn_id:
        found = sources.query(spec.conn_id, spec.sql)
    found.outputs = [datasets.written(done.dataset) if done else datasets.planned(spec.name)]
    return found


def _validate(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a validation, which reads a dataset and can write the valid and the quarantined rows.

    A validation in a database reads tables, and can write the quarantined rows.
    """
    spec = ValidateSpec.model_validate(call.spec)
    done = ValidateResult.model_validate(result) if result else None
    outcomes = done.outcomes if done else read_outcomes(datasets.store, call.key)
    if spec.dataset is None:
        found = _validated_in_database(spec, outcomes)
        found.outputs = [datasets.written(done.quarantined)] if done and done.quarantined else []
        return found
    valid = done.dataset if done else []
    written = [*(valid if isinstance(valid, list) else [valid]), done.quarantined if done else None]
    made = [ref for ref in written if ref is not None and ref.name not in names(spec.dataset)]
    return OperatorLineage(
        inputs=datasets.read(spec.dataset, input_facets=_assertions(outcomes, spec.on_failure)),
        outputs=[datasets.written(ref) for ref in made],
    )


def _validated_in_database(spec: ValidateSpec, outcomes: Iterable[ExpectationOutcome]) -> Lineage:
    assert spec.conn_id is not None  # the spec ensures it
    if spec.table is None:
        # The expectations concern the result of the query, and not its tables.
        return sources.query(spec.conn_id, spec.sql or "")
    assertions = _assertions(outcomes, spec.on_failure)
    return OperatorLineage(inputs=sources.validated_table(spec.conn_id, spec.table, assertions))


def _assertions(outcomes: Iterable[ExpectationOutcome], on_failure: str) -> Facets:
    assertions = []
    for outcome in outcomes:
        stops = on_failure == "fail" or (on_failure == "quarantine" and outcome.unexpected is None)
        kind, _, about = outcome.expectation.removesuffix(")").partition("(")
        assertions.append(
            data_quality_assertions_dataset.Assertion(
                assertion=kind,
                success=outcome.success,
                # Expectations about several columns have no single column.
                column=about if re.fullmatch(r"[^,\[\]]+", about) else None,
                name=outcome.expectation,
                severity="error" if stops else "warn",
                params={} if outcome.unexpected is None else {"unexpected": outcome.unexpected},
            )
        )
    facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet
    return {"dataQualityAssertions": facet(assertions=assertions)} if assertions else {}


def _materialize_features(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a materialization, which reads datasets and writes feature views."""
    spec = MaterializeFeaturesSpec.model_validate(call.spec)
    done = MaterializeFeaturesResult.model_validate(result) if result else None
    outputs = []
    for view in done.feature_views if done else ():
        assert done is not None
        namespace, name, known = feature_view(done.project, view, done.features.get(view, {}))
        window = base_subset_dataset.Partition(dimensions={"window": done.window.label})
        condition = base_subset_dataset.PartitionSubsetCondition(partitions=[window])
        subset = base_subset_dataset.OutputSubsetOutputDatasetFacet(outputCondition=condition)
        outputs.append(OutputDataset(namespace, name, outputFacets={"subset": subset}, facets=known))
    inputs = [found for source in spec.sources.values() for found in datasets.read(source.dataset)]
    return OperatorLineage(inputs=inputs, outputs=outputs)


def _forecast_rows(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of forecast rows, which are built from the values of series."""
    spec = ForecastRowsSpec.model_validate(call.spec)
    if not result:
        return OperatorLineage(inputs=datasets.read(spec.entities), outputs=[datasets.planned(spec.name)])
    done = ForecastRowsResult.model_validate(result)
    made = datasets.manifest(done.dataset)
    return OperatorLineage(inputs=datasets.read(spec.entities, output=made), outputs=[datasets.written(done.dataset)])


def _training_set(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a training set, which is built from events and feature views."""
    spec = TrainingSetSpec.model_validate(call.spec)
    if not result:
        return OperatorLineage(inputs=datasets.read(spec.entities), outputs=[datasets.planned(spec.name)])
    done = TrainingSetResult.model_validate(result)
    made = datasets.manifest(done.dataset)
    return OperatorLineage(
        inputs=[*datasets.read(spec.entities, output=made), *_features(made)], outputs=[datasets.written(done.dataset)]
    )


def _features(made: Manifest) -> list[InputDataset]:
    """Return the feature views from which a training set was joined, and their feature service if it used one."""
    project, service = made.source.get("feast_project"), made.details.get("feature_service")
    if not project:
        return []
    types = {column.name: column.type for column in made.columns}
    refs = [ref.partition(":") for ref in made.details["feature_refs"]]
    # The task that materializes a view emits the full schema. A training set may use only some features of the view.
    views: dict[str, dict[str, str]] = {view: {} for view, _, _ in refs}
    if service:
        views[service] = {name: types.get(f"{view}__{name}") or types[name] for view, _, name in refs}
    return [
        InputDataset(namespace, name, facets=known)
        for namespace, name, known in (feature_view(project, view, features) for view, features in views.items())
    ]


def _search(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a parameter search, which reads a training set."""
    return OperatorLineage(inputs=datasets.read(SearchSpec.model_validate(call.spec).dataset))


def _train(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a training, which reads a training set and writes a model version."""
    spec = TrainSpec.model_validate(call.spec)
    if not result:
        return OperatorLineage(inputs=datasets.read(spec.dataset))
    done = TrainResult.model_validate(result)
    inputs, manifest = datasets.read(done.dataset), datasets.manifest(done.dataset)
    features = set(manifest.details.get("features") or ())
    model = Models(spec.mlflow).written(
        done.candidate,
        signature=facets.schema((item.name, item.type) for item in manifest.columns if item.name in features),
        trainer=done.trainer,
        metrics=done.metrics,
        trainingSet=done.dataset.id,
        runUrl=done.run_url,
    )
    return OperatorLineage(inputs=inputs, outputs=[model])


def _evaluate(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of an evaluation.

    An evaluation reads the held-out split part, the candidates and the champion, and decides which candidate wins.
    """
    spec = EvaluateSpec.model_validate(call.spec)
    models = Models(spec.mlflow)
    if not result:
        held_out = datasets.read(spec.dataset, part=spec.part) if spec.dataset else []
        held_out += datasets.read(spec.evidence) if spec.evidence else []
        return OperatorLineage(inputs=[*held_out, *map(models.read, spec.candidates)])
    verdict = EvaluateResult.model_validate(result).verdict
    measured_on = DatasetRef(name=verdict.dataset_name, id=verdict.dataset_id, rows=0)
    if spec.evidence:
        inputs = datasets.read(spec.evidence, output=datasets.manifest(measured_on))
        outputs = [datasets.written(measured_on)]
    else:
        inputs, outputs = datasets.read(measured_on, part=verdict.part), []

    def measured(metrics: dict[str, float]) -> MLOpsMeasuredInputDatasetFacet:
        return MLOpsMeasuredInputDatasetFacet(dataset=verdict.dataset_id, part=verdict.part, metrics=metrics)

    inputs += [
        models.read(item.candidate, gates=item.gates, measured=measured(item.metrics)) for item in verdict.candidates
    ]
    if verdict.champion:
        inputs.append(models.read(verdict.champion, measured=measured(verdict.champion_metrics)))
    won = verdict.winner
    decision = MLOpsVerdictRunFacet(
        model=verdict.model,
        verdict="accepted" if won else "refused",
        version=won.version if won else None,
        reason=verdict.reason,
        metrics=verdict.for_candidate(won).metrics if won else None,
    )
    return OperatorLineage(inputs=inputs, outputs=outputs, run_facets={"mlops_verdict": decision})


def _refit(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a refit, which reads the winner and writes a model version."""
    spec = RefitSpec.model_validate(call.spec)
    models, winner = Models(spec.mlflow), spec.verdict.winner
    inputs = [models.read(winner)] if winner else []
    refit = RefitResult.model_validate(result).verdict.refit if result else None
    if refit is None or refit.version is None:
        return OperatorLineage(inputs=inputs)
    known: dict[str, Any] = {"metrics": spec.verdict.for_candidate(refit.judged).metrics}
    return OperatorLineage(inputs=inputs, outputs=[models.written(refit.version, **known)])


def _promote(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a promotion.

    A promotion reads the winning candidate, or all candidates if none won. If the winner is promoted, the promotion
    writes the alias ``champion``.
    """
    spec = PromoteSpec.model_validate(call.spec)
    models, verdict = Models(spec.mlflow), spec.verdict
    candidates = [verdict.winner] if verdict.winner else [item.candidate for item in verdict.candidates]
    inputs = [models.read(ref) for ref in candidates]
    if not result:
        return OperatorLineage(inputs=inputs)
    done = PromoteResult.model_validate(result)
    moved = done.champion if done.promoted else None
    known: dict[str, Any] = {"metrics": done.metrics, "trainingSet": done.dataset_id}
    return OperatorLineage(
        inputs=inputs,
        outputs=[models.written(moved, alias=CHAMPION, **known)] if moved else [],
        run_facets={
            "mlops_verdict": MLOpsVerdictRunFacet(
                model=done.model,
                verdict="promoted" if moved else "not_promoted",
                version=done.champion.version if done.champion else None,
                reason=done.reason,
                metrics=done.metrics or None,
            )
        },
    )


def _rollback(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a rollback.

    A rollback reads the version that is champion after the rollback. If this version was not champion before, the
    rollback writes the alias ``champion``.
    """
    if not result:
        return OperatorLineage()
    models = Models(RollbackSpec.model_validate(call.spec).mlflow)
    done = RollbackResult.model_validate(result)
    decision = MLOpsVerdictRunFacet(
        model=done.model,
        verdict="rolled_back" if done.rolled_back else "unchanged",
        version=done.champion.version,
        reason=done.reason,
    )
    return OperatorLineage(
        inputs=[models.read(done.champion)],
        outputs=[models.written(done.champion, alias=CHAMPION)] if done.rolled_back else [],
        run_facets={"mlops_verdict": decision},
    )


def _transfer(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a transfer, which reads a version of one registry and registers it in another."""
    if not result:
        return OperatorLineage()
    spec, done = TransferSpec.model_validate(call.spec), TransferResult.model_validate(result)
    target = Models(MLflowTarget(conn_id=spec.target_conn_id))
    return OperatorLineage(
        inputs=[Models(spec.mlflow).read(done.source)],
        outputs=[target.written(done.candidate)] if done.transferred else [],
    )


def _deploy(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a deployment, which reads the version that it deploys."""
    if not result:
        return OperatorLineage()
    models = Models(DeploySpec.model_validate(call.spec).mlflow)
    return OperatorLineage(inputs=[models.read(ModelVersionRef.model_validate(result["version"]))])


def _undeploy(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of the removal of an endpoint, which reads and writes no data."""
    return OperatorLineage()


def _canary(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a canary step, which reads the canary, its labelled predictions and those of the champion.

    If the canary is promoted, the step writes the alias ``champion``.
    """
    spec = CanarySpec.model_validate(call.spec)
    read = (spec.outcomes or f"{spec.model}_outcomes", spec.canary_outcomes or f"{spec.model}_canary_outcomes")
    inputs = [InputDataset(*datasets.name(f"datasets/{name}")) for name in read]
    done = CanaryResult.model_validate(result) if result else None
    if done is None or done.version is None:
        return OperatorLineage(inputs=inputs)
    models = Models(spec.mlflow)
    moved = done.champion if done.promoted else None
    return OperatorLineage(
        inputs=[*inputs, models.read(done.version)],
        outputs=[models.written(moved, alias=CHAMPION)] if moved else [],
        run_facets={
            "mlops_verdict": MLOpsVerdictRunFacet(
                model=done.model, verdict=done.state, version=done.version.version, reason=done.reason
            )
        },
    )


def _score(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a scoring, which reads rows and a version, and writes predictions as dataset and table."""
    spec = ScoreSpec.model_validate(call.spec)
    done = ScoreResult.model_validate(result) if result else None
    if done is None or done.dataset is None or done.scored_by is None:
        return OperatorLineage(inputs=datasets.read(spec.dataset, part=spec.part))
    models = Models(spec.mlflow)
    alias = spec.alias or (None if spec.shadow else CHAMPION)
    return OperatorLineage(
        inputs=[
            *datasets.read(spec.dataset, part=spec.part, output=datasets.manifest(done.dataset)),
            models.read(done.scored_by),
            *([models.read(done.scored_by, alias=alias)] if alias else []),
        ],
        outputs=[datasets.written(done.dataset), *(sources.table(done.written_to) if done.written_to else [])],
    )


def _join_labels(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a join of labels, which reads predictions and labels and writes labelled predictions."""
    spec = JoinLabelsSpec.model_validate(call.spec)
    done = JoinLabelsResult.model_validate(result) if result else None
    made = datasets.manifest(done.dataset) if done and done.dataset else None
    return OperatorLineage(
        inputs=[*datasets.read(spec.predictions, output=made), *datasets.read(spec.labels, output=made)],
        outputs=[datasets.written(made.ref)] if made else [],
    )


def _compare_features(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a comparison of features, which reads predictions and writes the differences."""
    spec = CompareFeaturesSpec.model_validate(call.spec)
    return OperatorLineage(
        inputs=datasets.read(spec.dataset), outputs=[datasets.planned(f"{spec.model}_feature_differences")]
    )


def _profile(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a profile, which reads a dataset."""
    return OperatorLineage(inputs=datasets.read(ProfileSpec.model_validate(call.spec).dataset))


def _monitor(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a check by MonitorOperator.

    A check reads labelled predictions, the champion and the version that made the predictions. It writes the report and
    decides whether to retrain.
    """
    spec = MonitorSpec.model_validate(call.spec)
    inputs = datasets.read(spec.dataset) if spec.dataset else []
    if not result:
        return OperatorLineage(inputs=inputs)
    done, models = MonitorResult.model_validate(result), Models(spec.mlflow)
    inputs += [models.read(ref) for ref in (done.champion, done.scored_by) if ref is not None]
    if done.champion is not None:
        inputs.append(models.read(done.champion, alias=CHAMPION))
    namespace, name = datasets.name(f"reports/{done.model}")
    report = OutputDataset(
        namespace,
        name,
        facets={
            **facets.source(namespace, bare(done.report_url)),
            **facets.version(done.window.label),
            **facets.documentation(f"Drift and performance of the model {done.model}"),
        },
    )
    decision = MLOpsVerdictRunFacet(
        model=done.model,
        verdict=done.decision,
        version=done.champion.version if done.champion else None,
        reason=done.reason,
        metrics=done.metrics,
    )
    return OperatorLineage(inputs=inputs, outputs=[report], run_facets={"mlops_verdict": decision})


def _purge_predictions(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a purge, which deletes rows of predictions and of labelled predictions."""
    spec = PurgePredictionsSpec.model_validate(call.spec)
    purged = (spec.predictions or f"{spec.model}_predictions", spec.outcomes or f"{spec.model}_outcomes")
    return OperatorLineage(outputs=[datasets.planned(name) for name in purged])


_STEPS: dict[str, Callable[[StepCall, ResultJson, Datasets], Lineage]] = {
    "ingest": _ingest,
    "validate": _validate,
    "materialize_features": _materialize_features,
    "forecast_rows": _forecast_rows,
    "training_set": _training_set,
    "search": _search,
    "train": _train,
    "evaluate": _evaluate,
    "refit": _refit,
    "promote": _promote,
    "rollback": _rollback,
    "transfer": _transfer,
    "deploy": _deploy,
    "undeploy": _undeploy,
    "canary": _canary,
    "score": _score,
    "join_labels": _join_labels,
    "compare_features": _compare_features,
    "profile": _profile,
    "monitor": _monitor,
    "purge_predictions": _purge_predictions,
}
