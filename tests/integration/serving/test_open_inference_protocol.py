"""The Open Inference Protocol, with texts as inputs and outputs: raw requests, and Triton's own client."""

from __future__ import annotations

import json
import socket
import struct
import uuid
from collections.abc import Iterator
from http.client import parse_headers
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from tests.integration.conftest import free_port
from tests.support.endpoint import answering, register

CARRIERS, CLASSES = ["AA", "B6", "Ünïted 航空", ""], ["early", "late", "on time"]
TABLE = {"carrier": ["AA", "Ünïted 航空", "ZZ", ""], "distance": [0.5, -2.25, 1.0, 3.5], "hour": [7, 23, 0, 12]}


def softmax_model() -> bytes:
    """Probabilities of three classes from a text, a number and an integer."""
    numbers = np.random.default_rng(0)
    nodes = [
        helper.make_node(
            "LabelEncoder", ["carrier"], ["code"], domain="ai.onnx.ml", keys_strings=CARRIERS,
            values_floats=[0.0, 1.0, -1.0, 2.0], default_float=0.5,
        ),
        helper.make_node("Cast", ["hour"], ["hours"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["code", "distance", "hours"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "weights"], ["values"]),
        helper.make_node("Softmax", ["values"], ["probabilities"], axis=1),
    ]  # fmt: skip
    kinds = {"carrier": TensorProto.STRING, "distance": TensorProto.FLOAT, "hour": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "softmax",
        [helper.make_tensor_value_info(name, kind, [None, 1]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(numbers.normal(scale=0.3, size=(3, 3)).astype(np.float32), "weights")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def server(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    contract = ModelContract(
        task="multiclass",
        label="arrival",
        features=[
            FeatureColumn(name="carrier", kind="string"),
            FeatureColumn(name="distance", kind="number"),
            FeatureColumn(name="hour", kind="integer"),
        ],
        classes=CLASSES,
        dataset_name="d",
        dataset_id="i",
    )
    folder, model, port = tmp_path_factory.mktemp("model"), f"arrivals_{uuid.uuid4().hex[:8]}", free_port()
    register(MlflowClient(mlflow_server, mlflow_server), folder / "files", model, contract, softmax_model())
    command = ["-m", "airflow_mlops.serving", model, "--store", folder.as_uri(), "--port", str(port), "--no-log"]
    with answering(command, port, model, mlflow_server) as found:
        found.model = model
        yield found


@pytest.fixture(scope="module")
def expected(server: SimpleNamespace) -> dict[str, list]:
    """The answers of ``/predict``."""
    rows = [dict(zip(TABLE, values, strict=True)) for values in zip(*TABLE.values(), strict=True)]
    found = requests.post(server.predict, json={"rows": rows}, timeout=20).json()["predictions"]
    assert len({item["score"] for item in found}) == len(rows)
    return {name: [item[name] for item in found] for name in ("prediction", "score")}


def texts(values: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)


def test_tensors_as_json_and_as_bytes_give_the_same(server, expected):
    kinds = {"carrier": "BYTES", "distance": "FP64", "hour": "INT64"}
    tensors = [{"name": name, "datatype": kinds[name], "shape": [4, 1]} for name in TABLE]
    plain = {"inputs": [{**tensor, "data": TABLE[tensor["name"]]} for tensor in tensors]}
    outputs = {item["name"]: item for item in requests.post(server.infer, json=plain, timeout=20).json()["outputs"]}
    assert (outputs["prediction"]["datatype"], outputs["prediction"]["data"]) == ("BYTES", expected["prediction"])
    assert outputs["score"]["data"] == expected["score"]
    data = [
        texts(TABLE["carrier"]),
        np.array(TABLE["distance"], "<f8").tobytes(),
        np.array(TABLE["hour"], "<i8").tobytes(),
    ]
    binary = {
        "inputs": [
            {**tensor, "parameters": {"binary_data_size": len(part)}} for tensor, part in zip(tensors, data, strict=True)
        ],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "score"}, {"name": "prediction"}, {"name": "probabilities", "parameters": {"binary_data": False}}],
    }  # fmt: skip
    head = json.dumps(binary).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = requests.post(server.infer, data=head + b"".join(data), headers=headers, timeout=20)
    size = int(answer.headers["Inference-Header-Content-Length"])
    described, rest = json.loads(answer.content[:size])["outputs"], answer.content[size:]
    sizes = [item.get("parameters", {}).get("binary_data_size", 0) for item in described]
    assert [item["name"] for item in described] == ["score", "prediction", "probabilities"]
    assert np.frombuffer(rest[: sizes[0]], "<f8").tolist() == expected["score"]
    assert rest[sizes[0] :] == texts(expected["prediction"])
    assert described[2]["data"] == outputs["probabilities"]["data"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"outputs": [{"name": "scores"}]}, 422),
        ({"outputs": [{"name": "score", "parameters": {"classification": 2}}]}, 422),
        ({"outputs": [{"name": "score", "parameters": 7}]}, 422),
        ({"id": 7}, 422),
        ({"id": "x" * 201}, 422),
        ({"id": "x" * 200}, 200),
    ],
)
def test_unknown_inputs_unknown_outputs_and_invalid_ids_are_refused(server, change, status):
    kinds = {"carrier": "BYTES", "distance": "FP64", "hour": "INT64"}
    inputs = [{"name": name, "datatype": kinds[name], "shape": [4], "data": values} for name, values in TABLE.items()]
    answer = requests.post(server.infer, json={"inputs": inputs, **change}, timeout=20)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["error"]


def test_a_row_without_a_score_has_no_class(server):
    table = {"carrier": ["AA", "AA"], "distance": [1.0, 1e39], "hour": [7, 7]}  # too large for single precision
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    first, second = requests.post(server.predict, json={"rows": rows}, timeout=20).json()["predictions"]
    assert first["prediction"] in CLASSES
    assert second == {"prediction": None, "score": None}
    kinds = {"carrier": "BYTES", "distance": "FP64", "hour": "INT64"}
    inputs = [{"name": name, "datatype": kinds[name], "shape": [2], "data": data} for name, data in table.items()]
    answer = requests.post(server.infer, json={"inputs": inputs}, timeout=20).json()
    assert answer["outputs"][0]["data"] == [first["prediction"], None]
    binary = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    assert requests.post(server.infer, json=binary, timeout=20).status_code == 422


@pytest.mark.parametrize("length", ["\u00b2", "9" * 5000, "", "-1"])
def test_a_wrong_length_of_the_json_is_refused(server, length):
    headers = {"Inference-Header-Content-Length": length.encode("latin-1")}
    assert requests.post(server.infer, data=b"{}", headers=headers, timeout=20).status_code == 400


_UPGRADES = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n",
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"Connection: Upgrade\r\nUpgrade: foo/2, h2c\r\n",
    b"Connection: keep-alive\r\n",
)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("part", [1, 7, 1 << 20])
def test_a_request_for_another_protocol_is_answered_by_http_1(server, chunked, part):
    """As RFC 9110, section 7.8, allows. Requests arrive in parts of any size, several over one connection."""
    data = b""
    for number, headers in enumerate(_UPGRADES):
        row = {name: values[number] for name, values in TABLE.items()}
        body = json.dumps({"id": f"id-{number}", "rows": [row]}).encode()
        length, sent = b"Content-Length: %d" % len(body), body
        if chunked:
            length, sent = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        path = server.predict.removeprefix(server.url).encode()
        data += b"POST %b HTTP/1.1\r\nHost: a\r\n%b%b\r\n\r\n%b" % (path, headers, length, sent)
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), part):
            connection.sendall(data[start : start + part])
        answers = connection.makefile("rb")
        for number in range(len(_UPGRADES)):
            assert answers.readline().startswith(b"HTTP/1.1 200 ")
            length = int(parse_headers(answers)["Content-Length"])
            assert json.loads(answers.read(length))["id"] == f"id-{number}"


def test_an_upgrade_without_a_body_and_another_method_for_tunnels(server):
    headers = {"Connection": "Upgrade", "Upgrade": "h2c"}
    assert requests.get(f"{server.url}/v2/health/ready", headers=headers, timeout=20).json() == {"ready": True}
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 4")


def test_every_error_is_in_the_field_where_clients_look(server):
    compressed = {"Content-Encoding": "gzip"}
    assert requests.post(server.infer, data=b"x", headers=compressed, timeout=20).status_code == 415
    for method, path, status in (("GET", "/v2/models/a/config", 404), ("GET", "/nothing", 404), ("PUT", "/v2", 405)):
        answer = requests.request(method, f"{server.url}{path}", timeout=20)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_tritons_client(server, expected):
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(server.model)
        assert client.is_model_ready(server.model, "1")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        described = client.get_model_metadata(server.model)["inputs"]
        arrays = {
            "carrier": np.array(TABLE["carrier"], object),
            "distance": np.array(TABLE["distance"], np.float64),
            "hour": np.array(TABLE["hour"], np.int64),
        }
        for binary in (True, False):
            inputs = []
            for item in described:
                tensor = triton.InferInput(item["name"], [4, 1], item["datatype"])
                tensor.set_data_from_numpy(arrays[item["name"]].reshape(-1, 1), binary_data=binary)
                inputs.append(tensor)
            named = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("prediction", "score")]
            for outputs in (None, named):
                found = client.infer(server.model, inputs, request_id="seven", outputs=outputs)
                assert found.get_response()["id"] == "seven"
                assert found.as_numpy("score").ravel().tolist() == expected["score"]
                labels = found.as_numpy("prediction").ravel().tolist()
                decoded = [label.decode() if isinstance(label, bytes) else label for label in labels]
                assert decoded == expected["prediction"]
            waiting = client.async_infer(server.model, inputs, model_version="1")
            assert waiting.get_result().as_numpy("probabilities").shape == (4, 3)
        with pytest.raises(InferenceServerException, match="distance"):
            client.infer(server.model, inputs[:1])
        with pytest.raises(InferenceServerException, match="no GET"):
            client.get_model_config(server.model)


# What `kserve.InferenceRESTClient` of kserve 0.21.0 sends for TABLE, with data as JSON and as bytes. The package needs
# other versions of libraries than Airflow, so its requests are recorded here.
KSERVE_JSON = (
    '{"id":"seven","model_name":"arrivals","inputs":['
    '{"name":"carrier","shape":[4,1],"datatype":"BYTES","data":["AA","Ünïted 航空","ZZ",""]},'
    '{"name":"distance","shape":[4,1],"datatype":"FP64","data":[0.5,-2.25,1.0,3.5]},'
    '{"name":"hour","shape":[4,1],"datatype":"INT64","data":[7,23,0,12]}]}'
).encode()
KSERVE_HEAD = (
    b'{"id":"seven","model_name":"arrivals","inputs":['
    b'{"name":"carrier","shape":[4,1],"datatype":"BYTES","parameters":{"binary_data_size":35}},'
    b'{"name":"distance","shape":[4,1],"datatype":"FP64","parameters":{"binary_data_size":32}},'
    b'{"name":"hour","shape":[4,1],"datatype":"INT64","parameters":{"binary_data_size":32}}],'
    b'"parameters":{"binary_data_output":true}}'
)
KSERVE_DATA = b"".join(
    [texts(TABLE["carrier"]), struct.pack("<4d", *TABLE["distance"]), struct.pack("<4q", *TABLE["hour"])]
)


def test_requests_of_kserves_client(server, expected):
    """The client reads ``live``, ``ready``, the status of a model, and ``id``, ``model_name`` and ``outputs``."""
    assert requests.get(f"{server.url}/v2/health/live", timeout=20).json()["live"] is True
    assert requests.get(f"{server.url}/v2/health/ready", timeout=20).json()["ready"] is True
    assert requests.get(f"{server.url}/v2/models/{server.model}/ready", timeout=20).ok
    assert not requests.get(f"{server.url}/v2/models/other/ready", timeout=20).ok
    as_bytes = {"prediction": texts(expected["prediction"]), "score": np.array(expected["score"], "<f8").tobytes()}
    binary = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(KSERVE_HEAD))}
    for body, headers, wanted in (
        (KSERVE_JSON, {"Content-Type": "application/json"}, expected),
        (KSERVE_HEAD + KSERVE_DATA, binary, as_bytes),
    ):
        answer = requests.post(server.infer, data=body, headers=headers, timeout=20)
        size = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
        described, rest = json.loads(answer.content[:size]), answer.content[size:]
        found = {}
        for output in described["outputs"]:
            length = output.get("parameters", {}).get("binary_data_size", 0)
            part, rest = rest[:length], rest[length:]
            if output["name"] != "probabilities":
                found[output["name"]] = part if length else output["data"]
        assert (described["id"], described["model_name"], found, rest) == ("seven", server.model, wanted, b"")
