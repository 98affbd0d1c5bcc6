"""What a server must withstand: versions that cannot be loaded, many champions, and clients that send too much or too little."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import onnx
import psutil
import pytest
import requests
from onnx import TensorProto, helper

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.spec import ServeSpec
from tests.integration.conftest import free_port
from tests.support.deployed import Champions, pickled, without_contract
from tests.support.endpoint import answering, children

ROW = {"distance": 0.5, "wind": None}
REQUEST_SECONDS, LOAD_SECONDS = 1.5, 5.0
_SERVE = (
    "import sys; from airflow_mlops.serving.__main__ import serve; from airflow_mlops.serving.spec import ServeSpec;"
    "import logging; logging.basicConfig(level=logging.INFO); serve(ServeSpec.model_validate_json(sys.argv[1]))"
)


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
        model=champions.model, store=store.url, port=port, spool=str(tmp_path_factory.mktemp("spool")),
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


def test_a_row_of_a_million_columns_is_refused(server):
    fields = ",".join([f'"{number:06d}":0' for number in range(1_000_000)])
    columns = f'{{"rows": [{{{fields}}}]}}'
    tensor = '{"name":"%06d","shape":[1],"datatype":"FP64","data":[1]}'
    tensors = f'{{"inputs": [{",".join([tensor % number for number in range(250_000)])}]}}'
    # The limit of a request is 16 MB.
    assert max(len(columns), len(tensors)) < 16_000_000
    before = cpu(server)
    for url, body in ((server.predict, columns), (server.infer, tensors)):
        answer = requests.post(url, data=body, timeout=60)
        assert (answer.status_code, "'000000'" in answer.json()["error"]) == (422, True)
        assert len(answer.content) < 1000
    assert cpu(server) - before < 10


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("predict", {"rows": [{"x" * 1_000_000: 1}]}),
        ("infer", {"inputs": [{"name": "x" * 1_000_000}]}),
        ("infer", {"inputs": [{"name": "wind", "shape": ["x" * 1_000_000]}]}),
        ("infer", {"inputs": [{"name": "wind", "shape": [1], "datatype": "x" * 1_000_000}]}),
    ],
)
def test_a_long_name_is_not_repeated_by_its_answer(server, call, body):
    answer = requests.post(getattr(server, call), json=body, timeout=20)
    assert (answer.status_code, len(answer.content) < 1000) == (422, True)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        ("NaN", 400),
        ("-Infinity", 400),
        ("1" * 1_000_000, 400),
        ("1e1000000", 422),
        ("0." + "1" * 1_000_000, 200),
    ],
    ids=lambda value: str(value)[:12],
)
def test_invalid_and_very_long_numbers_are_answered_quickly(server, number, status):
    before = cpu(server)
    answer = requests.post(server.predict, data=f'{{"rows": [{{"distance": {number}, "wind": 1}}]}}', timeout=20)
    assert answer.status_code == status, answer.text[:1000]
    assert cpu(server) - before < 5


def test_a_body_of_a_gigabyte_takes_no_memory(server):
    process = psutil.Process(server.process.pid)
    before, part = process.memory_info().rss, b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    declared = requests.post(server.predict, headers={"Content-Length": "1000000000"}, data=b"", timeout=20)
    assert declared.status_code == 413
    sent, most, answer = 0, 0, b""
    with opened(server, head(server, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")) as client:
        # The server may close the connection after its answer, before it has received everything.
        with suppress(ConnectionError, TimeoutError):
            for sent in range(1, 1001):
                client.sendall(part)
                if sent % 100 == 0:
                    most = max(most, process.memory_info().rss)
        client.settimeout(20)
        with suppress(ConnectionError, TimeoutError):
            answer = client.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert most - before < 100_000_000
    assert sent > 100
    assert version(server)


def cpu(server: SimpleNamespace) -> float:
    """The processor time of the process of the server, in seconds."""
    return sum(psutil.Process(server.process.pid).cpu_times()[:2])


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


def unread(server: SimpleNamespace) -> socket.socket:
    """Send a request whose answer has about 7 MB, more than the buffers of the operating system take."""
    values = [0.5] * 100_000
    inputs = [{"name": name, "shape": [len(values)], "datatype": "FP64", "data": values} for name in ROW]
    body = json.dumps({"inputs": inputs}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", server.port))
    client.sendall(head(server, len(body)).replace(b"/predict ", b"/infer ") + body)
    return client


def connected(server: SimpleNamespace, *clients: socket.socket) -> bool:
    ports = {client.getsockname()[1] for client in clients}
    found = psutil.Process(server.process.pid).net_connections("tcp4")
    return any(item.raddr and item.raddr.port in ports for item in found)


def test_clients_that_do_not_read_their_answers_are_disconnected_and_their_memory_is_freed(server):
    before = psutil.Process(server.process.pid).memory_info().rss
    with unread(server) as silent, unread(server) as slow:
        assert connected(server, silent, slow)
        began, received = time.monotonic(), 0
        while connected(server, silent, slow):
            with suppress(ConnectionError):
                received += len(slow.recv(1000))
            time.sleep(0.05)
            assert time.monotonic() - began < 20
            assert version(server)
    assert received < 1_000_000
    assert psutil.Process(server.process.pid).memory_info().rss - before < 100_000_000


def test_a_client_that_reads_a_large_answer_in_time_gets_all_of_it(server):
    with unread(server) as client:
        time.sleep(REQUEST_SECONDS / 3)
        received = b""
        while b"\r\n\r\n" not in received:
            part = client.recv(1_000_000)
            assert part
            received += part
        headers, _, body = received.partition(b"\r\n\r\n")
        parts, left = [body], int(headers.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(body)
        while left:
            part = client.recv(1_000_000)
            assert part
            parts.append(part)
            left -= len(part)
    outputs = {item["name"]: item for item in json.loads(b"".join(parts))["outputs"]}
    assert len(outputs["score"]["data"]) == 100_000


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


def replaced(model: Callable[[], bytes]) -> Callable[[Path], object]:
    """Return a function that replaces the ONNX model in a folder."""
    return lambda files: (files / "model.onnx").write_bytes(model())


@pytest.mark.parametrize(
    ("poison", "said"),
    [
        (lambda files: pickled(files, "model.onnx"), "cannot load the model"),
        (pickled, "has no file model.onnx"),
        (without_contract, "TrainOperator did not train it"),
        (replaced(deep_tree), "crashed the process that loads it"),
        (replaced(endless_loop), f"was not loaded within {LOAD_SECONDS:g} s"),
    ],
    ids=["pickle named as ONNX", "pickle", "no contract", "crashes", "hangs"],
)
def test_a_version_that_cannot_be_served_does_not_replace_the_old_one(server, champions, poison, said):
    until(server, champions.move(1))
    marker = len(server.lines)
    poisoned = champions.add(poison)
    deadline = time.monotonic() + 60
    while not any(said in line for line in server.lines[marker:]):
        assert version(server) == 1
        assert time.monotonic() < deadline, server.lines[marker:]
        time.sleep(0.1)
    assert requests.get(f"{server.url}/v2/health/ready", timeout=20).status_code == 200
    assert requests.get(f"{server.url}/v2/models/{champions.model}/versions/{poisoned}", timeout=20).status_code == 404
    assert not (champions.folder / "unpickled").exists()
    # A later version is still served.
    until(server, champions.add())
    until(server, champions.move(1))
