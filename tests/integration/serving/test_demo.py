"""The server of the demo: the ``curl`` command that ``make demo`` prints works, and its predictions are logged."""

from __future__ import annotations

import json
import subprocess

import pyarrow.parquet as pq
import pytest

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.layout import online_folder
from demo import __main__ as demo
from demo.request import MODEL
from demo.services import Services
from demo.settings import Settings
from tests.integration.conftest import free_port
from tests.support.deployed import FEATURES, flights, promote, write


@pytest.fixture
def services(mlflow_server, tmp_path):
    """The server as the demo starts it, before there is a champion."""
    mlflow_port = int(mlflow_server.rsplit(":", 1)[1])
    settings = Settings(tmp_path / "demo", 8080, mlflow_port, free_port(), ("2013-01", "2013-02"))
    found = Services(settings)
    found._logs.mkdir(parents=True)
    found._spawn("serving", found._commands()["serving"], {})
    yield found
    found.stop()


def test_the_printed_command_asks_the_champion_and_is_logged(services, client, tmp_path, capsys):
    store = ArtifactStore(services.settings.artifacts)
    write(store, "flight_delays_scoring", flights(5).select([*FEATURES, "flight"]), "2013-02")
    promote(client, tmp_path, store, MODEL)
    demo._serve(services, print)
    printed = capsys.readouterr().out
    command = next(line for line in printed.splitlines() if line.startswith("curl "))
    asked = json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60).stdout)
    answered = json.loads(next(line for line in printed.splitlines() if line.startswith('{"id"')))
    assert asked["predictions"] == answered["predictions"]
    # A version that has just been promoted answers, and not the version that the server still has.
    first = client.get_model_version(MODEL, "1")
    second = client.create_model_version(MODEL, first.source, first.run_id).version
    client.set_registered_model_alias(MODEL, "champion", str(second))
    demo._serve(services, print)
    printed = capsys.readouterr().out
    last = json.loads(next(line for line in printed.splitlines() if line.startswith('{"id"')))
    assert (answered["version"], last["version"]) == (1, int(second))
    assert services.stop() == 1
    files = store.find(online_folder(MODEL))
    rows = [row for key in files if key.endswith(".parquet") for row in pq.read_table(store.path(key)).to_pylist()]
    assert {row["request_id"] for row in rows} == {asked["id"], answered["id"], last["id"]}
    assert {row["score"] for row in rows} == {asked["predictions"][0]["score"]}
