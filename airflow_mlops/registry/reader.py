"""Read runs, versions and files from an MLflow server by plain HTTP, because importing MLflow's client takes seconds.

A look-up in the cache of results only reads. It must not cost more than the step, so it uses this module.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import join
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote, urlencode, urlsplit

from airflow_mlops.core.connections import ConnectionInfo, ConnectionResolver
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.registry.client import authorization, connect, tracking_uri
from airflow_mlops.registry.light import sufficient

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from urllib3 import BaseHTTPResponse

# Environment variables that only MLflow's client supports. The second group applies only to HTTPS.
_FOREIGN = ("MLFLOW_WORKSPACE", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
_FOREIGN_TLS = (
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
_TIMEOUT = 10.0
_OK = 200
_FILES = "mlflow-artifacts"
# Start of the names of files that MLflow's client has not yet written completely.
_PARTIAL = ".artifact.uploading."
# Exceptions that occur if a JSON value does not have the expected form.
_UNEXPECTED = (AttributeError, KeyError, TypeError, ValueError)


class NotReadError(Exception):
    """The server did not give an answer that this module understands. MLflow's client must repeat the request."""


class MissingError(NotReadError):
    """The server answers that something does not exist."""

    # MLflow's exceptions have the same attribute with the same meaning.
    error_code = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class _RunInfo:
    run_id: str
    lifecycle_stage: str
    artifact_uri: str
    experiment_id: str
    status: str


@dataclass(frozen=True)
class _RunData:
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Run:
    info: _RunInfo
    data: _RunData


@dataclass(frozen=True)
class _Experiment:
    name: str


@dataclass(frozen=True)
class _Version:
    name: str
    version: str
    source: str
    run_id: str
    description: str
    creation_timestamp: int
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    path: str
    is_dir: bool
    size: int | None = None


def connect_to_read(target: MLflowTarget, connection: ConnectionResolver) -> MlflowClient:
    """Return a client for reading from the MLflow server of ``target``.

    MLflow is imported only if one of these conditions is true:

    - the tracking URI is not of the form ``http://HOST:PORT`` or ``https://HOST:PORT``, for example because it has a
      path;
    - an environment variable, a proxy or a plugin configures something that only MLflow's client supports;
    - a method is called that :class:`Reader` does not have;
    - the server does not answer a request as expected. MLflow's client then repeats the request, so the result or the
      error is that of MLflow's client.

    :raises SpecError: the connection has no valid host
    :raises RegistryUnavailableError: the server does not respond
    :raises RegistryError: the server is not an MLflow server, or refuses the credentials
    """
    info = connection(target.conn_id)
    if not _is_plain(info):
        return connect(target, connection)
    return cast("MlflowClient", Reader(target, connection, info))


def _is_plain(info: ConnectionInfo) -> bool:
    """Return whether plain HTTP requests suffice for the server of a connection."""
    from urllib.request import getproxies, proxy_bypass

    uri = urlsplit(tracking_uri(info))
    foreign = [*_FOREIGN, *(_FOREIGN_TLS if uri.scheme == "https" else ())]
    return (
        uri.scheme in ("http", "https")
        and uri.path.strip("/") == ""
        and "@" not in uri.netloc
        and not uri.query
        and not any(os.environ.get(name) for name in foreign)
        # The library requests, which MLflow's client uses, reads NO_PROXY in another way, for example `10.0.0.0/8`.
        and (not {uri.scheme, "all"} & getproxies().keys() or bool(proxy_bypass(uri.netloc)))
        # Plugins may add headers, such as that of a tenant.
        and sufficient(info)
    )


class Reader:
    """A client with the methods of ``MlflowClient`` that read runs and versions.

    A run, an experiment, a version or the list of files in a folder is requested once. The next time, the reader returns
    what it has read. To see changes, create another reader.

    All other methods are those of ``MlflowClient``, which is imported when one of them is called.

    :param target: MLflow server
    :param connection: function that returns an Airflow connection by its id
    :param info: connection of ``target``
    """

    def __init__(self, target: MLflowTarget, connection: ConnectionResolver, info: ConnectionInfo) -> None:
        from urllib3 import PoolManager, Retry

        self.tracking_uri = tracking_uri(info)
        self._base = self.tracking_uri.rstrip("/") + "/api/2.0"
        self._target, self._connection = target, connection
        header = authorization(info)
        # All requests share a connection. If the server has closed it since the last request, the request is sent again.
        self._pool = PoolManager(
            headers={} if header is None else {"Authorization": header},
            timeout=_TIMEOUT,
            retries=Retry(total=1, connect=0, redirect=0, other=0, allowed_methods=None),
        )
        self._client: MlflowClient | None = None
        self._runs: dict[str, _Run] = {}
        self._experiments: dict[str, _Experiment] = {}
        self._versions: dict[tuple[str, str], _Version] = {}
        self._folders: dict[str | Path, list[_File]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.full(), name)

    def full(self) -> MlflowClient:
        """Return MLflow's own client, connected to the server that this reader reads from."""
        if self._client is None:
            self._client = connect(self._target, self._connection)
        return self._client

    def get_run(self, run_id: str) -> Any:
        """Return a run with its tags, parameters and metrics."""
        try:
            if run_id not in self._runs:
                self._runs[run_id] = _run(self._get("runs/get", run_id=run_id)["run"])
            return self._runs[run_id]
        except (NotReadError, *_UNEXPECTED):
            return self.full().get_run(run_id)

    def search_runs(self, experiment_ids: list[str], filter_string: str, max_results: int) -> Any:
        """Return the runs of experiments that match a filter, except deleted runs."""
        wanted = {"experiment_ids": experiment_ids, "filter": filter_string, "max_results": max_results}
        try:
            found = self._json("mlflow/runs/search", {**wanted, "run_view_type": "ACTIVE_ONLY"})
            if not found.get("next_page_token"):
                return [_run(item) for item in found.get("runs", [])]
        except (NotReadError, *_UNEXPECTED):
            pass
        return self.full().search_runs(experiment_ids, filter_string, max_results=max_results)

    def get_experiment(self, experiment_id: str) -> Any:
        """Return an experiment."""
        try:
            if experiment_id not in self._experiments:
                found = self._get("experiments/get", experiment_id=experiment_id)["experiment"]
                self._experiments[experiment_id] = _Experiment(found["name"])
            return self._experiments[experiment_id]
        except (NotReadError, *_UNEXPECTED):
            return self.full().get_experiment(experiment_id)

    def get_model_version(self, name: str, version: str) -> Any:
        """Return a version of a registered model."""
        try:
            if (name, version) not in self._versions:
                self._versions[name, version] = _version(self._get("model-versions/get", name=name, version=version))
            return self._versions[name, version]
        except (NotReadError, *_UNEXPECTED):
            return self.full().get_model_version(name, version)

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        """Return the version of a registered model that has an alias.

        :raises MissingError: there is no such model, or no version with the alias
        """
        try:
            return _version(self._get("registered-models/alias", name=name, alias=alias))
        except MissingError:
            raise
        except (NotReadError, *_UNEXPECTED):
            return self.full().get_model_version_by_alias(name, alias)

    def paths_of_run(self, run_id: str, folder: str | None = None) -> set[str]:
        """Return the paths of the files and folders of a run.

        :param folder: the folder of the run to list; by default, the top folder
        :raises NotReadError: MLflow's client must list the files
        """
        place = self._place_of_run(run_id)
        return {join(folder or "", item.path) for item in self._list(_inside(place, folder) if folder else place)}

    def download_version(self, name: str, version: str, folder: Path) -> None:
        """Download the files of a version into an empty or new folder.

        :raises NotReadError: MLflow's client must download the files
        """
        try:
            uri = self._get("model-versions/get-download-uri", name=name, version=version)["artifact_uri"]
        except _UNEXPECTED as error:
            raise NotReadError from error
        if not self._download(_place(uri), folder):
            raise NotReadError

    def download_of_run(self, run_id: str, path: str, folder: Path) -> Path:
        """Download a file or a folder of a run to ``folder / path``, and return this path.

        :raises NotReadError: MLflow's client must download the files
        """
        place = _inside(self._place_of_run(run_id), path)
        target = folder / path
        # If the listing of a path is empty, the path is a file, or does not exist.
        if not self._download(place, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._download_file(place, target)
        return target

    def read_of_run(self, run_id: str, path: str) -> bytes:
        """Return the contents of a file of a run.

        :raises NotReadError: there is no such file, or it must be listed or read by MLflow's client
        """
        place = _inside(self._place_of_run(run_id), path)
        if isinstance(place, Path):
            with _not_read():
                return place.read_bytes()
        answer = self._open("GET", f"{_FILES}/artifacts/{quote(place)}")
        # Without a length, only the listing shows that the connection has ended early.
        if answer.headers.get("Content-Encoding", "identity") != "identity" or "Content-Length" not in answer.headers:
            raise NotReadError
        return answer.data

    def _place_of_run(self, run_id: str) -> str | Path:
        return _place(self.get_run(run_id).info.artifact_uri)

    def _download(self, place: str | Path, folder: Path) -> bool:
        """Download a folder, and return whether it contains anything. An empty folder is not created."""
        found = self._list(place)
        for item in found:
            target = folder / item.path
            folder.mkdir(parents=True, exist_ok=True)
            if item.is_dir:
                self._download(_inside(place, item.path), target)
            else:
                self._download_file(_inside(place, item.path), target, item.size)
        return bool(found)

    def _download_file(self, place: str | Path, target: Path, listed: int | None = None) -> None:
        if isinstance(place, Path):
            with _not_read():
                shutil.copyfile(place, target)
            return
        answer = self._open("GET", f"{_FILES}/artifacts/{quote(place)}", preload_content=False)
        with closing(answer), target.open("wb") as file:
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise NotReadError
            with _not_read():
                shutil.copyfileobj(answer, file)
            # If there is no Content-Length, only the listing shows that the connection has ended early.
            if listed is not None and file.tell() != listed:
                raise NotReadError
            # A connection whose response was read completely is used again.
            answer.release_conn()

    def _list(self, place: str | Path) -> list[_File]:
        if place not in self._folders:
            self._folders[place] = _listed(place) if isinstance(place, Path) else self._served(place)
        return self._folders[place]

    def _served(self, place: str) -> list[_File]:
        found = self._json(f"{_FILES}/artifacts?{urlencode({'path': place})}")
        try:
            files = [
                _File(item["path"], bool(item.get("is_dir")), int(item["file_size"]) if "file_size" in item else None)
                for item in found.get("files", [])
            ]
        except _UNEXPECTED as error:
            raise NotReadError from error
        # For the path of a file, the server lists the file itself.
        if [(item.path, item.is_dir) for item in files] == [(place.rpartition("/")[2], False)]:
            return []
        if any(item.path in ("", ".", "..") or "/" in item.path or "\\" in item.path for item in files):
            raise NotReadError
        return files

    def _get(self, path: str, **parameters: str) -> Any:
        return self._json(f"mlflow/{path}?{urlencode(parameters)}")

    def _json(self, path: str, content: Any = None) -> Any:
        answer = self._open("GET", path) if content is None else self._open("POST", path, json=content)
        with _not_read():
            return json.loads(answer.data)

    def _open(self, method: str, path: str, **options: Any) -> BaseHTTPResponse:
        with _not_read():
            # Redirections are not followed, because they usually lead to a login page.
            answer = self._pool.request(method, f"{self._base}/{path}", redirect=False, **options)
            if answer.status == _OK:
                return answer
            with closing(answer):
                raise MissingError if _is_missing(answer.data) else NotReadError


@contextmanager
def _not_read() -> Iterator[None]:
    """Turn errors of the connection, and answers that are not JSON, into a :class:`NotReadError`."""
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (OSError, ValueError, HTTPError) as error:
        raise NotReadError from error


def _is_missing(body: bytes) -> bool:
    """Return whether an answer says that a model or its alias does not exist."""
    try:
        answer = json.loads(body)
        code, message = answer["error_code"], str(answer.get("message", ""))
    except _UNEXPECTED:
        return False
    # For an unknown alias of a model, MLflow's servers use the code INVALID_PARAMETER_VALUE.
    return code == MissingError.error_code or (
        code == "INVALID_PARAMETER_VALUE" and message.startswith("Registered model alias ") and "not found" in message
    )


def _run(found: Any) -> _Run:
    info, data = found["info"], found.get("data", {})
    return _Run(
        _RunInfo(
            run_id=info["run_id"],
            lifecycle_stage=info["lifecycle_stage"],
            artifact_uri=info["artifact_uri"],
            experiment_id=info["experiment_id"],
            status=info["status"],
        ),
        _RunData(
            tags=_pairs(data.get("tags")),
            params=_pairs(data.get("params")),
            metrics={name: float(value) for name, value in _pairs(data.get("metrics")).items()},
        ),
    )


def _version(answer: Any) -> _Version:
    found = answer["model_version"]
    return _Version(
        name=found["name"],
        version=found["version"],
        source=found.get("source", ""),
        run_id=found.get("run_id", ""),
        description=found.get("description", ""),
        creation_timestamp=int(found["creation_timestamp"]),
        tags=_pairs(found.get("tags")),
    )


def _pairs(items: Any) -> dict[str, Any]:
    # The JSON of the server leaves out empty values.
    return {item["key"]: item.get("value", "") for item in items or ()}


def _place(uri: str) -> str | Path:
    """Return the path of artifacts that the MLflow server itself serves, or their folder if this machine has it.

    :raises NotReadError: MLflow's client reads the artifacts from another place, such as an object store
    """
    parts = urlsplit(uri)
    if parts.scheme == "file" and not (parts.netloc or parts.query or parts.fragment):
        return Path(unquote(parts.path))
    if parts.scheme != _FILES or parts.netloc or parts.query or parts.fragment:
        raise NotReadError
    return parts.path.strip("/")


def _inside(place: str | Path, path: str) -> str | Path:
    return place / path if isinstance(place, Path) else join(place, path)


def _listed(folder: Path) -> list[_File]:
    """List a folder of this machine. The list is empty for a file and for a missing folder, as in MLflow's client."""
    with _not_read():
        if not folder.is_dir():
            return []
        return [
            _File(item.name, item.is_dir()) for item in sorted(folder.iterdir()) if not item.name.startswith(_PARTIAL)
        ]
