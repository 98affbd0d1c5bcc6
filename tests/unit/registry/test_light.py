"""Look-ups of aliases by plain HTTP, with the answers that MLflow 3 gives."""

from __future__ import annotations

import json
import threading
import traceback
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import RegistryError, RegistryUnavailableError, SpecError
from airflow_mlops.registry import client, light

FOUND = (200, json.dumps({"model_version": {"name": "m", "version": "7"}}))
NO_ALIAS = (
    400,
    json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias a not found."}),
)
NO_MODEL = (
    404,
    json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=m not found"}),
)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    for name in ("USERNAME", "PASSWORD", "TOKEN", "INSECURE_TLS", "SERVER_CERT_PATH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A server that gives ``answer`` and then closes the connection, although it has not said so."""
    found = SimpleNamespace(answer=FOUND, requests=[])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found.requests.append((self.path, self.headers["Authorization"]))
            status, text = found.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}).start()
        found.url = f"http://127.0.0.1:{listening.server_port}"
        yield found
        listening.shutdown()


def mlflow(host: str, **parts: str) -> ConnectionInfo:
    return ConnectionInfo.of("mlflow", conn_type="mlflow", host=host, **parts)


def test_the_version_of_an_alias_is_found_over_connections_that_the_server_closes(server):
    aliases = light.Aliases(mlflow(server.url))
    assert [aliases.version("a model", "a") for _ in range(3)] == [7, 7, 7]
    assert {path for path, _ in server.requests} == {"/api/2.0/mlflow/registered-models/alias?name=a+model&alias=a"}


@pytest.mark.parametrize("answer", [NO_ALIAS, NO_MODEL])
def test_an_alias_that_does_not_exist_is_none(server, answer):
    server.answer = answer
    assert light.Aliases(mlflow(server.url)).version("m", "a") is None


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        # A proxy in front of MLflow answers, so nothing is known about the alias.
        ((404, "default backend - 404"), RegistryError, "status 404"),
        ((404, "[]"), RegistryError, "status 404"),
        ((400, json.dumps({"error_code": "BAD_REQUEST", "message": "x"})), RegistryError, "status 400"),
        ((200, "<html>"), RegistryError, "does not come from an MLflow server"),
        ((200, "{}"), RegistryError, "does not come from an MLflow server"),
        ((401, "{}"), RegistryError, "refuses the credentials"),
        ((503, "{}"), RegistryUnavailableError, "status 503"),
    ],
)
def test_another_answer_is_an_error(server, answer, kind, said):
    server.answer = answer
    with pytest.raises(RegistryError, match=said) as error:
        light.Aliases(mlflow(server.url)).version("m", "a")
    assert type(error.value) is kind


def test_a_server_that_does_not_answer_is_unavailable():
    with pytest.raises(RegistryUnavailableError, match="connection refused"):
        light.Aliases(mlflow("http://127.0.0.1:9")).version("m", "a")


BASIC = f"Basic {b64encode(b'ann:s3cret').decode()}"


@pytest.mark.parametrize(
    ("parts", "settings", "sent"),
    [
        ({}, {}, None),
        ({"login": "ann", "password": "s3cret"}, {"TOKEN": "other"}, BASIC),
        ({"password": "t0ken"}, {"USERNAME": "bob", "PASSWORD": "other"}, "Bearer t0ken"),
        ({}, {"USERNAME": "ann", "PASSWORD": "s3cret", "TOKEN": "other"}, BASIC),
        ({}, {"TOKEN": "t0ken", "USERNAME": "ann"}, "Bearer t0ken"),
        # MLflow's client sends no login without a password.
        ({"login": "ann"}, {"TOKEN": "other"}, None),
    ],
)
def test_the_credentials_are_those_of_mlflows_client(server, monkeypatch, parts, settings, sent):
    for name, value in settings.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    light.Aliases(mlflow(server.url, **parts)).version("m", "a")
    assert [authorization for _, authorization in server.requests] == [sent]


def test_a_token_with_a_line_break_is_refused_without_showing_it(server):
    token = b64encode(b"s3cret").decode()
    with pytest.raises(SpecError, match="line break") as refused:
        light.Aliases(mlflow(server.url, password=f"{token}\n")).version("m", "a")
    assert token not in "".join(traceback.format_exception(refused.value))
    assert server.requests == []


def test_the_credentials_of_one_connection_are_not_sent_to_the_server_of_another(server, monkeypatch):
    monkeypatch.setattr(client, "_set_here", {})
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
    client._use_credentials(mlflow("http://elsewhere:5000", login="ann", password="s3cret"))
    light.Aliases(mlflow(server.url)).version("m", "a")
    assert [authorization for _, authorization in server.requests] == [None]


def test_other_settings_of_mlflow_need_its_client(monkeypatch, tmp_path):
    assert light.sufficient(mlflow("http://mlflow:5000"))
    assert not light.sufficient(mlflow("sqlite:////srv/mlflow.db"))
    assert not light.sufficient(mlflow("databricks"))
    with monkeypatch.context() as patch:
        patch.setattr(light, "entry_points", lambda group: [EntryPoint("own", "own.headers:Provider", group)])
        light._has_plugins.cache_clear()
        assert not light.sufficient(mlflow("http://mlflow:5000"))
    light._has_plugins.cache_clear()
    for name in ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_WORKSPACE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            assert not light.sufficient(mlflow("http://mlflow:5000"))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text("[mlflow]\n")
    assert not light.sufficient(mlflow("http://mlflow:5000"))
