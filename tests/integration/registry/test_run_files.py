"""Files of MLflow runs, from a real server and through a proxy that refuses them."""

from __future__ import annotations

import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from airflow_mlops.core.errors import RegistryError, RegistryUnavailableError
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.run_files import download, read


@pytest.fixture
def run(client, tmp_path) -> str:
    """A run with the file ``evaluation/verdict.json``."""
    run = client.create_run(client.create_experiment(f"files_{uuid.uuid4().hex}"))
    (tmp_path / "verdict.json").write_text("{}")
    client.log_artifact(run.info.run_id, str(tmp_path / "verdict.json"), "evaluation")
    return str(run.info.run_id)


@pytest.fixture
def without_files(mlflow_server, monkeypatch):
    """A client whose server answers requests for files with an error, and everything else as usual."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = requests.get(f"{mlflow_server}{self.path}", timeout=30)
            is_file = "mlflow-artifacts" in self.path
            server.files += is_file
            status, body = (server.status, b"refused") if is_file else (found.status_code, found.content)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        status, files = 503, 0

    server = Server(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield server, MlflowClient(address, address)
    server.shutdown()
    server.server_close()


def test_a_file_and_a_folder_keep_their_paths(client, run, tmp_path):
    (tmp_path / "found").mkdir()
    file = download(client, run, "evaluation/verdict.json", tmp_path / "found")
    assert (file.read_text(), file.relative_to(tmp_path).as_posix()) == ("{}", "found/evaluation/verdict.json")
    assert [path.name for path in download(client, run, "evaluation", tmp_path / "found").iterdir()] == ["verdict.json"]


def test_an_overloaded_or_refusing_server_is_not_reported_as_a_missing_file(client, without_files, run, tmp_path):
    server, refused = without_files
    with pytest.raises(RegistryUnavailableError), registry_errors("The file cannot be read"):
        download(refused, run, "evaluation/verdict.json", tmp_path)
    server.status = 403
    with pytest.raises(RegistryError, match="refuses the credentials"), registry_errors("The file cannot be read"):
        download(refused, run, "evaluation/verdict.json", tmp_path)
    with pytest.raises(RegistryError) as raised, registry_errors("The file cannot be read"):
        download(client, run, "evaluation/other.json", tmp_path)
    assert not isinstance(raised.value, RegistryUnavailableError)


def test_a_file_on_the_server_is_read_without_being_listed(client, run, monkeypatch):
    listed, list_artifacts = [], HttpArtifactRepository.list_artifacts
    monkeypatch.setattr(
        HttpArtifactRepository, "list_artifacts", lambda self, path: listed.append(path) or list_artifacts(self, path)
    )
    assert read(client, run, "evaluation/verdict.json") == b"{}"
    assert listed == []
    with pytest.raises(MlflowException):
        read(client, run, "evaluation/other.json")


def test_an_overloaded_server_is_asked_once_for_a_file(without_files, run):
    server, refused = without_files
    with pytest.raises(RegistryUnavailableError), registry_errors("The file cannot be read"):
        read(refused, run, "evaluation/verdict.json")
    assert server.files == 1
    server.status = 403
    with pytest.raises(RegistryError, match="refuses the credentials"), registry_errors("The file cannot be read"):
        read(refused, run, "evaluation/verdict.json")
