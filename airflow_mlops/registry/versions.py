"""Look up, download and register versions of models in MLflow."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.client import registry_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
# Tag of a version: the fingerprint of its export, contract, code and environment.
IDENTITY = "mlops.identity"


def champion(client: MlflowClient, model: str) -> ModelVersionRef | None:
    """Return the version of ``model`` with the alias ``champion``, or ``None`` if there is no such version or model."""
    from mlflow.exceptions import MlflowException

    with registry_errors(f"The champion of {model!r} cannot be looked up"):
        try:
            return _ref(client.get_model_version_by_alias(model, CHAMPION))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "alias champion not found" in str(error):
                return None
            raise


def version(client: MlflowClient, model: str, version: int) -> ModelVersionRef:
    """Return a reference to version number ``version`` of ``model``.

    :raises RegistryError: the version does not exist
    """
    with registry_errors(f"{model} v{version} is not in the MLflow registry"):
        return _ref(client.get_model_version(model, str(version)))


def download(client: MlflowClient, ref: ModelVersionRef) -> Path:
    """Download the files of a model version, and return the folder with the files.

    Downloads are cached in a private temporary folder of the user.

    :raises RegistryError: the version or its files do not exist any more
    """
    with registry_errors(f"The files of {ref} cannot be downloaded from MLflow"):
        found = client.get_model_version(ref.model, str(ref.version))
        # Two servers may use the same version number for different models, so the folder name contains the source.
        identity = "\n".join(
            [client.tracking_uri, found.source or "", found.run_id or "", str(found.creation_timestamp)]
        )
        folder = (
            _cache()
            / f"{ref.model.replace('/', '_')}-v{ref.version}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        )
        if folder.is_dir():
            return folder
        partial = folder.with_name(f".{uuid.uuid4().hex}")
        try:
            download_into(client, ref, partial)
            try:
                partial.rename(folder)
            except OSError:
                # Another task has downloaded the same version at the same time.
                if not folder.is_dir():
                    raise
        except OSError as error:
            raise RegistryError(f"The files of {ref} cannot be downloaded from MLflow: {error}.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def download_into(client: MlflowClient, ref: ModelVersionRef, folder: Path) -> None:
    """Download the files of a model version into ``folder``, past the cache.

    :raises RegistryError: the version or its files do not exist any more
    """
    import mlflow

    with registry_errors(f"The files of {ref} cannot be downloaded from MLflow"):
        mlflow.artifacts.download_artifacts(
            f"models:/{ref.model}/{ref.version}", dst_path=str(folder), tracking_uri=client.tracking_uri
        )


def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"airflow-mlops-{os.getuid()}" / "models"
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    owner = folder.parent.lstat()
    # A folder of another user could contain manipulated models.
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022 or folder.parent.is_symlink():
        raise RegistryError(
            f"The cache folder {folder.parent} belongs to another user, is writable by others, or is a link. Remove "
            "this folder, or set the environment variable TMPDIR to another folder."
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def register(
    client: MlflowClient, model: str, run_id: str, model_id: str, tags: Mapping[str, str] | None = None
) -> ModelVersionRef:
    """Register a logged model as a version of ``model``, and return the version.

    If a version was already registered from the run, it is returned instead.

    :param run_id: id of the MLflow run that logged the model
    :param model_id: id of the logged model in MLflow
    :param tags: tags of the new version
    :raises RegistryError: MLflow refuses to register the model
    """
    from mlflow.exceptions import MlflowException

    with registry_errors(f"Run {run_id} cannot be registered as a version of {model!r}"):
        existing = of_run(client, model, run_id)
        if existing is not None:
            return existing
        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return _ref(
            client.create_model_version(
                model, source=f"models:/{model_id}", run_id=run_id, model_id=model_id, tags=dict(tags or {})
            )
        )


def identical(client: MlflowClient, model: str, identity: str) -> ModelVersionRef | None:
    """Return the newest version of ``model`` with the tag ``mlops.identity`` = ``identity``.

    :param identity: fingerprint of the version's export, contract, code and environment
    :return: ``None`` if no version has this tag
    """
    with registry_errors(f"The versions of {model!r} cannot be searched"):
        found = client.search_model_versions(f"name = '{model}' and tags.`{IDENTITY}` = '{identity}'")
    return _ref(max(found, key=lambda item: int(item.version))) if found else None


def of_run(client: MlflowClient, model: str, run_id: str) -> ModelVersionRef | None:
    """Return the first version of ``model`` that was registered from the MLflow run, or ``None`` if there is none."""
    found = [item for item in client.search_model_versions(f"run_id = '{run_id}'") if item.name == model]
    return _ref(min(found, key=lambda item: int(item.version))) if found else None


def _ref(found: ModelVersion) -> ModelVersionRef:
    return ModelVersionRef(model=found.name, version=int(found.version), run_id=found.run_id or "")
