"""Download files of MLflow runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def download(client: MlflowClient, run_id: str, path: str, folder: str | Path) -> Path:
    """Download a file or a folder of an MLflow run.

    ``MlflowClient.download_artifacts`` also searches the models that the run has logged, and reports every error as a
    missing file, also if the server does not respond.

    :param path: path in the run
    :param folder: existing folder that receives the file, below the folders in ``path``
    :return: path of the file or folder
    :raises mlflow.exceptions.MlflowException: the file does not exist, or cannot be read
    :raises requests.exceptions.RequestException: the server does not respond
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

    place = add_databricks_profile_info_to_artifact_uri(client.get_run(run_id).info.artifact_uri, client.tracking_uri)
    repository = get_artifact_repository(place, tracking_uri=client.tracking_uri)
    return Path(repository.download_artifacts(path, str(folder)))
