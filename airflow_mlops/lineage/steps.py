"""What each step read and made, from what it was asked and what it answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import base_subset_dataset, data_quality_assertions_dataset

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.lineage import facets, sources
from airflow_mlops.lineage.datasets import Datasets, feature_view
from airflow_mlops.lineage.facets import Facets, MLOpsMeasuredInputDatasetFacet, MLOpsVerdictRunFacet
from airflow_mlops.lineage.models import Models
from airflow_mlops.lineage.naming import bare
from airflow_mlops.registry.versions import CHAMPION
from airflow_mlops.stages.evaluate.spec import EvaluateResult, EvaluateSpec
from airflow_mlops.stages.ingest.spec import IngestResult, IngestSpec
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesResult, MaterializeFeaturesSpec
from airflow_mlops.stages.monitor.spec import MonitorResult, MonitorSpec
from airflow_mlops.stages.profile.spec import ProfileSpec
from airflow_mlops.stages.promote.spec import PromoteResult, PromoteSpec
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsSpec
from airflow_mlops.stages.rollback.spec import RollbackResult, RollbackSpec
from airflow_mlops.stages.score.spec import ScoreResult, ScoreSpec
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.stages.train.spec import TrainResult, TrainSpec
from airflow_mlops.stages.training_set.spec import TrainingSetResult, TrainingSetSpec
from airflow_mlops.stages.validate.spec import ExpectationOutcome, ValidateResult, ValidateSpec
from airflow_mlops.stages.validate.step import read_outcomes

Answer = dict[str, Any] | None
Lineage = OperatorLineage[Any, Any]


def lineage_of(call: StepCall | None, result: Answer) -> Lineage:
    """What a step read and made.

    :param call: ``None`` if the task failed before there was one
    :param result: the step's result; ``None`` if it failed, and then only what it was asked for is told
    """
    if call is None:
        return OperatorLineage()
    found = _STEPS[call.step](call, result, Datasets(call.store))
    # Two roles of one dataset, such as champion and scorer, are one input.
    inputs = {(dataset.namespace, dataset.name): dataset for dataset in reversed(found.inputs)}
    return OperatorLineage(
        inputs=list(reversed(inputs.values())),
        outputs=found.outputs,
        run_facets=found.run_facets,
        job_facets=found.job_facets,
    )


def _ingest(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = IngestSpec.model_validate(call.spec)
    done = IngestResult.model_validate(result) if result else None
    made = datasets.manifest(done.dataset) if done else None
    found = sources.query(spec) if spec.sql else OperatorLineage(inputs=sources.files(spec, made))
    found.outputs = [datasets.written(done.dataset) if done else datasets.unwritten(spec.name)]
    return found


def _validate(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = ValidateSpec.model_validate(call.spec)
    done = ValidateResult.model_validate(result) if result else None
    outcomes = done.outcomes if done else read_outcomes(datasets.store, call.key)
    made = [ref for ref in (done.dataset, done.quarantined) if ref is not None and ref != spec.dataset] if done else []
    return OperatorLineage(
        inputs=[datasets.read(spec.dataset, told=_assertions(outcomes, spec.on_failure))],
        outputs=[datasets.written(ref) for ref in made],
    )


def _assertions(outcomes: Iterable[ExpectationOutcome], on_failure: str) -> Facets:
    assertions = []
    for outcome in outcomes:
        stops = on_failure == "fail" or (on_failure == "quarantine" and outcome.unexpected is None)
        kind, _, about = outcome.expectation.removesuffix(")").partition("(")
        assertions.append(
            data_quality_assertions_dataset.Assertion(
                assertion=kind,
                success=outcome.success,
                # Columns that are compared, and sets of them, stand together.
                column=about if re.fullmatch(r"[^,\[\]]+", about) else None,
                name=outcome.expectation,
                severity="error" if stops else "warn",
                params={} if outcome.unexpected is None else {"unexpected": outcome.unexpected},
            )
        )
    facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet
    return {"dataQualityAssertions": facet(assertions=assertions)} if assertions else {}


def _materialize_features(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
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
    return OperatorLineage(inputs=[datasets.read(source.dataset) for source in spec.sources.values()], outputs=outputs)


def _training_set(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = TrainingSetSpec.model_validate(call.spec)
    if not result:
        return OperatorLineage(inputs=[datasets.read(spec.entities)], outputs=[datasets.unwritten(spec.name)])
    done = TrainingSetResult.model_validate(result)
    made = datasets.manifest(done.dataset)
    return OperatorLineage(
        inputs=[datasets.read(spec.entities, into=made), *_features(made)], outputs=[datasets.written(done.dataset)]
    )


def _features(made: Manifest) -> list[InputDataset]:
    """The feature views that a training set was joined from, and the service that named them."""
    project, service = made.source.get("feast_project"), made.details.get("feature_service")
    if not project:
        return []
    types = {column.name: column.type for column in made.columns}
    refs = [ref.partition(":") for ref in made.details["feature_refs"]]
    # Who materialises a view says what is in it; here are only the features that were asked for.
    views: dict[str, dict[str, str]] = {view: {} for view, _, _ in refs}
    if service:
        views[service] = {name: types.get(f"{view}__{name}") or types[name] for view, _, name in refs}
    return [
        InputDataset(namespace, name, facets=known)
        for namespace, name, known in (feature_view(project, view, features) for view, features in views.items())
    ]


def _search(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    return OperatorLineage(inputs=[datasets.read(SearchSpec.model_validate(call.spec).dataset)])


def _train(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = TrainSpec.model_validate(call.spec)
    inputs = [datasets.read(spec.dataset)]
    if not result:
        return OperatorLineage(inputs=inputs)
    done = TrainResult.model_validate(result)
    manifest = datasets.manifest(spec.dataset)
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


def _evaluate(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = EvaluateSpec.model_validate(call.spec)
    models = Models(spec.mlflow)
    if not result:
        held_out = [datasets.read(spec.dataset, part=spec.part)] if spec.dataset else []
        return OperatorLineage(inputs=[*held_out, *map(models.read, spec.candidates)])
    verdict = EvaluateResult.model_validate(result).verdict
    measured_on = DatasetRef(name=verdict.dataset_name, id=verdict.dataset_id, rows=0)
    inputs = [datasets.read(measured_on, part=verdict.part)]

    def measured(metrics: dict[str, float]) -> MLOpsMeasuredInputDatasetFacet:
        return MLOpsMeasuredInputDatasetFacet(dataset=verdict.dataset_id, part=verdict.part, metrics=metrics)

    inputs += [
        models.read(item.candidate, gates=item.gates, measured=measured(item.metrics)) for item in verdict.candidates
    ]
    if verdict.champion:
        inputs.append(models.read(verdict.champion, measured=measured(verdict.champion_metrics)))
    won = verdict.winner
    told = MLOpsVerdictRunFacet(
        model=verdict.model,
        verdict="accepted" if won else "refused",
        version=won.version if won else None,
        reason=verdict.reason,
        metrics=verdict.for_candidate(won).metrics if won else None,
    )
    return OperatorLineage(inputs=inputs, run_facets={"mlops_verdict": told})


def _promote(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = PromoteSpec.model_validate(call.spec)
    models, verdict = Models(spec.mlflow), spec.verdict
    judged = [verdict.winner] if verdict.winner else [item.candidate for item in verdict.candidates]
    inputs = [models.read(ref) for ref in judged]
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


def _rollback(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    if not result:
        return OperatorLineage()
    models = Models(RollbackSpec.model_validate(call.spec).mlflow)
    done = RollbackResult.model_validate(result)
    told = MLOpsVerdictRunFacet(
        model=done.model,
        verdict="rolled_back" if done.rolled_back else "unchanged",
        version=done.champion.version,
        reason=done.reason,
    )
    return OperatorLineage(
        inputs=[models.read(done.champion)],
        outputs=[models.written(done.champion, alias=CHAMPION)] if done.rolled_back else [],
        run_facets={"mlops_verdict": told},
    )


def _score(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = ScoreSpec.model_validate(call.spec)
    done = ScoreResult.model_validate(result) if result else None
    if done is None or done.dataset is None or done.scored_by is None:
        return OperatorLineage(inputs=[datasets.read(spec.dataset, part=spec.part)])
    models = Models(spec.mlflow)
    return OperatorLineage(
        inputs=[
            datasets.read(spec.dataset, part=spec.part, into=datasets.manifest(done.dataset)),
            models.read(done.scored_by),
            models.read(done.scored_by, alias=CHAMPION),
        ],
        outputs=[datasets.written(done.dataset)],
    )


def _join_labels(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = JoinLabelsSpec.model_validate(call.spec)
    done = JoinLabelsResult.model_validate(result) if result else None
    made = datasets.manifest(done.dataset) if done and done.dataset else None
    return OperatorLineage(
        inputs=[datasets.read(spec.predictions, into=made), datasets.read(spec.labels, into=made)],
        outputs=[datasets.written(made.ref)] if made else [],
    )


def _profile(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    return OperatorLineage(inputs=[datasets.read(ProfileSpec.model_validate(call.spec).dataset)])


def _monitor(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = MonitorSpec.model_validate(call.spec)
    inputs = [datasets.read(spec.dataset)] if spec.dataset else []
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
            **facets.about(f"Drift and realised performance of {done.model}"),
        },
    )
    told = MLOpsVerdictRunFacet(
        model=done.model,
        verdict=done.decision,
        version=done.champion.version if done.champion else None,
        reason=done.reason,
        metrics=done.metrics,
    )
    return OperatorLineage(inputs=inputs, outputs=[report], run_facets={"mlops_verdict": told})


def _purge_predictions(call: StepCall, result: Answer, datasets: Datasets) -> Lineage:
    spec = PurgePredictionsSpec.model_validate(call.spec)
    names = (spec.predictions or f"{spec.model}_predictions", spec.outcomes or f"{spec.model}_outcomes")
    return OperatorLineage(outputs=[datasets.unwritten(name) for name in names])


_STEPS: dict[str, Callable[[StepCall, Answer, Datasets], Lineage]] = {
    "ingest": _ingest,
    "validate": _validate,
    "materialize_features": _materialize_features,
    "training_set": _training_set,
    "search": _search,
    "train": _train,
    "evaluate": _evaluate,
    "promote": _promote,
    "rollback": _rollback,
    "score": _score,
    "join_labels": _join_labels,
    "profile": _profile,
    "monitor": _monitor,
    "purge_predictions": _purge_predictions,
}
