"""A server whose object store or MLflow server is away: requests are answered, and nothing is lost when it is back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import psutil
import pyarrow.parquet as pq
import pytest
import requests

from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.layout import online_folder
from airflow_mlops.serving.log.merge import merge
from tests.integration.conftest import free_port
from tests.support.deployed import Champions
from tests.support.endpoint import Load, answering, await_status, children, started
from tests.support.gate import Gate
from tests.support.object_stores import S3Server, configured

ROW = {"distance": 0.5, "wind": None}


@pytest.fixture(scope="module")
def services(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """An object store and an MLflow server that can be away, and a server of a model in them."""
    pytest.importorskip("s3fs")
    folder = tmp_path_factory.mktemp("outages")
    port = int(mlflow_server.rpartition(":")[2])
    (mlflow,) = [
        child for child in psutil.Process().children()
        if any(one.laddr and one.laddr.port == port for one in child.net_connections() if one.status == psutil.CONN_LISTEN)
    ]  # fmt: skip
    objects, gate = S3Server(), Gate(port)
    with configured("s3", **objects.options):
        store = ArtifactStore(objects.url)
        champions = Champions(mlflow_server, folder, store)
        port = free_port()
        command = ["-m", "airflow_mlops.serving", champions.model, "--store", store.url, "--port", str(port)]
        command += ["--spool", str(folder / "spool")]
        address, options = f"http://127.0.0.1:{gate.port}", json.dumps(objects.options)
        with answering(command, port, champions.model, address, FSSPEC_S3=options) as server:
            yield SimpleNamespace(
                command=command, address=address, options=options, server=server, objects=objects, gate=gate, mlflow=mlflow, store=store, champions=champions,
                spool=folder / "spool",
            )  # fmt: skip
    gate.close()
    objects.stop()
    assert "Traceback" not in "".join(server.lines), server.lines


def until(condition: Callable[[], object], server: SimpleNamespace, seconds: float = 120) -> None:
    """Wait until a condition holds. The server answers all requests in the meantime."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, server.lines[-10:]
        assert requests.get(f"{server.url}/v2/health/ready", timeout=20).status_code == 200
        time.sleep(0.1)


def metric(server: SimpleNamespace, name: str) -> float:
    lines = requests.get(f"{server.url}/metrics", timeout=20).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def uploaded(services: SimpleNamespace) -> int:
    """The number of logged rows in the store."""
    rows = 0
    for key in services.store.find(online_folder(services.champions.model)):
        with services.store.open(key) as file:
            rows += pq.read_metadata(file).num_rows
    return rows


def logged(services: SimpleNamespace) -> list[str]:
    """The ids of the logged requests. All files in the store are complete."""
    for key in services.store.find(online_folder(services.champions.model)):
        with services.store.open(key) as file:
            assert pq.read_metadata(file).num_rows > 0
    name, later = f"{services.champions.model}_online", datetime.now(timezone.utc) + timedelta(days=1)
    merge(services.store, services.champions.model, name, later)
    log = PredictionLog(services.store, services.champions.model, name)
    return [request_id for batch in log.batches() for request_id in batch["request_id"].to_pylist()]


def test_the_spool_fills_while_the_store_is_away_and_is_emptied_without_loss_when_it_is_back(services):
    server = services.server
    answer = requests.post(server.predict, json={"id": "before", "rows": [ROW]}, timeout=20)
    assert answer.status_code == 200
    # The first upload has opened connections, which are kept.
    until(lambda: services.store.find(online_folder(services.champions.model)), server)
    with Load(server, ROW, "away", connections=1) as load:
        services.objects.stop()
        # An upload takes place every ten seconds.
        until(lambda: any("Predictions stay in the spool" in line for line in server.lines), server)
        first = metric(server, "mlops_serve_log_spooled_bytes")
        until(lambda: metric(server, "mlops_serve_log_spooled_bytes") > first > 0, server)
        services.objects.start()
        count = len(load.answered)
        until(lambda: len(load.answered) > count + 10, server)
    # The last answers may not be in the spool yet. The record of the server stays.
    until(lambda: uploaded(services) > len(load.sent), server)
    until(lambda: not list(services.spool.glob("*.arrows")), server)
    assert metric(server, "mlops_serve_log_dropped_rows_total") == 0
    assert (load.refused, len(load.answered)) == ([], len(load.sent))
    assert sorted(logged(services)) == sorted(["before", *load.sent])


def test_a_move_of_the_champion_while_mlflow_refuses_connections_is_followed_when_it_is_back(services):
    server = services.server
    # Ten seconds after the last change, the server itself looks up the champion.
    until(lambda: not children(server, "follow"), server)
    marker, served = len(server.lines), version(server)
    with Load(server, ROW, "refused", connections=1) as load:
        services.gate.close()
        until(lambda: any("is still served" in line for line in server.lines[marker:]), server)
        wanted = services.champions.add()
        time.sleep(3)
        assert version(server) == served
        services.gate.open()
        until(lambda: version(server) == wanted, server)
    assert (load.refused, len(load.answered)) == ([], len(load.sent))


def test_a_champion_is_loaded_by_a_process_that_waits_for_a_stopped_mlflow(services):
    server = services.server
    with Load(server, ROW, "stopped", connections=1) as load:
        # A process loads this version, and asks for its files.
        wanted = services.champions.add(lambda files: (files / "new").write_bytes(b"x"))
        until(lambda: children(server, "follow"), server)
        os.killpg(services.mlflow.pid, signal.SIGSTOP)
        try:
            end = time.monotonic() + 3
            until(lambda: time.monotonic() > end, server)
        finally:
            os.killpg(services.mlflow.pid, signal.SIGCONT)
        until(lambda: version(server) == wanted, server)
    assert (load.refused, len(load.answered)) == ([], len(load.sent))


def test_a_second_server_does_not_guess_the_champion_from_the_files_on_the_disk(services):
    """Only MLflow knows whether the version that this machine has downloaded is still the champion."""
    port = free_port()
    command = [*services.command, "--port", str(port), "--spool", f"{services.spool}-2"]
    services.gate.close()
    services.objects.stop()
    with started(command, port, services.champions.model, services.address, FSSPEC_S3=services.options) as second:
        await_status(second, "live")

        def says(words: str) -> bool:
            answer = requests.get(f"{second.url}/v2/health/ready", timeout=20)
            assert answer.status_code == 503
            return words in answer.json()["error"]

        until(lambda: says(services.address), services.server)
        assert requests.post(second.predict, json={"rows": [ROW]}, timeout=20).status_code == 503
        services.gate.open()
        until(lambda: says(services.store.url), services.server)
        services.objects.start()
        await_status(second, "ready")
        assert version(second) == version(services.server)
    assert "Traceback" not in "".join(second.lines), second.lines


def version(server: SimpleNamespace) -> int:
    answer = requests.post(server.predict, json={"rows": [ROW], "log": False}, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["version"]
