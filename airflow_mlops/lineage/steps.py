"""The OpenLineage inputs and outputs of each step, derived from the spec and the result of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.usage import Usage
from airflow_mlops.lineage.datasets import Datasets
from airflow_mlops.lineage.facets import MLOpsUsageRunFacet
from airflow_mlops.lineage.stages import champion, data, predictions, training
from airflow_mlops.lineage.stages.types import Lineage, ResultJson


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


_STEPS: dict[str, Callable[[StepCall, ResultJson, Datasets], Lineage]] = {
    "ingest": data.ingest,
    "validate": data.validate,
    "materialize_features": data.materialize_features,
    "forecast_rows": data.forecast_rows,
    "training_set": data.training_set,
    "search": training.search,
    "train": training.train,
    "evaluate": training.evaluate,
    "refit": training.refit,
    "promote": champion.promote,
    "rollback": champion.rollback,
    "transfer": champion.transfer,
    "deploy": champion.deploy,
    "undeploy": champion.undeploy,
    "canary": champion.canary,
    "score": predictions.score,
    "join_labels": predictions.join_labels,
    "compare_features": predictions.compare_features,
    "profile": predictions.profile,
    "monitor": predictions.monitor,
    "purge_predictions": predictions.purge_predictions,
}
