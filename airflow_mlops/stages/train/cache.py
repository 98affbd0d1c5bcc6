"""What determines a candidate, for the cache (:mod:`airflow_mlops.stages.cache`)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_mlops.core import own_code
from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.data.selection import contents, select_one
from airflow_mlops.metrics.catalog import is_custom
from airflow_mlops.models.trainers.spec import (
    BoostingTrainerSpec,
    FunctionTrainerSpec,
    SearchTrainerSpec,
    SklearnTrainerSpec,
    TorchTrainerSpec,
)
from airflow_mlops.overview import index
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.integrity import file_hashes
from airflow_mlops.registry.versions import champion, download_into, version
from airflow_mlops.stages.cache import verified
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.spec import TrainResult, TrainSpec


def inputs(spec: TrainSpec, context: StepContext) -> dict[str, Any]:
    """Return the training set, the user's code, the version that the training continues and the retraining request.

    The retraining request is part of the inputs, because the MLflow run of the training records it.

    :raises NotCacheableError: the training runs on several nodes, or its search is stored in a database
    """
    if "PET_NODE_RANK" in os.environ:
        raise NotCacheableError("a training on several nodes is not cached")
    if isinstance(spec.trainer, SearchTrainerSpec) and spec.trainer.storage_conn_id is not None:
        raise NotCacheableError("the search is stored in a database, where other searches may continue it")
    request = context.provenance.request(spec.model)
    return {
        "spec": spec.model_dump(mode="json", exclude={"dataset"}),
        "datasets": contents([select_one(context.store, spec.dataset, context.kept)]),
        "code": own_code.hashes(_import_paths(spec)),
        "start": _start(spec, context),
        "request": request.id if request else None,
    }


def _import_paths(spec: TrainSpec) -> Iterator[str]:
    """Yield the import paths of the user's classes and functions in the spec."""
    metrics: list[Any] = list(spec.metrics)
    trainer = spec.trainer
    if isinstance(trainer, SearchTrainerSpec):
        metrics.append(trainer.metric)
        trainer = trainer.trainer
    yield from (metric for metric in metrics if isinstance(metric, str) and is_custom(metric))
    if isinstance(trainer, SklearnTrainerSpec):
        yield trainer.estimator
        yield from filter(None, [trainer.preprocessing])
    elif isinstance(trainer, FunctionTrainerSpec):
        yield trainer.function
    elif isinstance(trainer, TorchTrainerSpec):
        yield from filter(None, [trainer.module, trainer.dataset])


def _start(spec: TrainSpec, context: StepContext) -> dict[str, Any] | None:
    """Return the version from which boosted trees continue; ``None`` if they start without trees."""
    trainer = spec.trainer
    if not isinstance(trainer, BoostingTrainerSpec) or trainer.warm_start is None:
        return None
    client = connect(spec.mlflow, context.connection)
    if trainer.warm_start == "champion":
        found = champion(client, spec.model)
    else:
        found = version(client, spec.model, trainer.warm_start)
    return found.model_dump() if found is not None else None


def artifacts(result: TrainResult, spec: TrainSpec, context: StepContext) -> dict[str, str]:
    """Return the training set, and the hashes of the files of the version, which are downloaded for this.

    :raises RegistryError: the version, its files or its run do not exist any more
    :raises NotCacheableError: the run was deleted, or the number now belongs to another version
    :raises MLOpsError: the training set was purged or changed
    """
    checked = verified(context.store, result.dataset)
    client = connect(spec.mlflow, context.connection)
    with registry_errors(f"The run {result.run_id} cannot be looked up"):
        if client.get_run(result.run_id).info.lifecycle_stage != "active":
            raise NotCacheableError(f"its MLflow run {result.run_id} was deleted")
    found = version(client, result.candidate.model, result.candidate.version)
    # A new server may use the number for another version.
    if found != result.candidate:
        raise NotCacheableError(f"MLflow now uses the number of {result.candidate} for a different version")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        download_into(client, result.candidate, folder)
        return checked | file_hashes(folder)


def replay(result: TrainResult, spec: TrainSpec, context: StepContext) -> None:
    """Add the version to the index of the task's DAG."""
    index.trained(context.store, result.candidate, context.provenance.dag_id)
