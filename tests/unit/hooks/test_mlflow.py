"""``MLflowHook`` on a worker that does not have the connection of the step."""

from __future__ import annotations

import pytest

from airflow_mlops.compute import connections
from airflow_mlops.core.errors import ConnectionNotFoundError, ConnectionUnavailableError, MLOpsError
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
