"""Invalid requests of the Open Inference Protocol are refused, and never crash the server."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.serving.http import protocol
from airflow_mlops.serving.http.access import AccessLog
from airflow_mlops.serving.http.routes import Answered
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.rows.request import InputColumns
from airflow_mlops.serving.versions.loaded import Served

CONTRACT = ModelContract(
    task="regression", label="y", dataset_name="d", dataset_id="i", features=[FeatureColumn(name="x", kind="number")]
)
SERVED = Served(ModelVersionRef(model="m", version=1, run_id=""), None, InputColumns(CONTRACT))
X = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.5]}


def read(**changes):
    return protocol.read({"inputs": [{**X, **changes}]}, memoryview(b""), SERVED).features["x"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ["x"]},
        {"name": {}},
        {"name": None},
        {"datatype": ["FP64"]},
        {"datatype": {}},
        {"datatype": "INT64"},
        {"parameters": {"shared_memory_region": "r"}},
        {"parameters": []},
        {"parameters": {"binary_data_size": True}},
        {"shape": [True, 1]},
        {"data": {"a": 1}},
        {"data": [{}]},
        {"datatype": "INT8", "data": [128]},
        {"datatype": "UINT8", "data": [-1]},
        {"datatype": "INT64", "data": [2**63]},
        {"datatype": "BOOL", "data": [2]},
        {"datatype": "BOOL", "data": [0.5]},
        {"datatype": "FP16", "data": [1e5]},
        {"datatype": "FP32", "data": [1e39]},
        {"data": [float("inf")]},
        {"data": [float("inf")], "parameters": {"binary_data_size": None}},
        {"datatype": "BYTES"},
        {"data": ["0.5"]},
    ],
)
def test_wrong_inputs_are_refused(changes):
    with pytest.raises(SchemaError):
        read(**changes)


@pytest.mark.parametrize(("size", "extra"), [(8, {"data": [0.5]}), (7, {}), (9, {})])
def test_binary_data_is_complete_and_not_sent_twice(size, extra):
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}
    assert protocol.read({"inputs": [tensor]}, memoryview(np.float64(0.5).tobytes()), SERVED).features["x"] == [0.5]
    with pytest.raises(SchemaError):
        protocol.read({"inputs": [{**tensor, **extra}]}, memoryview(b"a" * size), SERVED)


@pytest.mark.parametrize(
    ("datatype", "data", "values"),
    [
        ("FP64", np.array([np.inf, -np.inf, np.nan], "<f8").tobytes(), [np.inf, -np.inf, None]),
        ("FP16", np.array([np.inf, 1, 2], "<f2").tobytes(), [np.inf, 1, 2]),
        ("BOOL", b"\0\1\1", [0, 1, 1]),
        ("BOOL", b"\0\1\2", None),
        ("BYTES", b"\1\0\0\0a" * 3, None),
    ],
)
def test_binary_numbers_may_be_infinite_and_truth_values_are_0_and_1(datatype, data, values):
    tensor = {"name": "x", "shape": [3], "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    if values is None:
        with pytest.raises(SchemaError, match="'x'"):
            protocol.read({"inputs": [tensor]}, memoryview(data), SERVED)
    else:
        assert protocol.read({"inputs": [tensor]}, memoryview(data), SERVED).features["x"] == values


def test_whether_an_output_is_binary_is_true_or_false():
    for body in (
        {"outputs": [{"name": "score"}, {"name": "score", "parameters": {"binary_data": True}}]},
        {"parameters": {"binary_data_output": "yes"}},
        {"outputs": [{"name": "score", "parameters": {"binary_data": 1}}]},
    ):
        with pytest.raises(SchemaError):
            protocol.requested(body)


def test_integers_and_nulls_are_numbers():
    assert read(datatype="INT64", data=[3]) == [3]
    assert read(datatype="INT64", data=[None]) == [None]
    assert read(data=[[3]]) == [3]


def test_an_unexpected_error_is_answered_and_counted(caplog):
    async def call(request):
        raise TypeError("secret")

    sent, metrics = [], Metrics()

    async def send(message):
        sent.append(message)

    route = Answered(call, "infer", metrics, AccessLog(None, metrics), None)
    scope = {"type": "http", "headers": [], "method": "POST", "path": "/", "client": None}
    asyncio.run(route(scope, None, send))
    assert sent[0]["status"] == 500
    assert "secret" not in json.loads(sent[1]["body"])["error"]
    assert metrics.registry.get_sample_value("mlops_serve_requests_total", {"call": "infer", "status": "500"}) == 1
    assert "secret" in caplog.text
