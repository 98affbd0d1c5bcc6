"""The lineage of the stages that make and compare model versions."""

from __future__ import annotations

from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.lineage import facets
from airflow_mlops.lineage.datasets import Datasets
from airflow_mlops.lineage.facets import (
    MLOpsMeasuredInputDatasetFacet,
    MLOpsVerdictRunFacet,
)
from airflow_mlops.lineage.models import Models
from airflow_mlops.lineage.stages.types import Lineage, ResultJson
from airflow_mlops.stages.evaluate.spec import EvaluateResult, EvaluateSpec
from airflow_mlops.stages.refit.spec import RefitResult, RefitSpec
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.stages.train.spec import TrainResult, TrainSpec


def search(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a parameter search, which reads a training set."""
    return OperatorLineage(inputs=datasets.read(SearchSpec.model_validate(call.spec).dataset))


def train(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
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


def evaluate(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of an evaluation.

    An evaluation reads the held-out split part, the candidates and the champion, and decides which candidate wins.
    """
    spec = EvaluateSpec.model_validate(call.spec)
    models = Models(spec.mlflow)
    verdict = EvaluateResult.model_validate(result).verdict if result else None
    if verdict is None:
        held_out = datasets.read(spec.dataset, part=spec.part) if spec.dataset else []
        held_out += datasets.read(spec.evidence) if spec.evidence else []
        return OperatorLineage(inputs=[*held_out, *map(models.read, spec.candidates)])
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


def refit(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a refit, which reads the winner and writes a model version."""
    spec = RefitSpec.model_validate(call.spec)
    models, winner = Models(spec.mlflow), spec.verdict.winner
    inputs = [models.read(winner)] if winner else []
    refit = RefitResult.model_validate(result).verdict.refit if result else None
    if refit is None or refit.version is None:
        return OperatorLineage(inputs=inputs)
    known: dict[str, Any] = {"metrics": spec.verdict.for_candidate(refit.judged).metrics}
    return OperatorLineage(inputs=inputs, outputs=[models.written(refit.version, **known)])
