"""Cache support of the stage ``train``, see :mod:`airflow_mlops.stages.cache`."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from airflow_mlops.core import own_code
from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.data.selection import contents, select_one
from airflow_mlops.models.trainers.spec import SearchTrainerSpec
from airflow_mlops.overview import candidates
from airflow_mlops.registry import run_files
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.names import CODE_FILE, ENVIRONMENT_FILE, SEARCH_TAG, TRAINING_FILE
from airflow_mlops.registry.reader import connect_to_read
from airflow_mlops.stages.cache import verified
from airflow_mlops.stages.cached_trainings import import_paths, require_in_journal, require_repeatable, start
from airflow_mlops.stages.cached_versions import require_run, require_same, stored_files
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.spec import TrainResult, TrainSpec


def inputs(spec: TrainSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the training.

    They are the training set, the user's code, the version from which ``warm_start`` continues, and the retraining
    request. The MLflow run of the training records the request.

    :raises NotCacheableError: the training runs on several nodes or runs a notebook or project, or its search is stored
        in a database
    """
    if "PET_NODE_RANK" in os.environ:
        raise NotCacheableError("a training on several nodes is not cached")
    if isinstance(spec.trainer, SearchTrainerSpec):
        require_in_journal(spec.trainer)
    request = context.provenance.request(spec.model)
    return {
        "spec": spec.model_dump(mode="json", exclude={"dataset"}),
        "datasets": contents([select_one(context.store, spec.dataset, context.kept)]),
        "code": own_code.hashes(import_paths(spec.trainer, spec.metrics)),
        "start": start(spec.trainer, spec.model, connect_to_read(spec.mlflow, context.connection), context.store),
        "request": request.id if request else None,
    }


def artifacts(result: TrainResult, spec: TrainSpec, context: StepContext) -> dict[str, str]:
    """Return the id of the training set, and hashes of files of the version and of its MLflow run.

    The files are downloaded for this.

    :raises RegistryError: the version, its files or its run do not exist any more
    :raises NotCacheableError: the run was deleted or has another URL, a search before the training cannot be repeated,
        or the number now belongs to another version
    :raises MLOpsError: the training set was purged or changed
    """
    checked = verified(context.store, result.dataset)
    client = connect_to_read(spec.mlflow, context.connection)
    require_run(client, result.run_id, result.run_url)
    if isinstance(spec.trainer, SearchTrainerSpec):
        with registry_errors(f"The run {result.run_id} cannot be looked up"):
            search = client.get_run(result.run_id).data.tags[SEARCH_TAG]
        require_repeatable(client, search)
    require_same(client, result.candidate)
    # Evaluations, refits and reproductions read these files.
    with registry_errors(f"The files of run {result.run_id} cannot be read"):
        for name in (TRAINING_FILE, CODE_FILE, ENVIRONMENT_FILE):
            checked[f"run {name}"] = hashlib.sha256(run_files.read(client, result.run_id, name)).hexdigest()
    return checked | stored_files(client, result.candidate)


def replay(result: TrainResult, spec: TrainSpec, context: StepContext) -> None:
    """Add the version to the index of the task's DAG."""
    candidates.trained(context.store, result.candidate, context.provenance.dag_id)
