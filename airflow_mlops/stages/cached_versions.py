"""Model versions as inputs and artifacts in the cache (:mod:`airflow_mlops.stages.cache`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.models.contract_file import has_contract, read_contract
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.integrity import file_hashes
from airflow_mlops.registry.runs import run_url
from airflow_mlops.registry.versions import download_into, version

if TYPE_CHECKING:
    from mlflow import MlflowClient


def contract_of(ref: ModelVersionRef, folder: Path) -> ModelContract:
    """Return the contract of a version.

    :param folder: folder with the downloaded files of the version
    :raises NotCacheableError: TrainOperator did not train the version
    """
    if not has_contract(folder):
        raise NotCacheableError(f"TrainOperator did not train {ref}, so what determines its predictions is not known")
    return read_contract(folder)


def content(ref: ModelVersionRef, folder: Path) -> dict[str, Any]:
    """Return a reference to a version, and the hashes of its files.

    :param folder: folder with the downloaded files of the version
    """
    return {"version": ref.model_dump(mode="json"), "files": file_hashes(folder)}


def require_same(client: MlflowClient, ref: ModelVersionRef) -> None:
    """Check that the number of a version was not reused, for example by a new MLflow server.

    :raises NotCacheableError: the number belongs to a different version
    :raises RegistryError: the version does not exist any more
    """
    if version(client, ref.model, ref.version) != ref:
        raise NotCacheableError(f"MLflow now uses the number of {ref} for a different version")


def stored_files(client: MlflowClient, ref: ModelVersionRef) -> dict[str, str]:
    """Return the hashes of a version's files in MLflow.

    Local copies of the files are not read, because they do not show what was changed in MLflow.

    :raises RegistryError: the version or its files do not exist any more
    """
    with temporary_folder("model") as temporary:
        folder = temporary / "model"
        download_into(client, ref, folder)
        return file_hashes(folder)


def require_run(client: MlflowClient, run_id: str, url: str | None) -> None:
    """Check that the MLflow run of a result still exists and still has the URL that the result contains.

    :raises NotCacheableError: the run was deleted, or its URL has changed
    :raises RegistryError: the run does not exist any more
    """
    with registry_errors(f"The run {run_id} cannot be looked up"):
        if client.get_run(run_id).info.lifecycle_stage != "active":
            raise NotCacheableError(f"its MLflow run {run_id} was deleted")
    if run_url(client, run_id) != url:
        raise NotCacheableError(f"its MLflow run {run_id} has another URL by now")
