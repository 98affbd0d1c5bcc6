"""The lineage of the stages that make, label, monitor and delete predictions."""

from __future__ import annotations

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import OutputDataset

from airflow_mlops.core.calls import StepCall
from airflow_mlops.lineage import facets, sources
from airflow_mlops.lineage.datasets import Datasets
from airflow_mlops.lineage.facets import MLOpsVerdictRunFacet
from airflow_mlops.lineage.models import Models
from airflow_mlops.lineage.naming import bare
from airflow_mlops.lineage.stages.types import Lineage, ResultJson
from airflow_mlops.registry.versions import CHAMPION
from airflow_mlops.stages.compare_features.spec import CompareFeaturesSpec
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec
from airflow_mlops.stages.monitor.spec import MonitorResult, MonitorSpec
from airflow_mlops.stages.profile.spec import ProfileSpec
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsSpec
from airflow_mlops.stages.score.spec import ScoreResult, ScoreSpec


def score(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
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


def join_labels(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a join of labels, which reads predictions and labels and writes labelled predictions."""
    spec = JoinLabelsSpec.model_validate(call.spec)
    done = JoinLabelsResult.model_validate(result) if result else None
    made = datasets.manifest(done.dataset) if done and done.dataset else None
    return OperatorLineage(
        inputs=[*datasets.read(spec.predictions, output=made), *datasets.read(spec.labels, output=made)],
        outputs=[datasets.written(made.ref)] if made else [],
    )


def compare_features(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a comparison of features, which reads predictions and writes the differences."""
    spec = CompareFeaturesSpec.model_validate(call.spec)
    return OperatorLineage(
        inputs=datasets.read(spec.dataset), outputs=[datasets.planned(f"{spec.model}_feature_differences")]
    )


def profile(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of the step ``profile``, which reads a dataset."""
    return OperatorLineage(inputs=datasets.read(ProfileSpec.model_validate(call.spec).dataset))


def monitor(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
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


def purge_predictions(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a purge, which deletes rows of predictions and of labelled predictions."""
    spec = PurgePredictionsSpec.model_validate(call.spec)
    purged = (spec.predictions or f"{spec.model}_predictions", spec.outcomes or f"{spec.model}_outcomes")
    return OperatorLineage(outputs=[datasets.planned(name) for name in purged])
