"""The server of the online endpoint as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest
import requests

from airflow_mlops.core.contract import ModelContract

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
        for _ in range(400):
            assert server.poll() is None, lines
            with suppress(requests.ConnectionError):
                if requests.get(f"{url}/v2/health/ready", timeout=5).status_code == 200:
                    break
            time.sleep(0.2)
        else:
            pytest.fail(f"The server was not ready: {lines}")
        path = f"{url}/v2/models/{model}"
        yield SimpleNamespace(
            url=url, port=port, process=server, lines=lines, predict=f"{path}/predict", infer=f"{path}/infer"
        )
    finally:
        server.terminate()
        server.wait(60)
        reader.join(10)


def children(server: SimpleNamespace, name: str) -> list[psutil.Process]:
    """The processes of a server that run the module ``airflow_mlops.serving.NAME``."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if f"airflow_mlops.serving.processes.{name}" in child.cmdline():
                found.append(child)
    return found


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
