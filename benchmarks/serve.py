"""Requests per second and latency of the online endpoint, compared with MLflow's own server and a bare loop.

``python -m benchmarks.serve [--seconds 1] [--rounds 7]``. A logistic regression and boosted trees of scikit-learn, as in
dags/flights_train.py, are trained on flights of the example, promoted, and served by four servers at the same time:

- ``airflow_mlops.serving``, which checks, logs and measures each request, and the same with ``--no-log``;
- ``mlflow models serve`` with the scikit-learn model;
- ``bare``: FastAPI with ONNX Runtime, which neither checks nor logs.

A client process keeps 8 or 64 connections of one server busy with requests of 1 or 100 rows, then those of the next one, and so
on for some rounds, each of which begins with another server. With one connection, each request is sent to all servers in turn. A
figure is the median of the rounds, so that other work on the machine slows all servers alike. ``p99_to_bare`` and
``requests_to_unlogged`` are the medians of the ratios to the bare loop and to the server without the log in the same round.
``cpu_us`` is the processor time of all processes of a server for each request, in microseconds; other work on the machine
affects it least. The last line is
JSON: these figures, requests per second and the 99th percentile of the latency for the logistic regression, 8 connections and one row; the seconds
until the server is ready; and the largest memory that the server and the process that writes its log have had (``peak_mb``, the sum of both), and the memory
at the end with the process that follows the champion, if it runs (``all_mb``). ``load_average`` is that of the machine before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa

from airflow_mlops import __version__
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.runner import run_call
from benchmarks.worlds import data_file

FEATURES = (
    "month",
    "day",
    "hour",
    "minute",
    "sched_dep_time",
    "sched_arr_time",
    "distance",
    "carrier",
    "origin",
    "dest",
)
TRAINING_ROWS = 20_000
SERVERS = ("ours", "ours without log", "bare", "mlflow")
MODELS = {
    "logistic": ("sklearn.linear_model.LogisticRegression", {"C": 0.1, "max_iter": 300}),
    "trees": (
        "sklearn.ensemble.HistGradientBoostingClassifier",
        {"max_iter": 80, "learning_rate": 0.05, "max_leaf_nodes": 15},
    ),
}
BARE = """
import sys
import numpy as np, onnxruntime
from fastapi import FastAPI, Request
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
types = {node.name: object if node.type == "tensor(string)" else np.float32 for node in session.get_inputs()}
output = session.get_outputs()[-1].name
app = FastAPI()

@app.get("/ready")
async def ready():
    return {}

@app.post("/predict")
async def predict(request: Request):
    rows = (await request.json())["rows"]
    feeds = {name: np.array([row[name] for row in rows], kind).reshape(-1, 1) for name, kind in types.items()}
    (found,) = session.run([output], feeds)
    return {"predictions": found[:, 1].tolist()}

import uvicorn
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def flights() -> pa.Table:
    """Read flights of the year of the example, in the order of their time."""
    data = pd.read_csv(data_file("flights.csv.zip")).dropna(subset=["arr_delay"])
    data = data.iloc[:: len(data) // TRAINING_ROWS].sort_values("time_hour", kind="stable")
    at = pa.array(pd.to_datetime(data["time_hour"], utc=True), pa.timestamp("us", "UTC"))
    late = pa.array(data["arr_delay"] > 15)
    return pa.table({**{name: pa.array(data[name]) for name in FEATURES}, "at": at, "late": late})


def train(folder: Path, url: str, mlflow: str) -> dict[str, ModelVersionRef]:
    """Train and promote a model of each kind. Return the champions by kind."""
    store = ArtifactStore(url)
    with DatasetWriter(store, "rows") as writer:
        writer.write(flights())
        raw = writer.commit(time_column="at")[0]
    connection = ConnectionInfo(conn_id="mlflow_default", conn_type="mlflow", host=mlflow)

    def step(name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return run_call(
            StepCall(step=name, version=__version__, spec=spec, store=url, key=f"results/{name}-{time.time_ns()}"),
            lambda _: connection,
        )

    training = {
        "name": "training", "entities": raw.ref.model_dump(mode="json"), "timestamp": "at", "label": "late", "task": "binary",
        "columns": [*FEATURES], "split": {"method": "time", "test_size": 0.3},
    }  # fmt: skip
    dataset = step("training_set", training)["dataset"]
    champions = {}
    for kind, (estimator, params) in MODELS.items():
        trainer = {"kind": "sklearn", "estimator": estimator, "params": params}
        candidate = step("train", {"dataset": dataset, "model": kind, "trainer": trainer})["candidate"]
        asked = {"dataset": dataset, "candidates": [candidate], "gates": [{"metric": "roc_auc", "min": 0.5}]}
        verdict = step("evaluate", asked)["verdict"]
        champions[kind] = ModelVersionRef.model_validate(step("promote", {"verdict": verdict})["champion"])
    return champions


@contextmanager
def running(
    command: list[str], ready: str, environment: dict[str, str]
) -> Iterator[tuple[dict[str, float], psutil.Process]]:
    """Run a server. Yield its figures and its process.

    The figures begin with the seconds until the server was ready. Its memory is added at the end.
    """
    began = time.perf_counter()
    server = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    found: dict[str, float] = {}
    try:
        while True:
            if server.poll() is not None:
                raise RuntimeError(f"{command} ended with {server.returncode}")
            with suppress(OSError):
                urllib.request.urlopen(ready, timeout=5).read()
                break
            time.sleep(0.02)
        found["ready_seconds"] = round(time.perf_counter() - began, 2)
        process = psutil.Process(server.pid)
        yield found, process
        others = process.children(recursive=True)
        following = [each for each in others if "airflow_mlops.serving.processes.follow" in each.cmdline()]
        found["process_mb"] = memory_mb([process])
        serving = [each for each in (process, *others) if each not in following]
        found["server_mb"], found["peak_mb"] = memory_mb(serving), peak_mb(serving)
        found["all_mb"] = memory_mb([process, *others])
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, 9)


def memory_mb(processes: list[psutil.Process]) -> int:
    """Return the memory of processes in MB. Pages of a file that several of them have mapped, such as a library's, count once."""
    total, shared = 0, {}
    for process in processes:
        for mapped in process.memory_maps():
            own = mapped.private_clean + mapped.private_dirty
            total += own
            shared[mapped.path] = max(shared.get(mapped.path, 0), mapped.rss - own)
    return round((total + sum(shared.values())) / 1e6)


def peak_mb(processes: list[psutil.Process]) -> int:
    """Return the sum of the largest resident memory of each process in MB. Pages that several of them share now count once."""
    status = [Path(f"/proc/{process.pid}/status").read_text() for process in processes]
    largest = sum(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in status)
    twice = sum(process.memory_info().rss for process in processes) / 1e6 - memory_mb(processes)
    return round(largest / 1e6 - twice)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time that a process and its children have taken."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def load(port: int, path: str, body: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Keep ``connections`` connections busy. Return requests per second and percentiles of the latency in milliseconds."""
    request = _request(path, body)
    took: list[float] = []
    # The first request of a connection waits until the others are accepted. With many connections, it would be the p99 latency.
    started = threading.Barrier(connections + 1)

    def work() -> None:
        with _connected(port) as connection:
            connection.sendall(request)
            _answer(connection)
            started.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                began = time.perf_counter()
                connection.sendall(request)
                _answer(connection)
                took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    started.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return _figures(took, time.perf_counter() - began)


def alternating(servers: dict[str, tuple[int, str, bytes]], seconds: float) -> dict[str, dict[str, float]]:
    """Send requests to several servers in turn, over one connection to each, so that other work on the machine slows all alike.

    :param servers: port, path and body for each server
    :param seconds: length of the measurement of each server
    """
    took: dict[str, list[float]] = {server: [] for server in servers}
    with ExitStack() as stack:
        asked = [
            (took[server], stack.enter_context(_connected(port)), _request(path, body))
            for server, (port, path, body) in servers.items()
        ]
        end = time.perf_counter() + seconds * len(servers)
        while time.perf_counter() < end:
            for times, connection, request in asked:
                began = time.perf_counter()
                connection.sendall(request)
                _answer(connection)
                times.append(time.perf_counter() - began)
    return {server: _figures(times, sum(times)) for server, times in took.items()}


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _figures(took: list[float], passed: float) -> dict[str, float]:
    return {
        "requests": len(took),
        "requests_per_second": round(len(took) / passed, 1),
        "p50_ms": round(1000 * float(np.quantile(took, 0.5)), 2),
        "p99_ms": round(1000 * float(np.quantile(took, 0.99)), 2),
    }


def _answer(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("The server closed the connection.")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(head.decode() + body.decode())
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    missing = length - len(body)
    while missing > 0:
        missing -= len(connection.recv(65536))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measurement")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each figure")
    arguments = parser.parse_args()
    from tests.integration.conftest import run_mlflow

    figures: dict[str, Any] = {}
    before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="mlops-bench-") as work,
        run_mlflow(Path(work) / "mlflow", "127.0.0.1") as mlflow,
    ):
        folder = Path(work)
        url = (folder / "store").as_uri()
        (folder / "store").mkdir()
        champions = train(folder, url, mlflow)
        import mlflow as client

        client.set_tracking_uri(mlflow)
        for kind, champion in champions.items():
            downloaded = client.artifacts.download_artifacts(
                f"models:/{kind}/{champion.version}", dst_path=str(folder / kind)
            )
            model = Path(downloaded) / "model.onnx"
            with ExitStack() as stack:
                servers, processes = {}, {}
                for server in SERVERS:
                    port = free_port()
                    command, ready, environment = started(server, kind, champion, port, folder, mlflow, model)
                    known, processes[server] = stack.enter_context(
                        running(command, f"http://127.0.0.1:{port}{ready}", environment)
                    )
                    servers[server], figures[f"{kind}, {server}"] = port, known
                figures |= measured(kind, servers, processes, arguments.seconds, arguments.rounds)
            for server in SERVERS:
                print(f"{kind:9} {server:17} {figures[f'{kind}, {server}']}", flush=True)
    ours, unlogged, bare, theirs = (figures[f"logistic, {server}, 8 connections, 1 rows"] for server in SERVERS)
    print(
        json.dumps(
            {
                "requests_per_second": ours["requests_per_second"],
                "mlflow_requests_per_second": theirs["requests_per_second"],
                "unlogged_requests_per_second": unlogged["requests_per_second"],
                "bare_requests_per_second": bare["requests_per_second"],
                "p99_ms": ours["p99_ms"],
                "unlogged_p99_ms": unlogged["p99_ms"],
                "bare_p99_ms": bare["p99_ms"],
                "p99_to_bare": ours["p99_to_bare"],
                "requests_to_unlogged": ours["requests_to_unlogged"],
                "cpu_us": ours["cpu_us"],
                "unlogged_cpu_us": unlogged["cpu_us"],
                "bare_cpu_us": bare["cpu_us"],
                "ready_seconds": figures["logistic, ours"]["ready_seconds"],
                "peak_mb": figures["trees, ours"]["peak_mb"],
                "all_mb": figures["trees, ours"]["all_mb"],
                "load_average": [round(before, 1), round(os.getloadavg()[0], 1)],
            }
        )
    )


def started(
    server: str, kind: str, champion: ModelVersionRef, port: int, folder: Path, mlflow: str, model: Path
) -> tuple[list[str], str, dict[str, str]]:
    """Return the command of a server, the path that says that it is ready, and its environment."""
    if server.startswith("ours"):
        command = [sys.executable, "-m", "airflow_mlops.serving", kind, "--store", (folder / "store").as_uri()]
        command += ["--port", str(port), "--spool", str(folder / "spool"), *([] if server == "ours" else ["--no-log"])]
        connection = json.dumps({"conn_type": "mlflow", "host": mlflow})
        return command, "/v2/health/ready", {"AIRFLOW_CONN_MLFLOW_DEFAULT": connection}
    if server == "bare":
        return [sys.executable, "-c", BARE, str(model), str(port)], "/ready", {}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{kind}/{champion.version}"]
    command += ["--port", str(port), "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return command, "/ping", {"MLFLOW_TRACKING_URI": mlflow, "PATH": path}


def measured(
    kind: str, servers: dict[str, int], processes: dict[str, psutil.Process], seconds: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Return the figures of each server, number of connections and number of rows.

    :param servers: ports of the servers
    :param processes: processes of the servers
    """
    paths = {"bare": "/predict", "mlflow": "/invocations"}
    values = [[*row.values()] for row in flights().select(FEATURES).slice(0, 100).to_pylist()]
    figures = {}
    for rows in (1, 100):
        split = {"dataframe_split": {"columns": [*FEATURES], "data": values[:rows]}}
        objects = {"rows": [dict(zip(FEATURES, row, strict=True)) for row in values[:rows]]}
        for connections in (1, 8, 64):
            found: dict[str, list[dict[str, float]]] = {server: [] for server in servers}
            asked = {
                server: (
                    port,
                    paths.get(server, f"/v2/models/{kind}/predict"),
                    json.dumps(split if server == "mlflow" else objects).encode(),
                )
                for server, port in servers.items()
            }
            for number in range(rounds):
                before = {server: cpu_seconds(process) for server, process in processes.items()}
                first = number % len(asked)
                order = [*asked.items()][first:] + [*asked.items()][:first]
                if connections == 1:
                    together = alternating(dict(order), seconds)
                else:
                    together = {server: load(*to, connections, seconds) for server, to in order}
                for server, each in together.items():
                    each["cpu_us"] = 1e6 * (cpu_seconds(processes[server]) - before[server]) / each.pop("requests")
                    each["p99_to_bare"] = each["p99_ms"] / together["bare"]["p99_ms"]
                    each["requests_to_unlogged"] = (
                        each["requests_per_second"] / together["ours without log"]["requests_per_second"]
                    )
                    found[server].append(each)
            for server, each in found.items():
                middle = {name: round(float(np.median([one[name] for one in each])), 2) for name in each[0]}
                figures[f"{kind}, {server}, {connections} connections, {rows} rows"] = middle
                print(f"{kind:9} {server:17} {connections:3} connections {rows:4} rows  {middle}", flush=True)
    return figures


if __name__ == "__main__":
    main()
