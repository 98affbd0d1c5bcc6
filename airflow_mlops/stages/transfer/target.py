"""Register a copied version in the target registry, at most once."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import ModelCorruptError, RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import contracts
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.integrity import difference, file_hashes
from airflow_mlops.registry.run_places import place
from airflow_mlops.registry.runs import run_for
from airflow_mlops.registry.versions import download_into, of_run, register
from airflow_mlops.stages.transfer.source import Package

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Maximum numbers of parameters and of metrics that MLflow accepts in one request.
_PARAMS, _METRICS = 100, 1000


def receive(
    client: MlflowClient,
    store: ArtifactStore,
    model: str,
    key: str,
    package: Package,
    files: Mapping[str, str],
    tags: dict[str, str],
) -> ModelVersionRef:
    """Register the version, unless an earlier try has done so, and check its files.

    :param store: artifact store of the target
    :param key: key of the transfer. A key has one MLflow run, and a run has one version
    :param files: SHA-256 of each file of the version, by path
    :param tags: tags that say where the version comes from
    :raises RegistryError: MLflow refuses the version
    :raises ModelCorruptError: the files in the target differ from those of the source
    """
    run_tags = {"mlops.model": model, **package.run_tags, **tags}
    with run_for(client, store, model, key, package.run_name, run_tags) as run_id:
        ref = of_run(client, model, run_id) or _upload(client, model, run_id, package, tags)
        with temporary_folder("model") as temporary:
            folder = temporary / "model"
            download_into(client, ref, folder)
            found = difference(files, file_hashes(folder))
        if found is not None:
            raise ModelCorruptError(
                f"The files of {ref} in the target registry differ from those of the source: {found}. Delete this version there and "
                "retry."
            )
        with registry_errors(f"The description of {ref} cannot be written"):
            # A description that a person wrote after an earlier try is not overwritten.
            if package.description and not client.get_model_version(model, str(ref.version)).description:
                client.update_model_version(model, str(ref.version), package.description)
        if package.contract is not None:
            contracts.put(client, store, ref, package.contract)
    return ref


def _upload(client: MlflowClient, model: str, run_id: str, package: Package, tags: dict[str, str]) -> ModelVersionRef:
    try:
        with registry_errors(f"The copy of {package.run_name!r} cannot be written to MLflow"):
            _log_run(client, run_id, package)
            model_id = _log_model(client, model, run_id, package)
        ref = register(client, model, run_id, model_id, {**package.version_tags, **tags})
    except RegistryError:
        # In the meantime, another try of this task may have registered its model and deleted the model of this try.
        other = of_run(client, model, run_id)
        if other is None:
            raise
        ref = other
    return ref


def _log_run(client: MlflowClient, run_id: str, package: Package) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in package.metrics.items()]
    for start in range(0, len(metrics), _METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS])
    params = [Param(name, value) for name, value in package.params.items()]
    for start in range(0, len(params), _PARAMS):
        client.log_batch(run_id, params=params[start : start + _PARAMS])
    client.log_artifacts(run_id, str(package.evidence_files))


def _log_model(client: MlflowClient, model: str, run_id: str, package: Package) -> str:
    experiment_id = place(client, run_id).experiment_id
    logged = client.create_logged_model(experiment_id, name=_logged_name(model), source_run_id=run_id)
    # The file MLmodel still names the run and the model of the source, because a changed file would have another hash.
    client.log_model_artifacts(logged.model_id, str(package.model))
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _logged_name(model: str) -> str:
    # MLflow allows these characters in the names of registered models, but not in those of logged models.
    return re.sub("[/:.%\"']", "_", model)
