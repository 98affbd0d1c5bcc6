"""Airflow connections to a real MLflow server, and clear errors for servers that cannot be reached."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
import uuid

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import RegistryError, RegistryUnavailableError, SpecError
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.registry import run_files, run_places
from airflow_mlops.registry.client import connect, is_missing, registry_errors, tracking_uri, unless_missing
from airflow_mlops.registry.runs import KEY, experiment_for, run_for, run_url
from airflow_mlops.registry.versions import champion, version
from tests.integration.conftest import free_port


def test_connecting_imports_neither_feast_nor_torch(mlflow_connection):
    code = """
import sys
from airflow_mlops.core.connections import from_environment
from airflow_mlops.registry.client import connect
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.registry import run_files, run_places
client = connect(MLflowTarget(), from_environment)
client.search_registered_models()
print([name for name in ("feast", "torch", "sklearn", "matplotlib") if name in sys.modules])
import feast  # it can still be imported
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def connection(**fields):
    return lambda conn_id: ConnectionInfo(conn_id=conn_id, conn_type="mlflow", **fields)


def test_what_does_not_exist_is_distinguished_from_other_errors(client):
    with unless_missing():
        client.get_run(uuid.uuid4().hex)
        pytest.fail("the run exists")
    with pytest.raises(MlflowException) as invalid, unless_missing():
        client.create_registered_model("a/b")
    with pytest.raises(RegistryError) as missing, registry_errors("The version cannot be read"):
        client.get_model_version(uuid.uuid4().hex, "1")
    assert (is_missing(invalid.value), is_missing(missing.value), is_missing(RegistryError("other"))) == (
        False,
        True,
        False,
    )


@pytest.fixture
def experiment():
    return f"experiment-{uuid.uuid4().hex[:8]}"


@pytest.mark.parametrize(
    ("fields", "uri"),
    [
        ({"host": "http://mlflow:5000"}, "http://mlflow:5000"),
        ({"host": "http://mlflow:5000/"}, "http://mlflow:5000"),
        ({"host": "https://mlflow.example/base"}, "https://mlflow.example/base"),
        ({"host": "http://mlflow", "port": 5000}, "http://mlflow:5000"),
        ({"host": "mlflow", "port": 5000}, "http://mlflow:5000"),
        ({"host": "mlflow.example", "schema": "https"}, "https://mlflow.example"),
        ({"host": "sqlite:////srv/mlflow.db"}, "sqlite:////srv/mlflow.db"),
        ({"host": "databricks"}, "databricks"),
        # As in the URIs mlflow://https://mlflow.example:5000/base and mlflow://mlflow.example/base.
        ({"host": "https://mlflow.example", "port": 5000, "schema": "base"}, "https://mlflow.example:5000/base"),
        ({"host": "mlflow.example", "schema": "base"}, "http://mlflow.example/base"),
        ({"host": "https://mlflow.example", "schema": "https"}, "https://mlflow.example"),
        ({"host": "http://[::1]", "port": 5000}, "http://[::1]:5000"),
    ],
)
def test_a_connection_becomes_a_tracking_uri(fields, uri):
    assert tracking_uri(ConnectionInfo(conn_id="m", conn_type="mlflow", **fields)) == uri


def test_the_error_about_a_connection_without_a_host_says_what_to_set():
    with pytest.raises(SpecError, match="Connection 'm' has no host. Set the host to the MLflow tracking URI"):
        tracking_uri(ConnectionInfo(conn_id="m", conn_type="mlflow"))


def test_a_closed_port_fails_within_fifteen_seconds_and_may_be_retried():
    port, started = free_port(), time.monotonic()
    with pytest.raises(
        RegistryUnavailableError, match=rf"127.0.0.1:{port} .*does not respond: connection refused"
    ) as caught:
        connect(MLflowTarget(), connection(host=f"http://somebody:secret@127.0.0.1:{port}"))
    assert time.monotonic() - started < 15
    assert caught.value.retryable
    assert "secret" not in str(caught.value)


def test_an_unknown_host_is_an_error():
    with pytest.raises(RegistryUnavailableError, match="does not respond: the host name cannot be resolved"):
        connect(MLflowTarget(), connection(host="http://mlflow.invalid:5000"))


@pytest.fixture
def strangers(request):
    """A server that answers every request with the same status, and records the credentials."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers.get("Authorization"))
            body = b'{"error_code": "PERMISSION_DENIED", "message": "no"}'
            self.send_response(request.param)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("strangers", [401, 403], indirect=True)
def test_refused_credentials_are_an_error_that_is_not_retried(strangers):
    address, seen = strangers
    with pytest.raises(RegistryError, match="MLflow refuses the credentials") as caught:
        connect(MLflowTarget(), connection(host=address, login="me", password="wrong"))
    assert not caught.value.retryable
    assert "wrong" not in str(caught.value)
    assert seen[-1] == "Basic bWU6d3Jvbmc="


@pytest.mark.parametrize("strangers", [404], indirect=True)
def test_another_server_than_mlflow_is_an_error(strangers):
    with pytest.raises(
        RegistryError, match=r"MLflow at http://127.0.0.1:\d+ .connection 'mlflow_default'. cannot be used"
    ):
        connect(MLflowTarget(), connection(host=strangers[0]))


@pytest.mark.parametrize("strangers", [403], indirect=True)
def test_credentials_do_not_leak_to_the_next_connection(strangers, monkeypatch):
    address, seen = strangers
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    for fields in ({"login": "me", "password": "mine"}, {"password": "token"}, {}):
        with pytest.raises(RegistryError):
            connect(MLflowTarget(), connection(host=address, **fields))
    asked = [who for who in seen if who is not None]
    assert asked == ["Basic bWU6bWluZQ==", "Bearer token"]
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ


def test_each_key_has_exactly_one_run(client, experiment, store):
    with (
        pytest.raises(ValueError, match="boom"),
        run_for(client, store, experiment, "results/it's/1.json", "first", {"a": "1"}) as run_id,
    ):
        assert client.get_run(run_id).info.status == "RUNNING"
        raise ValueError("boom")
    assert client.get_run(run_id).info.status == "FAILED"
    with run_for(client, store, experiment, "results/it's/1.json", "first", {"a": "2"}) as again:
        assert again == run_id
        assert client.get_run(run_id).info.status == "RUNNING"
    found = client.get_run(run_id)
    assert (found.info.status, found.data.tags["a"], found.data.tags[KEY]) == ("FINISHED", "2", "results/it's/1.json")
    with run_for(client, store, experiment, "results/other.json", "second") as other:
        assert other != run_id
    assert len(client.search_runs([experiment_for(client, experiment)])) == 2


def test_an_interrupted_run_has_the_status_killed(client, experiment, store):
    with pytest.raises(KeyboardInterrupt), run_for(client, store, experiment, "k", "n") as run_id:
        raise KeyboardInterrupt
    assert client.get_run(run_id).info.status == "KILLED"


def test_the_error_about_a_deleted_experiment_says_how_to_restore_it(client, experiment, store):
    client.delete_experiment(experiment_for(client, experiment))
    with pytest.raises(RegistryError, match="was deleted. Restore it"), run_for(client, store, experiment, "k", "n"):
        pass


def test_concurrent_tasks_share_one_experiment(client, experiment):
    found = []
    threads = [threading.Thread(target=lambda: found.append(experiment_for(client, experiment))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_the_url_of_a_run_has_no_credentials(client, experiment, store, mlflow_server):
    with run_for(client, store, experiment, "k", "n") as run_id:
        pass
    assert (
        run_url(client, run_id) == f"{mlflow_server}/#/experiments/{experiment_for(client, experiment)}/runs/{run_id}"
    )


def test_a_missing_model_has_no_champion_and_no_version(client):
    assert champion(client, "nobody") is None
    with pytest.raises(RegistryError, match="nobody v3 is not in the MLflow registry"):
        version(client, "nobody", 3)
    client.create_registered_model("without-champion")
    assert champion(client, "without-champion") is None


@pytest.fixture
def count(monkeypatch):
    """Return a function that counts the calls of a method of MLflow's client from now on."""

    def counted(method):
        calls, original = [], getattr(MlflowClient, method)
        monkeypatch.setattr(
            MlflowClient, method, lambda self, *args, **options: calls.append(args) or original(self, *args, **options)
        )
        return calls

    return counted


def test_credentials_that_the_server_has_just_accepted_are_not_checked_again(mlflow_server, monkeypatch, count):
    monkeypatch.setattr("airflow_mlops.registry.client._accepted", accepted := {})
    checks = count("search_experiments")

    def checked(**credentials):
        before = len(checks)
        connect(MLflowTarget(), connection(host=mlflow_server, **credentials))
        return len(checks) - before

    with monkeypatch.context() as patch:
        # The credentials that connect() sets stay in the environment.
        for name in ("USERNAME", "PASSWORD", "TOKEN"):
            patch.setenv(f"MLFLOW_TRACKING_{name}", "")
        assert [checked(), checked(), checked(password="other"), checked(password="other"), checked()] == [
            1,
            0,
            1,
            0,
            0,
        ]
        for key in accepted:
            accepted[key] -= 61
        assert [checked(), checked()] == [1, 0]


@pytest.mark.parametrize("strangers", [401], indirect=True)
def test_refused_credentials_are_checked_each_time(strangers):
    for _ in range(2):
        with pytest.raises(RegistryError, match="refuses the credentials"):
            connect(MLflowTarget(), connection(host=strangers[0], login="ada", password="wrong"))


def test_a_model_is_checked_once_not_to_be_a_prompt_and_a_prompt_is_refused(client, mlflow_server, count):
    model, prompt = (f"{kind}_{uuid.uuid4().hex[:8]}" for kind in ("model", "prompt"))
    client.create_registered_model(model)
    answer = requests.post(
        f"{mlflow_server}/api/2.0/mlflow/registered-models/create",
        json={"name": prompt, "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]},
        timeout=30,
    )
    answer.raise_for_status()
    checks = count("get_registered_model")
    for number in range(3):
        client.set_registered_model_tag(model, "number", str(number))
    assert checks == [(model,)]
    for _ in range(2):
        with pytest.raises(MlflowException, match="not found"):
            client.set_registered_model_tag(prompt, "number", "1")
    assert client.get_registered_model(model).tags["number"] == "2"
    client.delete_registered_model(model)
    with pytest.raises(MlflowException) as missing:
        client.set_registered_model_tag(model, "number", "3")
    assert is_missing(missing.value)


def test_a_run_that_was_just_created_is_not_read_to_find_its_experiment_and_files(client, experiment, store, count):
    reads = count("get_run")
    with run_for(client, store, experiment, "k", "n") as run_id:
        assert f"/{run_id}" in (run_url(client, run_id) or "")
        assert run_files.paths(client, run_id) == set()
    assert reads == []
    # A retry must find out if the run was deleted.
    with run_for(client, store, experiment, "k", "n") as again:
        pass
    assert (again, reads) == (run_id, [(run_id,)])


def test_the_number_of_remembered_runs_is_limited(client, experiment, store, monkeypatch):
    monkeypatch.setattr(run_places, "_places", {})
    monkeypatch.setattr(run_places, "_MOST", 2)
    runs = []
    for number in range(3):
        with run_for(client, store, experiment, f"k{number}", "n") as run_id:
            runs.append(run_id)
    assert [run_id for _, run_id in run_places._places] == runs[1:]
