"""The inputs that trainings and searches share in the cache (:mod:`airflow_mlops.stages.cache`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.catalog import is_custom
from airflow_mlops.models.trainers.spec import (
    BoostingTrainerSpec,
    FunctionTrainerSpec,
    ProgramTrainerSpec,
    SearchTrainerSpec,
    SklearnTrainerSpec,
    TorchTrainerSpec,
)
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.integrity import download_promoted
from airflow_mlops.registry.names import RESUMED_TAG
from airflow_mlops.registry.versions import champion, version
from airflow_mlops.stages.cached_versions import content

if TYPE_CHECKING:
    from mlflow import MlflowClient


def import_paths(trainer: Any, metrics: Iterable[Any]) -> Iterator[str]:
    """Yield the import paths of the user's classes and functions in a trainer or search, and in a list of metrics.

    :raises NotCacheableError: the trainer runs a notebook or a project
    """
    own: list[Any] = list(metrics)
    if isinstance(trainer, SearchTrainerSpec):
        own.append(trainer.metric)
        trainer = trainer.trainer
    if isinstance(trainer, ProgramTrainerSpec):
        # A notebook can run any code and read any file.
        raise NotCacheableError(f"the code that {trainer.path!r} runs and the files that it reads are not known")
    yield from (metric for metric in own if isinstance(metric, str) and is_custom(metric))
    if isinstance(trainer, SklearnTrainerSpec):
        yield trainer.estimator
        yield from filter(None, [trainer.preprocessing])
    elif isinstance(trainer, FunctionTrainerSpec):
        yield trainer.function
    elif isinstance(trainer, TorchTrainerSpec):
        yield from filter(None, [trainer.module, trainer.dataset])


def start(trainer: Any, model: str, client: MlflowClient, store: ArtifactStore) -> dict[str, Any] | None:
    """Return the version from which boosted trees continue, and the hashes of its files.

    :param trainer: the trainer
    :param model: name of the registered model
    :return: ``None`` if the training starts without trees
    :raises MLOpsError: the version or its files do not exist any more, or files were changed after the promotion
    """
    if not isinstance(trainer, BoostingTrainerSpec) or trainer.warm_start is None:
        return None
    found = champion(client, model) if trainer.warm_start == "champion" else version(client, model, trainer.warm_start)
    return content(found, download_promoted(client, store, found)) if found is not None else None


def require_in_journal(search: SearchTrainerSpec) -> None:
    """Check that the study of a search is in the artifact store, where only the tries of one task can continue it.

    :raises NotCacheableError: the study is in a database
    """
    if search.storage_conn_id is not None:
        raise NotCacheableError("the search is stored in a database, so other searches may continue it")


def require_repeatable(client: MlflowClient, run_id: str) -> None:
    """Check that a new search with the same inputs would run the same trials.

    :param run_id: id of the MLflow run of the search
    :raises NotCacheableError: the search continued after an interruption, or a trial failed
    :raises RegistryError: the run does not exist any more
    """
    with registry_errors(f"The run {run_id} cannot be looked up"):
        data = client.get_run(run_id).data
    if RESUMED_TAG in data.tags:
        raise NotCacheableError("the search was interrupted, and a resumed search tries different parameters")
    if data.metrics.get("trials_failed"):
        raise NotCacheableError("a trial of the search failed, and may succeed if the search runs again")
