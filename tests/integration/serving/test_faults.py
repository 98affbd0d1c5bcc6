"""What a server must withstand: versions that cannot be loaded, many champions, and clients that send too much or too little."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import onnx
import psutil
import pytest
import requests
from mlflow import MlflowClient
from onnx import TensorProto, helper

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.spec import ServeSpec
from tests.integration.conftest import free_port
from tests.support.deployed import promote
from tests.support.endpoint import answering, children

ROW = {"distance": 0.5, "wind": None}
REQUEST_SECONDS, LOAD_SECONDS = 1.5, 5.0
_SERVE = (
    "import sys; from airflow_mlops.serving.__main__ import serve; from airflow_mlops.serving.spec import ServeSpec;"
    "import logging; logging.basicConfig(level=logging.INFO); serve(ServeSpec.model_validate_json(sys.argv[1]))"
)


class Champions:
    """Versions of a registered model. All have the files of the first version, some with another ONNX model."""

    def __init__(self, url: str, folder: Path, store: ArtifactStore) -> None:
        self.client, self._folder = MlflowClient(url), folder
        self.model = f"faults_{uuid.uuid4().hex[:8]}"
        self.first = promote(self.client, folder, store, self.model)
        self._source = self.client.get_model_version(self.model, "1").source

    def move(self, version: int | str) -> int:
        self.client.set_registered_model_alias(self.model, "champion", str(version))
        return int(version)

    def add(self, exported: bytes | None = None) -> int:
        """Make a new version champion, and return its number.

        :param exported: the ONNX model; by default that of the first version
        """
        source, run_id = self._source, self.first.run_id
        if exported is not None:
            files = Path(self.client.download_artifacts(run_id, "model", str(self._folder)))
            (files / "model.onnx").write_bytes(exported)
            run = self.client.create_run("0")
            run_id, source = run.info.run_id, f"{run.info.artifact_uri}/model"
            self.client.log_artifacts(run_id, str(files), "model")
            shutil.rmtree(files)
        return self.move(self.client.create_model_version(self.model, source, run_id).version)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture(scope="module")
def champions(mlflow_server: str, store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> Champions:
    return Champions(mlflow_server, tmp_path_factory.mktemp("models"), store)


@pytest.fixture(scope="module")
def server(
    champions: Champions, mlflow_server: str, store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    port = free_port()
    spec = ServeSpec(
        model=champions.model, store=store.url, port=port, spool=str(tmp_path_factory.mktemp("spool")), max_body=4_000_000,
        request_seconds=REQUEST_SECONDS, load_seconds=LOAD_SECONDS, poll_seconds=0.1,
    )  # fmt: skip
    with answering(["-c", _SERVE, json.dumps(spec.for_processes())], port, champions.model, mlflow_server) as found:
        yield found
    text = "".join(found.lines)
    assert "Traceback" not in text, text


def version(server: SimpleNamespace) -> int:
    answer = requests.post(server.predict, json={"rows": [ROW]}, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["version"]


def until(server: SimpleNamespace, wanted: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while version(server) != wanted:
        assert time.monotonic() < deadline, server.lines[-5:]
        time.sleep(0.05)


def opened(server: SimpleNamespace, data: bytes = b"") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    found.sendall(data)
    return found


def head(server: SimpleNamespace, length: int) -> bytes:
    path = server.predict.removeprefix(server.url)
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_row_of_a_hundred_thousand_unknown_columns_is_refused(server):
    row = {**ROW, **{f"column {number}": number for number in range(100_000)}}
    began = time.monotonic()
    answer = requests.post(server.predict, json={"rows": [row]}, timeout=20)
    assert (answer.status_code, "column 0" in answer.json()["error"]) == (422, True)
    assert len(answer.content) < 1000
    tensors = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1]} for name in list(row)[:50_000]]
    assert requests.post(server.infer, json={"inputs": tensors}, timeout=20).status_code == 422
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1" * 1_000_000, "1e1000000", "0." + "1" * 1_000_000])
def test_invalid_and_very_long_numbers_are_answered_quickly(server, number):
    body = f'{{"rows": [{{"distance": {number}, "wind": 1}}]}}'
    began = time.monotonic()
    answer = requests.post(server.predict, data=body, timeout=20)
    assert answer.status_code == (200 if number.startswith("0.") else answer.status_code)
    assert answer.status_code in (200, 400, 422), answer.text
    assert time.monotonic() - began < 10


def test_bodies_over_the_limit_take_no_memory(server):
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss

    def parts() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 1_000_000

    with suppress(requests.ConnectionError):
        assert requests.post(server.predict, data=parts(), timeout=60).status_code == 413
    declared = requests.post(server.predict, data=b" " * 4_000_001, timeout=60)
    assert declared.status_code == 413
    assert process.memory_info().rss - before < 100_000_000
    assert version(server)


def outlast(server: SimpleNamespace, data: bytes, drip: bool) -> tuple[bytes, float]:
    """Send a part of a request, and return the answer and the seconds until the server ends the connection.

    :param drip: whether further bytes follow, five a second
    """
    began, answer = time.monotonic(), b""
    with opened(server, data) as client:
        client.settimeout(0.2)
        while time.monotonic() - began < 20:
            try:
                if drip:
                    client.send(b"x")
                received = client.recv(10_000)
                answer += received
                if not received:
                    break
                # After an answer, the server may close the connection at once or after a while.
            except TimeoutError:
                continue
            except ConnectionError:
                break
    return answer, time.monotonic() - began


def test_slow_clients_are_disconnected_and_others_do_not_wait(server):
    body = json.dumps({"rows": [ROW]}).encode()
    slow = {
        "nothing": (b"", False),
        "half a head": (head(server, 10)[:20], False),
        "a head by drops": (head(server, 10)[:20], True),
        "half a body": (head(server, 1_000) + body, False),
        "a body by drops": (head(server, 1_000) + body, True),
        "a body after the answer": (b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", True),
        "a large head": (b"GET /v2 HTTP/1.1\r\nHost: " + b"a" * 200_000, True),
    }
    with ThreadPoolExecutor(len(slow)) as threads:
        waiting = {name: threads.submit(outlast, server, *what) for name, what in slow.items()}
        slowest = 0.0
        while not all(item.done() for item in waiting.values()):
            began = time.monotonic()
            assert version(server)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)
    found = {name: item.result() for name, item in waiting.items()}
    assert max(seconds for _, seconds in found.values()) < 15, found
    statuses = {name: answer.split(b"\r\n")[0] for name, (answer, _) in found.items()}
    assert b" 408 " in statuses["half a body"]
    assert b" 408 " in statuses["a body by drops"]
    assert b" 200 " in statuses["a body after the answer"]
    assert b" 200 " not in statuses["a large head"]
    assert slowest < REQUEST_SECONDS


def test_a_client_that_disconnects_during_a_request_is_not_an_error(server):
    with opened(server, head(server, 100) + b"half"):
        pass
    assert version(server)
    for _ in range(100):
        if 'status="499"' in requests.get(f"{server.url}/metrics", timeout=20).text:
            break
        time.sleep(0.05)
    else:
        pytest.fail("The request was not counted.")


def test_idle_connections_do_not_keep_others_from_being_answered(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    idle = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard - 500)
    if idle < 1_000:
        pytest.skip(f"This process may open {hard} files only.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, idle + 500), hard))
    with ExitStack() as stack:
        clients = [stack.enter_context(opened(server)) for _ in range(idle)]
        for _ in range(10):
            assert version(server)
        # The server closes these connections after a while.
        for client in clients:
            client.settimeout(20)
            with suppress(ConnectionError):
                assert client.recv(1) == b""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_fifty_changes_of_the_champion_fail_no_request(server, champions):
    deadline = time.monotonic() + 60
    # The server itself notices the first change. The process that follows the champion notices the later changes.
    while children(server, "follow"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    stop, answers = threading.Event(), []

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.post(server.predict, json={"rows": [ROW]}, timeout=20)
                answers.append((answer.status_code, answer.json().get("version")))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(25):
            until(server, champions.add())
            # The champion changes back to a version that is no longer loaded.
            until(server, champions.move(1))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in answers} == {200}
    assert len({version for _, version in answers}) > 5


def deep_tree() -> bytes:
    """A tree of a hundred thousand levels, whose nodes ONNX Runtime visits by recursion until the stack overflows."""
    inner, nodes = 100_000, 200_001
    leaves = [0] * (inner + 1)
    node = helper.make_node(
        "TreeEnsembleRegressor", ["distance"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0] * nodes,
        nodes_nodeids=list(range(nodes)), nodes_featureids=[0] * nodes, nodes_values=[0.0] * nodes,
        nodes_modes=["BRANCH_LEQ"] * inner + ["LEAF"] * (inner + 1),
        nodes_truenodeids=[*range(1, inner + 1), *leaves], nodes_falsenodeids=[*range(inner + 1, nodes), *leaves],
        target_treeids=leaves, target_nodeids=list(range(inner, nodes)), target_ids=leaves,
        target_weights=[1.0] * (inner + 1),
    )  # fmt: skip
    return exported(node)


def endless_loop() -> bytes:
    """A loop of 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["before"], ["after"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    rounds = helper.make_node("Constant", [], ["rounds"], value=helper.make_tensor("n", TensorProto.INT64, [], [2**62]))
    return exported(rounds, helper.make_node("Loop", ["rounds", "", "distance"], ["y"], body=body))


def exported(*nodes: onnx.NodeProto) -> bytes:
    graph = helper.make_graph(
        nodes,
        "poison",
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    ("poison", "said"),
    [
        (lambda: b"not a model", "cannot load the model"),
        (deep_tree, "crashed the process that loads it"),
        (endless_loop, f"was not loaded within {LOAD_SECONDS:g} s"),
    ],
    ids=["refused", "crashes", "hangs"],
)
def test_a_version_that_cannot_be_served_does_not_replace_the_old_one(server, champions, poison, said):
    until(server, champions.move(1))
    marker = len(server.lines)
    poisoned = champions.add(poison())
    deadline = time.monotonic() + 60
    while not any(said in line for line in server.lines[marker:]):
        assert version(server) == 1
        assert time.monotonic() < deadline, server.lines[marker:]
        time.sleep(0.1)
    assert requests.get(f"{server.url}/v2/health/ready", timeout=20).status_code == 200
    assert requests.get(f"{server.url}/v2/models/{champions.model}/versions/{poisoned}", timeout=20).status_code == 404
    # A later version is still served.
    until(server, champions.add())
    until(server, champions.move(1))
