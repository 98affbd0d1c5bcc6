"""Look up, download and register versions of models in MLflow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.cache import cached
from airflow_mlops.registry.client import is_missing, quoted, registry_errors, unless_missing
from airflow_mlops.registry.reader import NotReadError, Reader
from airflow_mlops.registry.run_places import place

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
# Tag of a version: the fingerprint of its export, contract, code and environment.
IDENTITY = "mlops.identity"
# Start of the source of a version that was registered from a logged model, before the id of the model.
_LOGGED = "models:/"


def champion(client: MlflowClient, model: str) -> ModelVersionRef | None:
    """Return the version of ``model`` with the alias ``champion``, or ``None`` if there is no such version or model."""
    return by_alias(client, model, CHAMPION)


def by_alias(client: MlflowClient, model: str, alias: str) -> ModelVersionRef | None:
    """Return the version of ``model`` with an alias, or ``None`` if there is no such version or model."""
    found = _by_alias(client, model, alias)
    return _ref(found) if found is not None else None


def _by_alias(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    with registry_errors(f"The {alias} of {model!r} cannot be looked up"):
        try:
            return client.get_model_version_by_alias(model, alias)
        except Exception as error:
            if is_missing(error) or f"alias {alias} not found" in str(error):
                return None
            raise


def find(client: MlflowClient, model: str, number_or_alias: str) -> ModelVersionRef | None:
    """Return a version by its number or alias, or ``None`` if no version has the alias.

    :raises RegistryError: there is no version with the number
    """
    found = _find(client, model, number_or_alias)
    return _ref(found) if found is not None else None


def find_tagged(
    client: MlflowClient, model: str, number_or_alias: str
) -> tuple[ModelVersionRef | None, dict[str, str]]:
    """Return a version by its number or alias, and its tags.

    :return: ``(None, {})`` if no version has the alias
    :raises RegistryError: there is no version with the number
    """
    found = _find(client, model, number_or_alias)
    return (_ref(found), dict(found.tags)) if found is not None else (None, {})


def _find(client: MlflowClient, model: str, number_or_alias: str) -> ModelVersion | None:
    if not number_or_alias.isdecimal():
        return _by_alias(client, model, number_or_alias)
    with registry_errors(f"{model} v{number_or_alias} is not in the MLflow registry"):
        return client.get_model_version(model, number_or_alias)


def version(client: MlflowClient, model: str, version: int) -> ModelVersionRef:
    """Return a reference to version number ``version`` of ``model``.

    :raises RegistryError: the version does not exist
    """
    with registry_errors(f"{model} v{version} is not in the MLflow registry"):
        return _ref(client.get_model_version(model, str(version)))


def download(client: MlflowClient, ref: ModelVersionRef) -> Path:
    """Download the files of a model version, and return the folder with the files.

    Downloads are cached in a private temporary folder of the user, see :mod:`airflow_mlops.registry.cache`.

    :raises RegistryError: the version or its files do not exist any more
    :raises SpecError: the setting ``[mlops] cache_size`` is not a size
    """
    with registry_errors(f"The files of {ref} cannot be downloaded from MLflow"):
        found = client.get_model_version(ref.model, str(ref.version))
        # Two servers may use the same version number for different models, so the folder name contains the source.
        identity = "\n".join(
            [client.tracking_uri, found.source or "", found.run_id or "", str(found.creation_timestamp)]
        )
        name = f"{ref.model.replace('/', '_')}-v{ref.version}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        try:
            return cached(name, lambda folder: download_into(client, ref, folder))
        except OSError as error:
            raise RegistryError(f"The files of {ref} cannot be downloaded from MLflow: {error}.") from error


def download_into(client: MlflowClient, ref: ModelVersionRef, folder: Path) -> None:
    """Download the files of a model version into ``folder``, without using the cache.

    :raises RegistryError: the version or its files do not exist any more
    """
    with registry_errors(f"The files of {ref} cannot be downloaded from MLflow"):
        reader: object = client
        if isinstance(reader, Reader):
            try:
                reader.download_version(ref.model, str(ref.version), folder)
                return
            except NotReadError:
                # The fallback: MLflow's client downloads all files again.
                client = reader.full()
        import mlflow

        mlflow.artifacts.download_artifacts(
            f"models:/{ref.model}/{ref.version}", dst_path=str(folder), tracking_uri=client.tracking_uri
        )


def register(
    client: MlflowClient, model: str, run_id: str, model_id: str, tags: Mapping[str, str] | None = None
) -> ModelVersionRef:
    """Register a logged model as a version of ``model``, and return the version.

    A run has one version. If a version was already registered from the run, that version is returned. Several versions
    may be registered at the same time, if two tries of a task run at the same time or a response of MLflow was lost. In
    this case, only the first version is kept. Other models that the run has logged are deleted.

    :param run_id: id of the MLflow run that logged the model
    :param model_id: id of the logged model in MLflow
    :param tags: tags of the new version
    :raises RegistryError: MLflow refuses to register the model
    """
    from mlflow.exceptions import MlflowException

    with registry_errors(f"Run {run_id} cannot be registered as a version of {model!r}"):
        if not _of_run(client, model, run_id):
            try:
                client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            try:
                client.create_model_version(
                    model, source=f"{_LOGGED}{model_id}", run_id=run_id, model_id=model_id, tags=dict(tags or {})
                )
            except MlflowException:
                # In the meantime, another try may have registered its model and deleted this one.
                if not _of_run(client, model, run_id):
                    raise
        # All tries keep the version with the smallest number, so they keep the same version.
        first, *others = _of_run(client, model, run_id)
        for other in others:
            # Another try, or a repeated request, may have deleted the version already.
            with unless_missing():
                client.delete_model_version(model, other.version)
        _delete_other_models(client, run_id, _model_id(first))
        return _ref(first)


def _delete_other_models(client: MlflowClient, run_id: str, model_id: str | None) -> None:
    """Delete the models that a run has logged, except the model of the run's version."""
    if model_id is None:
        return
    experiment_id = place(client, run_id).experiment_id
    for logged in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if logged.model_id != model_id:
            with unless_missing():
                client.delete_logged_model(logged.model_id)


def identical(client: MlflowClient, model: str, identity: str) -> ModelVersionRef | None:
    """Return the oldest version of ``model`` with the tag ``mlops.identity`` = ``identity``.

    :param identity: fingerprint of the version's export, contract, training parameters, code and environment
    :return: ``None`` if no version has this tag
    """
    with registry_errors(f"The versions of {model!r} cannot be searched"):
        found = client.search_model_versions(f"name = {quoted(model)} and tags.`{IDENTITY}` = {quoted(identity)}")
    # Only the oldest version of a run is kept (see register).
    return _ref(min(found, key=lambda item: int(item.version))) if found else None


def of_run(client: MlflowClient, model: str, run_id: str) -> ModelVersionRef | None:
    """Return the first version of ``model`` that was registered from the MLflow run, or ``None`` if there is none."""
    with registry_errors(f"The versions of {model!r} cannot be searched"):
        found = _of_run(client, model, run_id)
    return _ref(found[0]) if found else None


def model_id_of(client: MlflowClient, ref: ModelVersionRef) -> str | None:
    """Return the id of the logged model from which a version was registered.

    :return: ``None`` if the version was registered from other files
    :raises RegistryError: the version does not exist
    """
    with registry_errors(f"{ref} is not in the MLflow registry"):
        return _model_id(client.get_model_version(ref.model, str(ref.version)))


def _model_id(found: ModelVersion) -> str | None:
    # MLflow's SQL registry does not return the field `model_id` of a version.
    source = found.source or ""
    return source.removeprefix(_LOGGED) if source.startswith(_LOGGED) else None


def _of_run(client: MlflowClient, model: str, run_id: str) -> list[ModelVersion]:
    """Return the versions of ``model`` that were registered from the MLflow run, oldest first."""
    found = [item for item in client.search_model_versions(f"run_id = '{run_id}'") if item.name == model]
    return sorted(found, key=lambda item: int(item.version))


def _ref(found: ModelVersion) -> ModelVersionRef:
    return ModelVersionRef(model=found.name, version=int(found.version), run_id=found.run_id or "")
