"""``MLflowHook`` on a worker that does not have the connection of the step, and at an address without MLflow."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from airflow_mlops.compute import connections
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import ConnectionNotFoundError, ConnectionUnavailableError, MLOpsError, RegistryError
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.operators import TrainOperator


@pytest.mark.parametrize(
    "error", [ConnectionNotFoundError("not defined here"), ConnectionUnavailableError("no answer")]
)
def test_a_training_in_a_pod_succeeds_on_a_worker_without_its_connection(error: MLOpsError, monkeypatch) -> None:
    def absent(conn_id: str) -> None:
        raise error

    monkeypatch.setattr(connections, "airflow_connection", absent)
    task = TrainOperator(task_id="train", dataset={"name": "d", "id": "1"}, model="m", trainer="{{ params.trainer }}")
    monkeypatch.setattr(task, "place", lambda: {"image": "ml:1", "image_digest": "sha256:1"})
    warnings: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        MLflowHook, "log", type("Log", (), {"warning": staticmethod(lambda *args: warnings.append(args))})
    )
    task.finish({"run_id": "r", "cached": None}, {})
    assert [args[-1] for args in warnings] == [error]


class NotFound(BaseHTTPRequestHandler):
    """A proxy that knows no MLflow server at this address."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_an_address_without_mlflow_is_not_a_model_without_a_champion(monkeypatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = ConnectionInfo(conn_id="m", conn_type="mlflow", host=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(connections, "airflow_connection", lambda _: found)
    try:
        with pytest.raises(RegistryError, match="status 404"):
            MLflowHook("m").champion("model")
    finally:
        server.shutdown()
        server.server_close()
