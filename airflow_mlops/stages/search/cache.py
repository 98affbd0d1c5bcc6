"""The inputs and the artifacts of a search, for the cache (:mod:`airflow_mlops.stages.cache`).

Only a search with one worker is cached. With several workers, the trials depend on how fast each worker is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.core import own_code
from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.data.selection import contents, select_one
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.reader import connect_to_read
from airflow_mlops.stages.cache import require_unpurged, verified
from airflow_mlops.stages.cached_trainings import import_paths, require_in_journal, require_repeatable
from airflow_mlops.stages.cached_versions import require_run
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.search.record import PARENT
from airflow_mlops.stages.search.spec import SearchResult, SearchSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


def inputs(spec: SearchSpec, context: StepContext) -> dict[str, Any]:
    """Return everything that determines the result of a search: spec, training set, user's code and retraining request.

    The retraining request is part of the inputs, because the MLflow run of the search records it.

    :raises NotCacheableError: the task is mapped, the study is in a database, or the training set was purged
    """
    if context.provenance.map_index >= 0:
        raise NotCacheableError("the instances of a mapped task are workers of one search, whose trials depend on time")
    require_in_journal(spec.search)
    dataset = select_one(context.store, spec.dataset, context.kept)
    require_unpurged([dataset])
    request = context.provenance.request(spec.model)
    return {
        "spec": spec.model_dump(mode="json", exclude={"dataset"}),
        "datasets": contents([dataset]),
        "code": own_code.hashes(import_paths(spec.search, ())),
        "request": request.id if request else None,
    }


def artifacts(result: SearchResult, spec: SearchSpec, context: StepContext) -> dict[str, str]:
    """Check the training set, and return its id and fingerprints of the MLflow runs of the search and of its trials.

    :raises NotCacheableError: the run was deleted or has another URL, or a new search would run other trials
    :raises MLOpsError: the training set was purged or changed, or the run does not exist any more
    """
    found = verified(context.store, result.dataset)
    client = connect_to_read(spec.mlflow, context.connection)
    require_run(client, result.run_id, result.run_url)
    require_repeatable(client, result.run_id)
    return found | {"runs": _recorded(client, result.run_id)}


def _recorded(client: MlflowClient, run_id: str) -> str:
    """Return a fingerprint of the run of a search and the runs of its trials: parameters, metrics and states."""
    with registry_errors(f"The runs of the search {run_id} cannot be read"):
        parent = client.get_run(run_id)
        trials = client.search_runs([parent.info.experiment_id], f"tags.`{PARENT}` = '{run_id}'", max_results=50_000)
    runs = [parent, *sorted(trials, key=lambda run: str(run.info.run_id))]
    return fingerprint([[run.info.run_id, run.info.status, run.data.params, run.data.metrics] for run in runs])


def replay(result: SearchResult, spec: SearchSpec, context: StepContext) -> None:
    """Do nothing: a search has no effect other than its study and its runs in MLflow."""
