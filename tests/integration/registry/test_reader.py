"""The reader of MLflow's HTTP API answers as MLflow's client does, and leaves to it what it does not understand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

import pytest

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.registry import reader, run_files, versions
from airflow_mlops.registry.integrity import file_hashes
from airflow_mlops.registry.reader import NotReadError, Reader, connect_to_read
from airflow_mlops.stages.runner import run_call
from airflow_mlops.trainers import Float, Search, SklearnTrainer
from tests.support import cached
from tests.support.cached import run_step
from tests.support.candidates import register, training_set
from tests.support.training import training_set as labelled


@pytest.fixture
def light(client, monkeypatch):
    """A reader that must not use MLflow's client."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    found = connect_to_read(MLflowTarget(), from_environment)
    assert isinstance(found, Reader)
    return found


@pytest.fixture
def alone(light, monkeypatch):
    """The reader, without MLflow's client."""

    def refuse(*_):
        raise AssertionError("MLflow's client was asked")

    monkeypatch.setattr(reader, "connect", refuse)
    return light


@pytest.fixture
def version(client, store, tmp_path):
    """A version whose run has tags, parameters, metrics, and files in folders."""
    model = f"read_{uuid.uuid4().hex[:8]}"
    found = register(client, tmp_path / "model", training_set(store), (2, 0), model=model)
    client.log_param(found.run_id, "empty", "")
    client.log_metric(found.run_id, "auc", 0.1 + 0.2)
    client.log_metric(found.run_id, "undefined", float("nan"))
    client.set_tag(found.run_id, "note", "ä b/c?d")
    (tmp_path / "files" / "inner").mkdir(parents=True)
    for name in ("evaluation.json", "inner/a bä.txt", "empty"):
        (tmp_path / "files" / name).write_text("" if name == "empty" else name * 1000)
    client.log_artifacts(found.run_id, str(tmp_path / "files"), "evaluation")
    client.set_registered_model_alias(model, "champion", str(found.version))
    client.set_model_version_tag(model, str(found.version), "tag", "")
    return found


def test_runs_versions_and_files_are_those_of_mlflows_client(client, alone, version, tmp_path):
    own, run = alone.get_run(version.run_id), client.get_run(version.run_id)
    assert (own.data.tags, own.data.params) == (run.data.tags, run.data.params)
    assert repr(sorted(own.data.metrics.items())) == repr(sorted(run.data.metrics.items()))
    for name in FIELDS:
        assert getattr(own.info, name) == getattr(run.info, name)
    assert alone.get_experiment(run.info.experiment_id).name == client.get_experiment(run.info.experiment_id).name
    query = [run.info.experiment_id], f"params.empty = '' and attributes.run_id = '{version.run_id}'"
    assert repr([item.data for item in alone.search_runs(*query, max_results=10)]) == repr([own.data])
    assert alone.search_runs([run.info.experiment_id], "params.empty = 'full'", max_results=10) == []
    number = str(version.version)
    for found in (
        alone.get_model_version(version.model, number),
        alone.get_model_version_by_alias(version.model, "champion"),
    ):
        same = client.get_model_version(version.model, number)
        for name in ("name", "version", "source", "run_id", "creation_timestamp", "tags"):
            assert str(getattr(found, name)) == str(getattr(same, name)), name
        assert (found.description or "") == (same.description or "")
    for folder in (None, "evaluation", "evaluation/inner", "evaluation/empty", "missing"):
        found = run_files.paths(alone, version.run_id, folder)
        assert found == run_files.paths(client, version.run_id, folder)
        assert bool(found) is (folder not in ("evaluation/empty", "missing"))
    hashes = []
    for number, found in enumerate((alone, client)):
        versions.download_into(found, version, tmp_path / f"version{number}")
        folders = [tmp_path / f"{path}{number}" for path in ("folder", "file")]
        for folder, path in zip(folders, ("evaluation", "evaluation/inner/a bä.txt"), strict=True):
            folder.mkdir()
            assert run_files.download(found, version.run_id, path, folder) == folder / path
        assert run_files.read(found, version.run_id, path) == b"inner/a b\xc3\xa4.txt" * 1000
        hashes.append([file_hashes(folder) for folder in (tmp_path / f"version{number}", *folders)])
    assert hashes[0] == hashes[1]
    assert [len(item) for item in hashes[0][1:]] == [3, 1]
    assert versions.champion(alone, version.model) == version
    assert versions.by_alias(alone, version.model, "nobody") is None
    assert versions.champion(alone, f"{version.model}_other") is None


def test_requests_that_the_server_does_not_answer_are_left_to_mlflows_client(
    client, light, version, tmp_path, monkeypatch
):
    with pytest.raises(RegistryError, match="is not in the MLflow registry"):
        versions.version(light, version.model, 99)
    with pytest.raises(RegistryError, match="cannot be looked up"), versions.registry_errors("It cannot be looked up"):
        light.get_run("0" * 32)
    assert [item.name for item in light.search_registered_models(f"name = '{version.model}'")] == [version.model]

    def elsewhere(uri):
        raise NotReadError

    # Files in an object store.
    monkeypatch.setattr(reader, "_place", elsewhere)
    versions.download_into(light, version, tmp_path / "model2")
    assert file_hashes(tmp_path / "model2") == file_hashes(versions.download(client, version))
    assert run_files.paths(light, version.run_id) == run_files.paths(client, version.run_id)
    (tmp_path / "files2").mkdir()
    assert (run_files.download(light, version.run_id, "evaluation", tmp_path / "files2") / "evaluation.json").exists()


def test_a_reader_requests_a_run_a_version_and_its_file_once(client, alone, version, monkeypatch):
    requests, send = [], Reader._open
    monkeypatch.setattr(
        Reader,
        "_open",
        lambda self, *arguments, **options: requests.append(arguments[1]) or send(self, *arguments, **options),
    )
    for _ in range(2):
        experiment = alone.get_experiment(alone.get_run(version.run_id).info.experiment_id)
        versions.version(alone, version.model, version.version)
    assert run_files.read(alone, version.run_id, "evaluation/empty") == b""
    assert experiment.name == client.get_experiment(client.get_run(version.run_id).info.experiment_id).name
    assert len(requests) == len(set(requests)) == 4
    # Another reader sees changes.
    client.set_tag(version.run_id, "note", "changed")
    client.set_model_version_tag(version.model, str(version.version), "tag", "changed")
    other = connect_to_read(MLflowTarget(), from_environment)
    assert other.get_run(version.run_id).data.tags["note"] == "changed"
    assert other.get_model_version(version.model, str(version.version)).tags["tag"] == "changed"


def test_the_requests_of_a_reader_share_a_connection_which_the_server_may_close(odd, monkeypatch):
    monkeypatch.setattr(Odd, "protocol_version", "HTTP/1.1")
    monkeypatch.setattr(Odd, "connections", [])
    monkeypatch.setattr(Odd, "ends", [])
    light = odd()
    for number in range(4):
        # The server closes the connection without an answer to the third request.
        Odd.ends[:] = ["now"] if number == 2 else []
        assert light._json("mlflow/experiments/get") == {}
    assert len(Odd.connections) == 2


def test_a_file_whose_folder_cannot_be_listed_is_downloaded_by_mlflows_client(light, version, monkeypatch, tmp_path):
    def refuse(*_):
        raise NotReadError

    monkeypatch.setattr(Reader, "_list", refuse)
    found = run_files.download(light, version.run_id, "evaluation/evaluation.json", tmp_path)
    assert found.read_text() == "evaluation.json" * 1000


@pytest.mark.parametrize(
    ("variable", "host", "is_light"),
    [
        ("", "http://127.0.0.1:1", True),
        ("", "sqlite:///mlflow.db", False),
        ("", "http://127.0.0.1:1/behind/a/proxy", False),
        ("MLFLOW_TRACKING_TOKEN", "http://127.0.0.1:1", True),
        ("MLFLOW_WORKSPACE", "http://127.0.0.1:1", False),
        ("REQUESTS_CA_BUNDLE", "http://127.0.0.1:1", True),
        ("REQUESTS_CA_BUNDLE", "https://127.0.0.1:1", False),
        # requests and urllib disagree about some values of NO_PROXY.
        ("HTTP_PROXY", "http://127.0.0.1:1", False),
    ],
)
def test_only_what_plain_requests_can_express_is_read_without_mlflow(variable, host, is_light, monkeypatch):
    other = ("_CA_BUNDLE", "_PROXY", "_proxy")
    for name in [name for name in os.environ if name.startswith("MLFLOW_") or name.endswith(other)]:
        monkeypatch.delenv(name)
    if variable:
        monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": host}))
    assert reader._is_plain(from_environment("mlflow_default")) is is_light


FIELDS = ("run_id", "lifecycle_stage", "artifact_uri", "experiment_id", "status")


class Odd(BaseHTTPRequestHandler):
    """A server in front of MLflow that requires a login, sends other JSON, or ends the connection early."""

    answer = b"{}"
    credentials: ClassVar[list[str | None]] = []
    connections: ClassVar[list[object]] = []
    ends: ClassVar[list[str]] = []

    def setup(self):
        super().setup()
        self.connections.append(self.client_address)

    def do_GET(self):
        if self.ends:
            self.ends.pop()
            self.close_connection = True
            return
        self.credentials.append(self.headers["Authorization"])
        if "redirected" in self.path:
            self.send_response(302)
            self.send_header("Location", "/login")
            self.end_headers()
            return
        body = (
            json.dumps({"run": {"info": dict.fromkeys(FIELDS, "")}}).encode() if self.path == "/login" else self.answer
        )
        self.send_response(200)
        if "packed" in self.path:
            self.send_header("Content-Encoding", "gzip")
        if "unknown" not in self.path:
            self.send_header("Content-Length", str(len(body) + (100 if "short" in self.path else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def odd(monkeypatch):
    """The odd server. The function sets its connection, and returns a reader."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def connected(**credentials):
        parts = {"conn_type": "mlflow", "host": f"http://127.0.0.1:{server.server_port}", **credentials}
        monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(parts))
        return Reader(MLflowTarget(), from_environment, from_environment("mlflow_default"))

    yield connected
    server.shutdown()
    server.server_close()


def test_the_credentials_of_the_connection_are_sent(odd, monkeypatch):
    monkeypatch.setattr(Odd, "credentials", [])
    for credentials in ({}, {"login": "ä", "password": "b:c"}, {"login": "a"}, {"password": "token"}):
        odd(**credentials)._json("mlflow/experiments/get")
    # MLflow's client sends no login without a password.
    assert Odd.credentials == [None, "Basic w6Q6Yjpj", None, "Bearer token"]


def test_unexpected_answers_are_left_to_mlflows_client(odd, monkeypatch, tmp_path):
    asked = []
    full = SimpleNamespace(get_run=asked.append)
    monkeypatch.setattr(reader, "connect", lambda *_: full)
    light = odd()
    light.get_run("redirected")
    for body in (b"<html>Log in</html>", b"[]", b'{"run": {}}', b'{"run": {"info": null}}'):
        monkeypatch.setattr(Odd, "answer", body)
        light.get_run("odd")
    assert asked == ["redirected", *["odd"] * 4]
    monkeypatch.setattr(Reader, "_place_of_run", lambda *_: "run")
    for path in ("short", "packed", "unknown"):
        with pytest.raises(NotReadError):
            light.read_of_run("run", path)
    for path in ("short", "packed"):
        with pytest.raises(NotReadError):
            light._download_file(path, tmp_path / "file")
    # Without a length, only the listing shows that the answer ended early.
    size = len(Odd.answer)
    light._download_file("unknown", tmp_path / "file", size)
    with pytest.raises(NotReadError):
        light._download_file("unknown", tmp_path / "file", size + 1)
    with pytest.raises(NotReadError):
        light._json("short")
    for path in ("../outside", "a/b", "..", ""):
        monkeypatch.setattr(Odd, "answer", json.dumps({"files": [{"path": path}]}).encode())
        with pytest.raises(NotReadError):
            light._list("folder")


# Runs each call of standard input as a task of another run. Prints the run that computed each result, and the imported
# modules.
AGAIN = """
import json, sys
from airflow_mlops.core.calls import StepCall
from airflow_mlops.stages.runner import run_call
made_by = [(run_call(StepCall.model_validate(call))["cached"] or {}).get("run_id") for call in json.load(sys.stdin)]
print(json.dumps([made_by, sorted(name for name in sys.modules if "." not in name)]))
"""
HEAVY = {
    "mlflow",
    "numpy",
    "pandas",
    "pyarrow",
    "requests",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "onnx",
    "jinja2",
    "feast",
}


def test_a_training_an_evaluation_and_a_search_from_the_cache_import_no_library_of_the_step(
    client, store, version, monkeypatch
):
    dataset = labelled(store)
    steps = {
        "train": {
            "dataset": dataset,
            "model": f"{version.model}_trained",
            "trainer": {"estimator": "sklearn.linear_model.LogisticRegression"},
        },
        "evaluate": {"candidates": [version]},
        "search": {
            "dataset": dataset,
            "model": f"{version.model}_searched",
            "search": Search(
                SklearnTrainer("sklearn.tree.DecisionTreeClassifier"),
                {"ccp_alpha": Float(0.0, 0.05)},
                trials=2,
                folds=2,
            ),
        },
    }
    calls = []
    monkeypatch.setattr(cached, "run_call", lambda call: calls.append(call) or run_call(call))
    for step, spec in steps.items():
        assert run_step(store, step, "first", **spec)["cached"] is None
    again = [{**call.model_dump(mode="json"), "key": call.key.replace("/first/", "/again/")} for call in calls]
    done = subprocess.run(
        [sys.executable, "-c", AGAIN], input=json.dumps(again), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    made_by, imported = json.loads(done.stdout.splitlines()[-1])
    assert made_by == ["first"] * 3
    assert not HEAVY.intersection(imported)
