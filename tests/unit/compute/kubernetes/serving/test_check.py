"""Requests to a server: its answers, its errors, and servers that give no valid response."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from airflow_mlops.compute.kubernetes.serving import check
from airflow_mlops.core.errors import DeploymentError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.stages.deploy.spec import Check

POD = {"metadata": {"name": "late-1"}, "status": {"podIP": "127.0.0.1"}}
REF = ModelVersionRef(model="late", version=3, run_id="r")
CHECK = Check(rows=[{"a": 1.5}, {"a": None}], scores=[0.25, None])


def answer(scores: tuple[Any, ...] = (0.25, None)) -> dict[str, Any]:
    return {"version": 3, "predictions": [{"prediction": False, "score": score} for score in scores]}


class Server:
    """Gives the same answer to every request, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.asked, self.version = 200, b"", [], 3
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                server.asked.append((self.path, dict(self.headers), self.rfile.read(size)))
                self.answer(server.body)

            def do_GET(self) -> None:
                described = self.path == "/v2/models/late" and server.status == 200 and server.body[:1] == b"{"
                if not described:
                    server.asked.append(self.path)
                self.answer(json.dumps({"versions": [str(server.version), "9"]}).encode() if described else server.body)

            def answer(self, body: bytes) -> None:
                self.send_response(server.status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def says(self, body: Any, status: int = 200) -> None:
        self.status, self.body = status, json.dumps(body).encode()

    def verify(self, *, follows: bool = False, token: str | None = None) -> None:
        check.verify([POD], REF, CHECK, token, follows=follows)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server()
    monkeypatch.setattr(check, "PORT", found.http.server_port)
    monkeypatch.setattr(check, "_PAUSE", 0)
    # A proxy of the worker must not see requests to pods.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    yield found
    found.http.shutdown()


@pytest.mark.parametrize("scores", [(0.25, None), (0.25 + 5e-7, None)])
def test_the_right_version_with_the_right_scores_is_accepted(server, scores):
    server.says(answer(scores=scores))
    server.verify(token="open sesame")
    ((path, headers, body),) = server.asked
    assert path == "/v2/models/late/versions/3/predict"
    assert headers["Authorization"] == "Bearer open sesame"
    assert json.loads(body)["rows"] == CHECK.rows
    assert json.loads(body)["log"] is False


@pytest.mark.parametrize(
    "found",
    [
        answer(scores=(0.251, None)),
        answer(scores=(0.25, 0.0)),
        answer(scores=(None, None)),
        answer(scores=(0.25,)),
        {},
    ],
)
def test_another_answer_is_a_final_error(server, found):
    server.says(found)
    with pytest.raises(DeploymentError) as caught:
        server.verify()
    assert not caught.value.retryable


@pytest.mark.parametrize("follows", [False, True])
def test_another_version_is_a_final_error(server, follows):
    server.version = 4
    server.says(answer())
    with pytest.raises(DeploymentError, match="v4 instead of v3") as caught:
        server.verify(follows=follows)
    assert not caught.value.retryable
    assert ("champion has changed" in str(caught.value)) is follows


@pytest.mark.parametrize(("status", "retries"), [(401, 1), (422, 1), (500, 1), (503, 5)])
def test_a_refusal_is_an_error_with_its_reason(server, status, retries):
    server.says({"error": "The field is missing."}, status)
    with pytest.raises(DeploymentError, match="token_conn_id" if status == 401 else "The field is missing"):
        server.verify()
    assert len(server.asked) == retries


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b""])
def test_an_answer_from_another_server_is_retryable(server, body):
    server.body = body
    with pytest.raises(DeploymentError) as caught:
        server.verify()
    assert caught.value.retryable


def test_a_server_says_why_it_is_not_ready(server):
    server.says({"ready": False, "error": "Connection 'mlflow_default' is not defined."}, 503)
    assert check.problem([{"metadata": {}, "status": {}}, POD]) == "Connection 'mlflow_default' is not defined."
    server.says({"ready": True})
    assert check.problem([POD]) == ""
