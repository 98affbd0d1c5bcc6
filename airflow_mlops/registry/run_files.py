"""List and download the files of MLflow runs.

``MlflowClient.list_artifacts`` and ``MlflowClient.download_artifacts`` are not used, because they read the run and
search the models of the run in every call. They also report every error as a missing file, even if the server does not
respond.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.registry.reader import NotReadError, Reader
from airflow_mlops.registry.run_places import place

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


def paths(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    """List the files and folders of an MLflow run.

    :param folder: the folder of the run to list, without the contents of its folders; by default, the top folder
    :return: paths in the run; empty if the run has no such folder
    :raises mlflow.exceptions.MlflowException: the run does not exist, or cannot be read
    """
    reader: object = client
    if isinstance(reader, Reader):
        try:
            return reader.paths_of_run(run_id, folder)
        except NotReadError:
            client = reader.full()
    return {item.path for item in _repository(client, run_id).list_artifacts(folder)}


def download(client: MlflowClient, run_id: str, path: str, folder: str | Path) -> Path:
    """Download a file or a folder of an MLflow run.

    :param path: path in the run
    :param folder: existing folder that receives the file, below the folders in ``path``
    :return: path of the file or folder
    :raises mlflow.exceptions.MlflowException: the file does not exist, or cannot be read
    :raises requests.exceptions.RequestException: the server does not respond
    """
    reader: object = client
    if isinstance(reader, Reader):
        try:
            return reader.download_of_run(run_id, path, Path(folder))
        except NotReadError:
            client = reader.full()
    return Path(_repository(client, run_id).download_artifacts(path, str(folder)))


def read(client: MlflowClient, run_id: str, path: str) -> bytes:
    """Download a file of an MLflow run, and return its contents.

    :raises mlflow.exceptions.MlflowException: the file does not exist, or cannot be read
    :raises requests.exceptions.RequestException: the server does not respond
    """
    reader: object = client
    if isinstance(reader, Reader):
        with suppress(NotReadError):
            return reader.read_of_run(run_id, path)
    with tempfile.TemporaryDirectory() as folder:
        found = None if isinstance(reader, Reader) else _served(_repository(client, run_id), path, Path(folder))
        return download(client, run_id, path, folder).read_bytes() if found is None else found


def _served(repository: ArtifactRepository, path: str, folder: Path) -> bytes | None:
    """Return the contents of a file that the MLflow server serves. Unlike ``download_artifacts``, do not list it first.

    :return: ``None`` if the server does not serve the files, or refuses the request, for example because the file is missing
    :raises mlflow.exceptions.MlflowException: the server does not respond or is overloaded
    """
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from requests.exceptions import HTTPError

    if not isinstance(repository, HttpArtifactRepository):
        return None
    try:
        repository._download_file(path, str(folder / "served"))
    except HTTPError:
        return None
    return (folder / "served").read_bytes()


def _repository(client: MlflowClient, run_id: str) -> ArtifactRepository:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

    uri = add_databricks_profile_info_to_artifact_uri(place(client, run_id).artifact_uri, client.tracking_uri)
    return get_artifact_repository(uri, tracking_uri=client.tracking_uri)
