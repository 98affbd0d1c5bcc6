"""The server as its clients see it: a real process, a real MLflow, a model that the steps have trained and promoted."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import requests
from mlflow import MlflowClient

from airflow_mlops import __version__
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import DeploymentError, SchemaError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.predictions.privacy import Pseudonymizer
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.versions import download
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served
from airflow_mlops.stages.deploy.spec import Check
from airflow_mlops.stages.runner import run_call
from benchmarks.serve import memory_mb
from tests.integration.conftest import HOME, free_port
from tests.support.endpoint import Load, answering, children, finished_while_stopping
from tests.support.lifecycle import MODEL, Lifecycle

ROW = {"amount": 12.5, "hour": 7}
# Predictions in this time before a kill may be lost. The first number is for a kill of all processes, and the second for
# a kill of the server only. The documentation says 1 and 0.1 seconds. The tests allow another second, because the machine
# may be busy.
MACHINE_SECONDS, SERVER_SECONDS = 2.0, 1.1
# Processor time of the processes of a server until it is ready, which two cores have within the documented 5 s.
READY_CPU_SECONDS = 10.0
COLUMNS = ("amount", "hour")


@pytest.fixture(scope="module")
def champion(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store in which a model has been trained, promoted and scored with."""
    folder = tmp_path_factory.mktemp("serving")
    store = folder / "store"
    store.mkdir()
    connection = ConnectionInfo(conn_id="mlflow_default", conn_type="mlflow", host=mlflow_server)
    results: dict[str, dict[str, Any]] = {}

    def run(call: StepCall) -> dict[str, Any]:
        results[call.step] = run_call(call, lambda _: connection)
        return results[call.step]

    model = f"{MODEL}_served"
    lifecycle = Lifecycle(store.as_uri(), folder, run, model=model)
    lifecycle.month("2013-01")
    return SimpleNamespace(
        store=ArtifactStore(store.as_uri()), url=store.as_uri(), model=model, mlflow=mlflow_server, results=results,
        month=lifecycle.month,
    )  # fmt: skip


def table(dataset: Dataset) -> pa.Table:
    return pa.Table.from_batches(dataset.batches())


@contextmanager
def served(
    champion: SimpleNamespace, spool: Path, *options: str, token: str = "", **environment: str
) -> Iterator[SimpleNamespace]:
    """A server that is ready."""
    port = free_port()
    command = ["-m", "airflow_mlops.serving", champion.model, "--store", champion.url, "--port", str(port)]
    command += ["--spool", str(spool), *options]
    with answering(command, port, champion.model, champion.mlflow, MLOPS_SERVE_TOKEN=token, **environment) as server:
        yield server


@pytest.fixture(scope="module")
def server(champion: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with served(champion, tmp_path_factory.mktemp("spool")) as found:
        yield found


# A body of 6,000 rows is read in a thread.
@pytest.mark.parametrize("count", [500, 6_000])
def test_scores_equal_those_of_scoring_in_batches(champion, server, count):
    scored = table(open_dataset(champion.store, DatasetRef.model_validate(champion.results["score"]["dataset"])))
    rows = (scored.select([*COLUMNS, "score", "prediction"]).to_pylist() * 4)[:count]
    assert len(rows) == count
    answer = requests.post(
        server.predict, json={"rows": [{name: row[name] for name in COLUMNS} for row in rows]}
    ).json()
    assert [item["score"] for item in answer["predictions"]] == [row["score"] for row in rows]
    assert [item["prediction"] for item in answer["predictions"]] == [row["prediction"] for row in rows]
    inputs = [
        {"name": name, "shape": [len(rows), 1], "datatype": "FP64", "data": [row[name] for row in rows]}
        for name in COLUMNS
    ]
    answer = requests.post(server.infer, json={"id": f"seven-{count}", "inputs": inputs}).json()
    outputs = {item["name"]: item for item in answer["outputs"]}
    assert outputs["score"]["data"] == [row["score"] for row in rows]
    assert outputs["probabilities"]["shape"] == [len(rows), 2]
    assert (answer["id"], answer["model_version"]) == (f"seven-{count}", "1")


def test_binary_tensors_are_those_of_tritons_client(server):
    numbers = {"amount": np.array([1.5, np.nan, 80.25]), "hour": np.array([0.0, 12.0, 23.0])}
    inputs = [
        {"name": name, "shape": [3, 1], "datatype": "FP64", "parameters": {"binary_data_size": values.nbytes}}
        for name, values in numbers.items()
    ]
    head = json.dumps({"inputs": inputs, "outputs": [{"name": "score"}]}).encode()
    body = head + b"".join(values.astype("<f8").tobytes() for values in numbers.values())
    binary = requests.post(server.infer, data=body, headers={"Inference-Header-Content-Length": str(len(head))}).json()
    rows = [{"amount": 1.5, "hour": 0}, {"amount": None, "hour": 12}, {"amount": 80.25, "hour": 23}]
    plain = requests.post(server.predict, json={"rows": rows}).json()
    (scores,) = binary["outputs"]
    assert scores["data"] == [item["score"] for item in plain["predictions"]]


def test_the_model_describes_itself(champion, server):
    found = requests.get(f"{server.url}/v2/models/{champion.model}").json()
    assert [(item["name"], item["datatype"]) for item in found["inputs"]] == [("amount", "FP64"), ("hour", "FP64")]
    assert found["versions"] == ["1"]
    assert requests.get(f"{server.url}/v2/models/{champion.model}/versions/1/ready").json()["ready"]
    assert requests.get(f"{server.url}/v2").json()["name"] == "airflow-mlops"
    assert b"mlops_serve_version 1.0" in requests.get(f"{server.url}/metrics").content


def test_latency_and_rows_of_requests_are_measured(server):
    def measured() -> dict[str, float]:
        lines = requests.get(f"{server.url}/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        names = ("seconds_count", "seconds_sum", "rows_count", "rows_sum")
        return {name: float(values[f"mlops_serve_{name}"]) for name in names}

    before = measured()
    assert requests.post(server.predict, json={"rows": [ROW] * 7}).ok
    grown = {name: value - before[name] for name, value in measured().items()}
    assert (grown["seconds_count"], grown["rows_count"], grown["rows_sum"]) == (1, 1, 7)
    assert 0 < grown["seconds_sum"] < 20


@pytest.mark.parametrize(
    ("rows", "status", "named"),
    [
        ([{"amount": 1}], 422, "hour"),
        ([ROW, {**ROW, "amount": "12"}], 422, "Row 2"),
        ([{**ROW, "amout": 1}], 422, "amout"),
        ([7], 422, "Row 1"),
        ("none", 422, "rows"),
        ([{**ROW, "amount": 10**400}], 422, "amount"),
        ([{**ROW, "order": 5}], 422, "order"),
    ],
)
def test_a_wrong_row_is_refused_by_name(server, rows, status, named):
    answer = requests.post(server.predict, json={"rows": rows})
    assert (answer.status_code, named in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"rows": [{"amount": NaN, "hour": 1}]}',
        b'{"rows": [{"amount": 1e999, "hour": 1}]}',
        b"[" * 10_000,
    ],
)
def test_an_invalid_request_is_a_client_error(server, body):
    answer = requests.post(server.predict, data=body)
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]


def test_other_models_and_versions_are_unknown(champion, server):
    assert requests.post(f"{server.url}/v2/models/other/predict", json={"rows": [ROW]}).status_code == 404
    assert requests.post(f"{server.url}/v2/models/{champion.model}/versions/9/predict", json={}).status_code == 404


def test_a_large_body_is_refused_before_it_is_read(server):
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 1_000_000

    assert requests.post(server.predict, headers={"Content-Length": "1000000000"}, data=b"").status_code == 413
    with suppress(requests.ConnectionError):
        assert requests.post(server.predict, data=endless()).status_code == 413
    assert requests.post(server.predict, json={"rows": [ROW]}).status_code == 200


def test_requests_for_the_model_need_the_token(champion, tmp_path):
    with served(champion, tmp_path, "--no-log", token="s3cret") as server:
        assert requests.post(server.predict, json={"rows": [ROW]}).status_code == 401
        wrong = {"Authorization": "Bearer other"}
        assert requests.post(server.predict, json={"rows": [ROW]}, headers=wrong).status_code == 401
        right = {"Authorization": "Bearer s3cret"}
        assert requests.post(server.predict, json={"rows": [ROW]}, headers=right).status_code == 200
    assert not any("s3cret" in line for line in server.lines)


def test_predictions_survive_a_kill_under_load_and_are_merged_once(champion, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_KEYS", json.dumps({"conn_type": "generic", "password": "0123456789abcdef"}))
    hashed = ("--hash-column", "order", "--hash-conn-id", "keys")
    with served(champion, tmp_path, *hashed) as server:
        requests.post(server.predict, json={"id": "unlogged", "rows": [ROW], "log": False}).raise_for_status()
        with Load(server, {**ROW, "order": "a-5"}, "killed") as load:
            wait_for_answers(load, MACHINE_SECONDS + 1)
            # All processes at once, as if the machine had failed.
            killed = time.time()
            for process in (*psutil.Process(server.process.pid).children(), server.process):
                process.send_signal(signal.SIGKILL)
            server.process.wait()
    left = b"".join(path.read_bytes() for path in tmp_path.glob("*.arrows"))
    assert b"killed-" in left
    assert b"a-5" not in left
    with served(champion, tmp_path, *hashed) as server:
        requests.post(server.predict, json={"id": "last", "rows": [ROW]}).raise_for_status()
        assert requests.post(server.predict, json={"id": "refused", "rows": [{}]}).status_code == 422
        # The request that the server is reading when it is stopped.
        answer = finished_while_stopping(server, json.dumps({"id": "stopping", "rows": [ROW]}).encode())
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"id":"stopping"' in answer
        # uvicorn ends with the signal that it got, after it has stopped gracefully.
        assert server.process.wait(60) == -signal.SIGTERM
    assert spooled(tmp_path) == []
    logged = [json.loads(line) for line in server.lines if line.startswith('{"@timestamp"')]
    assert [(line["id"], line.get("version"), line["status"]) for line in logged] == [
        ("last", 1, 200),
        ("refused", None, 422),
        ("stopping", 1, 200),
    ]
    found = merged(champion)
    ids = [row["request_id"] for row in found]
    assert_logged(load, killed - MACHINE_SECONDS, ids)
    assert {"last", "stopping"} <= set(ids)
    assert "unlogged" not in ids
    sent = set(load.sent)
    mine = [row for row in found if row["request_id"] in sent]
    order = Pseudonymizer(b"0123456789abcdef").hash_column(pa.array(["a-5"])).to_pylist()[0]
    # Also the last rows before the kill are complete.
    assert {(row["order"], row["amount"], row["prediction"] is None, row["model_version"]) for row in mine} == {
        (order, ROW["amount"], False, 1)
    }
    manifest = PredictionLog(champion.store, champion.model, f"{champion.model}_online").present()[-1].manifest
    assert manifest.details["hashed"] == ["order"]
    assert manifest.details["task"] == "binary"


def spooled(folder: Path) -> list[Path]:
    """What servers have left in a spool. The files ``owner`` and ``store`` stay."""
    return [path for path in folder.iterdir() if path.name not in ("owner", "store")]


def test_the_log_is_uploaded_after_a_kill_of_the_server_alone_under_load(champion, tmp_path):
    with served(champion, tmp_path) as server:
        with Load(server, ROW, "alone") as load:
            wait_for_answers(load, SERVER_SECONDS + 1)
            children = psutil.Process(server.process.pid).children()
            killed = time.time()
            server.process.kill()
        # The process that writes the log takes what it was sent, and ends.
        assert psutil.wait_procs(children, timeout=120)[1] == []
    assert spooled(tmp_path) == []
    assert_logged(load, killed - SERVER_SECONDS, [row["request_id"] for row in merged(champion)])


def wait_for_answers(load: Load, seconds: float) -> None:
    """Wait until requests have been answered for a time."""
    end = time.monotonic() + 60
    while not load.answered or time.time() - min([*load.answered.values()]) < seconds:
        assert time.monotonic() < end
        time.sleep(0.05)


def merged(champion: SimpleNamespace) -> list[dict[str, Any]]:
    """The rows of the prediction log, after the uploaded files are merged."""
    name = f"{champion.model}_online"
    merge(champion.store, champion.model, name, later := datetime.now(timezone.utc) + timedelta(days=1))
    assert merge(champion.store, champion.model, name, later) == []
    datasets = PredictionLog(champion.store, champion.model, name).present()
    return [row for dataset in datasets for row in table(dataset).to_pylist()]


def assert_logged(load: Load, before: float, ids: list[str]) -> None:
    """Check that the requests that were answered before a moment are logged, and that no request is logged twice."""
    sent = set(load.sent)
    mine = [request_id for request_id in ids if request_id in sent]
    assert len(mine) == len(set(mine))
    assert {request_id for request_id, at in load.answered.items() if at < before} - set(mine) == set()
    assert load.refused == []
    assert len(mine) > 50


def test_a_server_with_invalid_options_does_not_start(champion, tmp_path):
    command = [sys.executable, "-m", "airflow_mlops.serving", champion.model, "--store", champion.url]
    run = subprocess.run(
        [*command, "--hash-column", "order", "--hash-conn-id", "nowhere"], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, "'nowhere'" in run.stderr) == (1, True)
    spec = ServeSpec(model=champion.model, store=champion.url, drop_columns=["ordre"])
    ref = models.champion(MlflowClient(champion.mlflow, champion.mlflow), champion.model)
    folder = download(MlflowClient(champion.mlflow, champion.mlflow), ref)
    with pytest.raises(SchemaError, match="'ordre'"):
        Served.load(ref, folder, champion.store, spec)
    Served.load(ref, folder, champion.store, spec.model_copy(update={"log": False}))


def test_the_champion_in_a_database_is_followed_without_a_server(champion):
    """MLflow's client needs other parts of MLflow for this, which the process does not import otherwise."""
    uri = f"sqlite:///{HOME}/mlflow/mlflow.db"
    spec = ServeSpec(model="in_no_database", store=champion.url, poll_seconds=0.1)
    with subprocess.Popen(
        [sys.executable, "-m", "airflow_mlops.serving.processes.follow"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": uri})}, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"spec": spec.for_processes(), "failures": [None, 0, 0]}) + "\n")
        process.stdin.flush()
        assert "'in_no_database' has no champion yet" in process.stdout.readline()
        # The process ends when the server ends.
        process.stdin.close()
        assert process.wait(60) == 0


ROLLBACK = """
from airflow.sdk import DAG
from airflow_mlops.operators import RollbackOperator

with DAG("served_rollback"):
    RollbackOperator(task_id="rollback", model={model!r}, store={store!r}, to_version=1, reason="It was wrong about snow.")
"""


def test_a_promotion_and_a_rollback_take_over_without_a_failed_request(champion, server, run_dag, tmp_path):
    stop = threading.Event()
    statuses: list[tuple[int, Any]] = []

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.post(server.predict, json={"rows": [ROW]}, timeout=20)
                statuses.append((answer.status_code, answer.json().get("version")))
                time.sleep(0.005)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    champion.month("2013-02")
    version = champion.results["train"]["candidate"]["version"]
    MlflowClient(champion.mlflow, champion.mlflow).set_registered_model_alias(champion.model, "champion", str(version))

    def until(version: int) -> None:
        end = time.monotonic() + 60
        while statuses[-1][1] != version and time.monotonic() < end:
            time.sleep(0.2)

    until(2)
    older = requests.post(f"{server.url}/v2/models/{champion.model}/versions/1/predict", json={"rows": [ROW]})
    assert older.json()["version"] == 1
    connection = json.dumps({"conn_type": "mlflow", "host": champion.mlflow})
    source = ROLLBACK.format(model=champion.model, store=champion.url)
    done = run_dag(source, connections={"mlflow_default": connection})
    assert done.xcom("rollback")["rolled_back"]
    until(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in statuses} == {200}
    versions = [version for _, version in statuses]
    assert (versions[0], versions.count(2) > 0, versions[-1]) == (1, True, 1)
    # A server of one version does not follow the champion.
    with served(champion, tmp_path, "--version", "1") as pinned:
        found = requests.get(f"{pinned.url}/v2/models/{champion.model}").json()
        assert requests.post(pinned.predict, json={"rows": [ROW]}).json()["version"] == 1
    assert found["versions"] == ["1"]


def test_the_processes_of_a_server_are_small(champion, tmp_path):
    """pandas would take 40 to 60 MB in each process, and the process that follows the champion ends after 10 s."""
    with served(champion, tmp_path) as server:
        # The server is ready within 5 s on two cores. Processor time does not depend on other work on the machine.
        assert server.ready_cpu < READY_CPU_SECONDS
        for _ in range(100):
            assert requests.post(server.predict, json={"rows": [ROW] * 100}).ok
        processes = [psutil.Process(server.process.pid), *children(server, "follow"), *children(server, "write")]
        assert len(processes) == 3
        loaded = [mapped.path for process in processes for mapped in process.memory_maps()]
        assert not any(f"/{library}/" in path for path in loaded for library in ("pandas", "sklearn", "sqlalchemy"))
        assert memory_mb(processes) < 300
        end = time.monotonic() + 60
        while children(server, "follow"):
            assert time.monotonic() < end
            time.sleep(0.5)
        assert memory_mb([psutil.Process(server.process.pid), *children(server, "write")]) < 220
        # The server keeps the version's files open in the cache, to which the other process had downloaded them.
        opened = [fd.readlink() for fd in Path(f"/proc/{server.process.pid}/fd").iterdir()]
        assert [path.parent.name for path in opened if path.name.startswith(f"{champion.model}-v")] == ["models"]


def test_attributions_are_answered_on_request(server):
    plain = requests.post(server.predict, json={"rows": [ROW, {**ROW, "amount": None}], "explain": False}).json()
    assert children(server, "explain") == []
    answer = requests.post(server.predict, json={"rows": [ROW, {**ROW, "amount": None}], "explain": True}).json()
    assert answer.pop("attribution_scale").startswith("log-odds of late")
    for prediction in answer["predictions"]:
        parts, base = prediction.pop("attributions"), prediction.pop("attribution_base")
        assert {item["feature"] for item in parts} == {*ROW}
        margin = base + sum(item["value"] for item in parts)
        assert 1 / (1 + np.exp(-margin)) == pytest.approx(prediction["score"], abs=1e-6)
    assert answer["predictions"] == plain["predictions"]
    inputs = [{"name": name, "shape": [1, 1], "datatype": "FP64", "data": [ROW[name]]} for name in COLUMNS]
    for url, body, named in (
        (server.predict, {"rows": [ROW], "explain": 1}, "`explain`"),
        (server.predict, {"rows": [ROW], "explian": True}, "'explian'"),
        (server.infer, {"inputs": inputs, "parameters": {"explain": True}}, "`predict`"),
    ):
        refused = requests.post(url, json=body)
        assert (refused.status_code, named in refused.json()["error"]) == (422, True), refused.text


def test_a_deployment_is_verified_by_version_and_scores(champion, tmp_path, monkeypatch):
    from airflow_mlops.compute.kubernetes.serving import check

    connection = ConnectionInfo(conn_id="mlflow_default", conn_type="mlflow", host=champion.mlflow)
    spec = {"model": champion.model, "version": 1}
    key = f"results/deploy/{time.monotonic_ns()}.json"
    call = StepCall(step="deploy", spec=spec, store=champion.url, key=key, version=__version__)
    result = run_call(call, lambda _: connection)
    assert (result["version"]["version"], result["follows"]) == (1, False)
    expected = Check.model_validate_json(champion.store.read_bytes(result["check_key"]))
    assert len(expected.rows) == len(expected.scores) == 5
    ref, pod = (
        ModelVersionRef.model_validate(result["version"]),
        {"metadata": {"name": "p"}, "status": {"podIP": "127.0.0.1"}},
    )
    with served(champion, tmp_path, "--version", "1", token="open sesame") as server:
        monkeypatch.setattr(check, "PORT", int(server.url.rpartition(":")[2]))
        check.verify([pod], ref, expected, "open sesame", follows=False)
        assert check.problem([pod]) == ""
        wrong = expected.model_copy(update={"scores": [expected.scores[0] + 1e-4, *expected.scores[1:]]})
        for given, scores, token in (
            (ref, expected, None), (ref.model_copy(update={"version": 2}), expected, "open sesame"), (ref, wrong, "open sesame"),
        ):  # fmt: skip
            with pytest.raises(DeploymentError) as caught:
                check.verify([pod], given, scores, token, follows=False)
            assert not caught.value.retryable
    # The verification's own requests are not logged.
    assert spooled(tmp_path) == []
    monkeypatch.setattr(check, "_PAUSE", 0)
    with pytest.raises(DeploymentError) as caught:
        check.verify([pod], ref, expected, None, follows=False)
    assert caught.value.retryable


def test_bytes_are_texts_with_their_lengths():
    from airflow_mlops.serving.http.protocol import _decoded

    data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in ("UA", "", "ä"))
    assert _decoded(data, "BYTES", "carrier") == ["UA", "", "ä"]
