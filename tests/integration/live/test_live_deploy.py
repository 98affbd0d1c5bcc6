"""The example DAG flights_deploy on a machine without a cluster: without a server, and with one that follows the champion."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.integration.serving.test_server import served
from tests.support.deployed import promote
from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

DAGS = Path(__file__).parents[3] / "dags"
DAG, MODEL = "flights_deploy", "flight_delays"


def states(airflow: LiveAirflow, run: str) -> dict[str, str]:
    airflow.wait_for_success(DAG, run, 300)
    return {item["task_id"]: item["state"] for item in airflow.task_instances(DAG, run)}


def test_a_new_champion_reaches_the_server_of_this_machine(airflow, client, store, mlflow_server, tmp_path):
    for name in ("flights.py", "flights_deploy.py"):
        shutil.copy(DAGS / name, airflow.dags)
    airflow.parsed(DAG)
    by_hand = airflow.trigger(DAG)
    assert states(airflow, by_hand) == {"places": "success", "deploy": "skipped", "follow": "skipped"}
    assert "flights_server" in airflow.logs(DAG, by_hand, "places")

    champion = promote(client, tmp_path, store, MODEL)
    where = SimpleNamespace(model=MODEL, url=store.url, mlflow=mlflow_server)
    with served(where, tmp_path / "spool", "--no-log") as server:
        airflow.call("POST", "/api/v2/variables", {"key": "flights_server", "value": server.url})
        (asset,) = airflow.get(f"/api/v2/assets?uri_pattern=mlops://{MODEL}/champion")["assets"]
        event = {"asset_id": asset["id"], "extra": {"version": champion.version}}
        airflow.call("POST", "/api/v2/assets/events", event)
        started = airflow.until(
            lambda: [run for run in airflow.runs(DAG) if run["dag_run_id"] != by_hand], "a run", 300
        )
        run = started[0]["dag_run_id"]
        assert states(airflow, run) == {"places": "success", "deploy": "skipped", "follow": "success"}
        found = airflow.xcom(DAG, run, "follow")
        assert found == {"url": f"{server.url}/v2/models/{MODEL}", "version": champion.version}
