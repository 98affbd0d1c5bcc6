"""The lineage of the stages that decide which version is used: promotion, rollback, transfer, deployment and canary."""

from __future__ import annotations

from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.lineage.datasets import Datasets
from airflow_mlops.lineage.facets import MLOpsVerdictRunFacet
from airflow_mlops.lineage.models import Models
from airflow_mlops.lineage.stages.types import Lineage, ResultJson
from airflow_mlops.registry.versions import CHAMPION
from airflow_mlops.stages.canary.spec import CanaryResult, CanarySpec
from airflow_mlops.stages.deploy.spec import DeploySpec
from airflow_mlops.stages.promote.spec import PromoteResult, PromoteSpec
from airflow_mlops.stages.rollback.spec import RollbackResult, RollbackSpec
from airflow_mlops.stages.transfer.spec import TransferResult, TransferSpec


def promote(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
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


def rollback(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
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


def transfer(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a transfer, which reads a version of one registry and registers it in another."""
    if not result:
        return OperatorLineage()
    spec, done = TransferSpec.model_validate(call.spec), TransferResult.model_validate(result)
    target = Models(MLflowTarget(conn_id=spec.target_conn_id))
    return OperatorLineage(
        inputs=[Models(spec.mlflow).read(done.source)],
        outputs=[target.written(done.candidate)] if done.transferred else [],
    )


def deploy(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a deployment, which reads the version that it deploys."""
    if not result:
        return OperatorLineage()
    models = Models(DeploySpec.model_validate(call.spec).mlflow)
    return OperatorLineage(inputs=[models.read(ModelVersionRef.model_validate(result["version"]))])


def undeploy(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of the removal of an endpoint, which reads and writes no data."""
    return OperatorLineage()


def canary(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
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
