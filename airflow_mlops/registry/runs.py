"""Create or resume MLflow runs. A task and its retries share one run, and find the run by a key in its tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.registry.client import registry_errors, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "mlops.key"


@contextmanager
def run_for(
    client: MlflowClient, experiment: str, key: str, name: str, tags: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Create the MLflow run with the tag ``mlops.key`` = ``key`` in ``experiment``, or resume the run in a retry.

    At the end of the block, the status of the run becomes ``FINISHED``. If the block raises an exception, the status
    becomes ``FAILED``. If the block is interrupted, the status becomes ``KILLED``.

    :param experiment: name of the MLflow experiment
    :param key: :attr:`StepContext.key`, which is the same in all retries of a task
    :param name: name of the run in MLflow
    :param tags: tags of the run, in addition to ``mlops.key``
    :return: context manager that yields the id of the run
    :raises RegistryError: the run can be neither found nor created
    """
    with registry_errors(f"MLflow run {name!r} cannot be opened in experiment {experiment!r}"):
        experiment_id = experiment_for(client, experiment)
        run_id = _find(client, experiment_id, key)
        if run_id is None:
            created = client.create_run(experiment_id, run_name=name, tags={**(tags or {}), KEY: key})
            run_id = created.info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
            for tag, value in (tags or {}).items():
                client.set_tag(run_id, tag, value)
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
        else:
            # An error here must not hide the original one.
            with suppress(Exception):
                client.set_terminated(run_id, status)


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


def _find(client: MlflowClient, experiment_id: str, key: str) -> str | None:
    # MLflow's filters have no escape character.
    quoted = f'"{key}"' if "'" in key else f"'{key}'"
    runs = client.search_runs([experiment_id], f"tags.`{KEY}` = {quoted}", max_results=1, order_by=["start_time ASC"])
    return str(runs[0].info.run_id) if runs else None


def run_url(client: MlflowClient, run_id: str) -> str | None:
    """Return the URL of the page of an MLflow run, or ``None`` if the tracking URI is not an HTTP server."""
    uri = without_credentials(client.tracking_uri).rstrip("/")
    if not uri.startswith(("http://", "https://")):
        return None
    with registry_errors(f"MLflow run {run_id} cannot be read"):
        experiment_id = client.get_run(run_id).info.experiment_id
    return f"{uri}/#/experiments/{experiment_id}/runs/{run_id}"
