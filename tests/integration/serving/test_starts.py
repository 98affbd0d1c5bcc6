"""A server that starts while MLflow or the artifact store is away, or before there is a champion."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import requests

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.aliases import carry_out
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision
from airflow_mlops.serving.layout import online_folder, servers_folder
from tests.integration.conftest import free_port
from tests.support.deployed import Champions
from tests.support.endpoint import await_status, started
from tests.support.gate import Gate

ROW = {"distance": 0.5, "wind": None}


def until(server: SimpleNamespace, *words: str) -> None:
    """Wait until the server says why it is not ready. It lives, and answers requests with the same reason."""
    end = time.monotonic() + 60
    while True:
        answer = requests.get(f"{server.url}/v2/health/ready", timeout=20)
        assert answer.status_code == 503, answer.text
        if all(word in answer.json()["error"] for word in words):
            break
        assert time.monotonic() < end, answer.text
        time.sleep(0.1)
    assert requests.get(f"{server.url}/v2/health/live", timeout=20).status_code == 200
    refused = requests.post(server.predict, json={"rows": [ROW]}, timeout=20)
    assert (refused.status_code, refused.json()["error"]) == (503, answer.json()["error"])


def test_a_server_becomes_ready_by_itself_when_mlflow_the_champion_and_the_store_are_there(
    mlflow_server: str, tmp_path: Path
):
    folder, away = tmp_path / "store", tmp_path / "away"
    folder.mkdir()
    store = ArtifactStore(folder.as_uri())
    champions = Champions(mlflow_server, tmp_path / "models", store)
    gate, model, port = Gate(int(mlflow_server.rpartition(":")[2])), champions.model, free_port()
    decision = Decision(decision="promoted", replaced=None, champion=champions.first, reason="It is better.")
    ledger = Ledger(store, model)
    ledger.record("promotion", lambda _: decision)
    carry_out(champions.client, ledger)
    champions.client.delete_registered_model_alias(model, "champion")
    gate.close()
    folder.rename(away)
    command = ["-m", "airflow_mlops.serving", model, "--store", folder.as_uri(), "--port", str(port)]
    command += ["--spool", str(tmp_path / "spool")]
    with started(command, port, model, f"http://127.0.0.1:{gate.port}") as server:
        await_status(server, "live")
        until(server, "MLflow", str(gate.port))
        gate.open()
        until(server, model, "no champion")
        champions.move(1)
        until(server, folder.as_uri())
        assert not folder.exists()
        # The mount point of a file system that is not mounted is empty.
        folder.mkdir()
        until(server, folder.as_uri(), "entry 1 of the ledger")
        assert not list(folder.iterdir())
        folder.rmdir()
        away.rename(folder)
        await_status(server, "ready")
        # The fields that are only logged come from the training set, which is in the store.
        row = {**ROW, "time_hour": "2026-03-01"}
        answer = requests.post(server.predict, json={"rows": [row]}, timeout=20)
        assert answer.status_code == 200, answer.text
        # The store is away again: what is logged stays in the spool, until it is back.
        end = time.monotonic() + 60
        while not store.find(servers_folder(model)):
            assert time.monotonic() < end, server.lines
            time.sleep(0.1)
        requests.post(server.predict, json={"rows": [row]}, timeout=20)
        folder.rename(away)
        folder.mkdir()
        end = time.monotonic() + 60
        while not any("Predictions stay in the spool" in line for line in server.lines):
            assert time.monotonic() < end, server.lines
            time.sleep(0.1)
        assert requests.get(f"{server.url}/v2/health/ready", timeout=20).status_code == 200
        assert not list(folder.iterdir())
        folder.rmdir()
        away.rename(folder)
    gate.close()
    # A server that ends uploads its log.
    assert sum(pq.read_metadata(store.path(key)).num_rows for key in store.find(online_folder(model))) == 2
    assert not list((tmp_path / "spool").glob("*.arrows"))
    assert "Traceback" not in "".join(server.lines), server.lines
