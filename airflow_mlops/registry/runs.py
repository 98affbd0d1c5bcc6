"""Create or resume MLflow runs. All tries of a task share one run.

Two tries may run at the same time, if the worker of the first try has lost contact with Airflow but still runs.
MLflow's client may also create a second run, if the response to its first request was lost. Therefore the first try
that creates a file in the artifact store *claims* the key of the task for its run. All tries use the claimed run, and
other runs with this key are deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import RegistryError, StoreError
from airflow_mlops.data.store import ATTEMPTS, ArtifactStore
from airflow_mlops.registry.client import is_missing, quoted, registry_errors, unless_missing, without_credentials
from airflow_mlops.registry.run_places import place, remember

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

KEY = "mlops.key"


@contextmanager
def run_for(
    client: MlflowClient,
    store: ArtifactStore,
    experiment: str,
    key: str,
    name: str,
    tags: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Create the MLflow run with the tag ``mlops.key`` = ``key`` in ``experiment``, or resume the run in a retry.

    At the end of the block, the status of the run becomes ``FINISHED``. If the block raises an exception, the status
    becomes ``FAILED``. If the block is interrupted, the status becomes ``KILLED``. If another try has finished the run
    in the meantime, a failing try does not change its status.

    :param store: artifact store in which the tries of the task share the id of the run
    :param experiment: name of the MLflow experiment
    :param key: :attr:`StepContext.key`, which is the same in all retries of a task
    :param name: name of the run in MLflow
    :param tags: tags of the run, in addition to ``mlops.key``
    :return: context manager that yields the id of the run
    :raises RegistryError: the run can be neither found nor created
    :raises StoreError: the artifact store cannot be used
    """
    folder = f"runs/{key.removesuffix('.json')}"
    with registry_errors(f"MLflow run {name!r} cannot be opened in experiment {experiment!r}"):
        experiment_id = experiment_for(client, experiment)
        run_id = claimed_run(client, store, folder, experiment_id, key, name, tags)
    status = "KILLED"
    try:
        yield run_id
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        if status == "FINISHED":
            with registry_errors(f"MLflow run {name!r} cannot be ended"):
                client.set_terminated(run_id, status)
                # MLflow may have created another run late, after the client had stopped waiting for the response.
                _delete_unclaimed(client, store, folder, experiment_id, key, run_id)
        else:
            # An error here must not hide the original one.
            with suppress(Exception):
                if client.get_run(run_id).info.status != "FINISHED":
                    client.set_terminated(run_id, status)


def claimed_run(
    client: MlflowClient,
    store: ArtifactStore,
    folder: str,
    experiment_id: str,
    key: str,
    name: str,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Return the id of the only MLflow run with the tag ``mlops.key`` = ``key``, and set its status to ``RUNNING``.

    The files ``folder/1``, ``folder/2``, ... contain ids of runs. The first of these runs that was not deleted is used.
    If all of them were deleted, or there are none, the next file is created. A file never changes, so all callers use
    the same run.

    :param folder: folder of the artifact store with the claims of this key
    :param name: name of a new run in MLflow
    :param tags: tags of the run, in addition to ``mlops.key``
    :raises RegistryError: the run was deleted repeatedly
    """
    own: str | None = None
    created = False
    for number in range(1, ATTEMPTS + 1):
        claim = f"{folder}/{number}"
        run_id = _read(store, claim)
        if run_id is None:
            if own is None and (own := _unclaimed(client, experiment_id, key)) is None:
                made = client.create_run(experiment_id, run_name=name, tags={**(tags or {}), KEY: key})
                remember(client, made)
                own, created = str(made.info.run_id), True
            # If the response to the write was lost and the write was repeated, the file already exists and contains
            # this run's id.
            try:
                run_id = own if store.create_exclusive(claim, own.encode()) else store.read_bytes(claim).decode()
            except StoreError:
                # The next try finds this run by its tag. Until then, MLflow must not show it as running.
                if created:
                    with suppress(Exception):
                        client.set_terminated(own, "FAILED")
                raise
        # No other try deletes a run that has the first claim.
        if (created and number == 1 and run_id == own) or _is_active(client, run_id):
            break
        own = None if own == run_id else own
    else:
        raise RegistryError(f"The MLflow run of {key!r} was deleted {ATTEMPTS} times.")
    if created:
        _delete_unclaimed(client, store, folder, experiment_id, key, run_id)
    if not created or run_id != own:
        client.update_run(run_id, status="RUNNING")
        for tag, value in (tags or {}).items():
            client.set_tag(run_id, tag, value)
    return run_id


def _read(store: ArtifactStore, claim: str) -> str | None:
    try:
        return store.read_bytes(claim).decode()
    except FileNotFoundError:
        return None


def _is_active(client: MlflowClient, run_id: str) -> bool:
    stage = ""
    with unless_missing():
        stage = client.get_run(run_id).info.lifecycle_stage
    return stage == "active"


def _delete_unclaimed(
    client: MlflowClient, store: ArtifactStore, folder: str, experiment_id: str, key: str, run_id: str
) -> None:
    """Delete the runs of a key that no file claims.

    Such a run was created by a try that claimed the key too late, or by a request that was repeated after its response
    was lost.
    """
    others = [run.info.run_id for run in _runs(client, experiment_id, key) if run.info.run_id != run_id]
    claimed = set(map(bytes.decode, store.read_many(store.keys(folder)).values())) if others else set()
    delete_runs(client, [other for other in others if other not in claimed])


def delete_runs(client: MlflowClient, run_ids: list[str]) -> None:
    """Delete runs that duplicate another one. A failure is only logged, because the other run is complete."""
    from mlflow.exceptions import MlflowException

    for run_id in run_ids:
        try:
            client.delete_run(run_id)
        except MlflowException as error:
            if not is_missing(error):
                log.warning("MLflow run %s duplicates another run and cannot be deleted: %s", run_id, error.message)


def experiment_for(client: MlflowClient, name: str) -> str:
    """Return the id of the MLflow experiment ``name``. If the experiment does not exist, create it.

    :raises RegistryError: the experiment was deleted
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            # Another mapped task has created it at the same time.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"MLflow experiment {name!r} was deleted. Restore it "
            f"(`mlflow experiments restore -x {found.experiment_id}`) or set another `experiment`."
        )
    return str(found.experiment_id)


def _unclaimed(client: MlflowClient, experiment_id: str, key: str) -> str | None:
    """Return the oldest run of a key; ``None`` if there is no run.

    The run was created by a try that crashed before its claim, or by an earlier release, which had no claims.
    """
    found = _runs(client, experiment_id, key)
    return str(found[0].info.run_id) if found else None


def _runs(client: MlflowClient, experiment_id: str, key: str) -> list[Run]:
    return list(client.search_runs([experiment_id], f"tags.`{KEY}` = {quoted(key)}", order_by=["start_time ASC"]))


def run_url(client: MlflowClient, run_id: str) -> str | None:
    """Return the URL of the page of an MLflow run, or ``None`` if the tracking URI is not an HTTP server."""
    uri = without_credentials(client.tracking_uri).rstrip("/")
    if not uri.startswith(("http://", "https://")):
        return None
    with registry_errors(f"MLflow run {run_id} cannot be read"):
        experiment_id = place(client, run_id).experiment_id
    return f"{uri}/#/experiments/{experiment_id}/runs/{run_id}"
