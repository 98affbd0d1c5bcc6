"""Prediction intervals in the answers of a real server, and in its log."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import numpy as np
import requests
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from airflow_mlops.core.contract import FeatureColumn, ModelContract, PredictionInterval
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.log.merge import merge
from tests.integration.conftest import free_port
from tests.support.endpoint import answering, register

ENDS = ("prediction_lower", "prediction_upper")
CONTRACT = ModelContract(
    task="regression",
    label="minutes",
    features=[FeatureColumn(name="distance", kind="number"), FeatureColumn(name="hour", kind="number")],
    interval=PredictionInterval(coverage=0.9, margin=0.7, rows=100),
    dataset_name="d",
    dataset_id="i",
)


def linear_model() -> bytes:
    """0.3 times the distance, plus 0.1 times the hour."""
    nodes = [
        helper.make_node("Concat", ["distance", "hour"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "weights"], ["variable"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("distance", "hour")],
        [helper.make_tensor_value_info("variable", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(np.array([[0.3], [0.1]], np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_the_ends_of_intervals_are_answered_and_logged(mlflow_server, tmp_path):
    model, port, store = f"minutes_{uuid.uuid4().hex[:8]}", free_port(), tmp_path / "store"
    store.mkdir()
    register(MlflowClient(mlflow_server, mlflow_server), tmp_path / "files", model, CONTRACT, linear_model())
    command = ["-m", "airflow_mlops.serving", model, "--store", store.as_uri(), "--port", str(port)]
    rows = [{"distance": 10.0, "hour": 7}, {"distance": 0.1, "hour": 23}]
    tensors = [
        {"name": name, "datatype": "FP64", "shape": [2, 1], "data": [row[name] for row in rows]} for name in rows[0]
    ]
    with answering([*command, "--spool", str(tmp_path / "spool")], port, model, mlflow_server) as server:
        described = requests.get(f"{server.url}/v2/models/{model}", timeout=20).json()["outputs"]
        found = requests.post(server.predict, json={"id": "rows", "rows": rows}, timeout=20).json()["predictions"]
        answer = requests.post(server.infer, json={"id": "tensors", "inputs": tensors}, timeout=20).json()["outputs"]
    assert {item["name"]: item["datatype"] for item in described} == dict.fromkeys(
        ("prediction", "score", *ENDS), "FP64"
    )
    np.testing.assert_allclose([item["score"] for item in found], [3.7, 2.33], rtol=1e-6)
    for item in found:
        assert [item[name] for name in ENDS] == [item["score"] - 0.7, item["score"] + 0.7]
    outputs = {item["name"]: item["data"] for item in answer}
    assert [outputs[name] for name in ENDS] == [[item[name] for item in found] for name in ENDS]

    artifacts, name = ArtifactStore(store.as_uri()), f"{model}_online"
    merge(artifacts, model, name, datetime.now(timezone.utc) + timedelta(days=1))
    logged = [
        row
        for dataset in PredictionLog(artifacts, model, name).present()
        for batch in dataset.batches()
        for row in batch.to_pylist()
    ]
    assert {row["request_id"] for row in logged} == {"rows", "tensors"}
    for row in logged:
        assert [row[name] for name in ENDS] == [found[row["request_row"]][name] for name in ENDS]
