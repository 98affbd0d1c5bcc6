"""The server of the online endpoint as a process of its own."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import requests

from airflow_mlops.core.contract import ModelContract

if TYPE_CHECKING:
    from mlflow import MlflowClient


# Pause of a connection between two requests, so that the tests take little processor time.
_PAUSE_SECONDS = 0.005


@contextmanager
def answering(
    command: Sequence[str], port: int, model: str, mlflow: str, **environment: str
) -> Iterator[SimpleNamespace]:
    """Start a server, and wait until it is ready.

    :param command: arguments of Python
    :param port: the port on which the server listens
    :param model: name of the model
    :param mlflow: URL of the MLflow server
    """
    with started(command, port, model, mlflow, **environment) as server:
        await_status(server, "ready")
        server.ready_cpu = cpu_seconds(server.process)
        yield server


def await_status(server: SimpleNamespace, what: str, status: int = 200) -> None:
    """Wait until the health of a server (``live`` or ``ready``) has a status."""
    for _ in range(400):
        assert server.process.poll() is None, server.lines
        with suppress(requests.ConnectionError):
            if requests.get(f"{server.url}/v2/health/{what}", timeout=5).status_code == status:
                return
        time.sleep(0.2)
    pytest.fail(f"The server was not {what}: {server.lines}")


@contextmanager
def started(
    command: Sequence[str], port: int, model: str, mlflow: str, **environment: str
) -> Iterator[SimpleNamespace]:
    """Start a server, which need not be ready, with the parameters of :func:`answering`."""
    connection = json.dumps({"conn_type": "mlflow", "host": mlflow})
    server = subprocess.Popen(
        [sys.executable, *command],
        # Without the settings for garbage of tests/support/startup, which take memory, because it is measured.
        env={**os.environ, "PYTHONPATH": "", "AIRFLOW_CONN_MLFLOW_DEFAULT": connection, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(line.decode() for line in server.stdout), daemon=True)
    reader.start()
    url = f"http://127.0.0.1:{port}"
    try:
        path = f"{url}/v2/models/{model}"
        yield SimpleNamespace(
            url=url, port=port, process=server, lines=lines, predict=f"{path}/predict", infer=f"{path}/infer",
        )  # fmt: skip
    finally:
        server.terminate()
        server.wait(60)
        reader.join(10)


def cpu_seconds(server: subprocess.Popen[bytes]) -> float:
    """The processor time of a server and its processes until now."""
    parent = psutil.Process(server.pid)
    found = [parent.cpu_times()]
    for child in parent.children():
        with suppress(psutil.NoSuchProcess):
            found.append(child.cpu_times())
    return sum(times.user + times.system for times in found)


def children(server: SimpleNamespace, name: str) -> list[psutil.Process]:
    """The processes of a server that run the module ``airflow_mlops.serving.NAME``."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if f"airflow_mlops.serving.processes.{name}" in child.cmdline():
                found.append(child)
    return found


class Load:
    """Connections that send requests of one row, each some milliseconds after the one before is answered.

    :param server: the server
    :param row: the row of each request
    :param name: start of the ids of the requests
    """

    def __init__(self, server: SimpleNamespace, row: dict[str, Any], name: str, connections: int = 4) -> None:
        self._server, self._row, self._name = server, row, name
        self._numbers, self._ended = itertools.count(), threading.Event()
        #: Ids of the answered requests, with the time of the answer in seconds since 1970.
        self.answered: dict[str, float] = {}
        #: Ids of all requests.
        self.sent: list[str] = []
        #: Answers with another status than 200.
        self.refused: list[bytes] = []
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(connections)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        path = self._server.predict.removeprefix(self._server.url)
        # The server may be killed.
        with suppress(OSError, http.client.HTTPException):
            while not self._ended.is_set():
                request_id = f"{self._name}-{next(self._numbers)}"
                self.sent.append(request_id)
                connection.request("POST", path, json.dumps({"id": request_id, "rows": [self._row]}))
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.answered[request_id] = time.time()
                else:
                    self.refused.append(body)
                time.sleep(_PAUSE_SECONDS)


def finished_while_stopping(server: SimpleNamespace, body: bytes) -> bytes:
    """Send a part of a request, stop the server gracefully, send the rest, and return the answer of the server."""
    path = server.predict.removeprefix(server.url)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head + body[:10])
        # When the server has answered another request, it has also read the headers of this one.
        requests.get(f"{server.url}/v2/health/live", timeout=20).raise_for_status()
        server.process.terminate()
        with suppress(ConnectionRefusedError):
            while True:
                socket.create_connection(("127.0.0.1", server.port), timeout=30).close()
                time.sleep(0.02)
        client.sendall(body[10:])
        parts = []
        while part := client.recv(65_536):
            parts.append(part)
        return b"".join(parts)


def register(client: MlflowClient, folder: Path, model: str, contract: ModelContract, exported: bytes) -> None:
    """Make an ONNX model the champion of a new registered model, with the files that TrainOperator stores."""
    (folder / "mlops").mkdir(parents=True)
    (folder / "mlops" / "contract.json").write_text(contract.model_dump_json())
    (folder / "model.onnx").write_bytes(exported)
    (folder / "MLmodel").write_text(json.dumps({"flavors": {"onnx": {"data": "model.onnx"}}, "artifact_path": "model"}))
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(folder), "model")
    client.create_registered_model(model)
    made = client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(model, "champion", made.version)
