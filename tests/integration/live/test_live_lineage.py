"""The events that a worker of a live Airflow emits."""

from __future__ import annotations

import json

import pytest

from tests.integration.lineage.test_lineage import SECRET, Event, names, write_flights
from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

LIVE = """
import sys
from airflow.sdk import DAG
from airflow_mlops.compute import Process
from airflow_mlops.operators import IngestOperator
with DAG("live"):
    IngestOperator(
        task_id="rows", name="rows", conn_id="lineage_live", sql="SELECT * FROM flights",
        run_on=Process(python=sys.executable),
    )
"""


def test_a_worker_of_a_live_airflow_tells_the_same(tmp_path):
    """The connection is in Airflow's database, and what runs the step is another process than the one that tells."""
    log = tmp_path / "events.json"
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "live.py").write_text(LIVE)
    write_flights(tmp_path / "flights.db", rows=10)
    transport = json.dumps({"type": "file", "log_file_path": str(log), "append": True})
    home = tmp_path / "home"
    home.mkdir()
    with LiveAirflow(home, tmp_path / "dags", {"AIRFLOW__OPENLINEAGE__TRANSPORT": transport}) as airflow:
        connection = {"conn_type": "sqlite", "host": f"{tmp_path}/flights.db", "login": "alice", "password": SECRET}
        airflow.call("POST", "/api/v2/connections", {"connection_id": "lineage_live", **connection})
        run = airflow.trigger("live")
        assert airflow.wait("live", run) == "success", airflow.logs("live", run, "rows")

        def told() -> list[Event]:
            # The task has its state before its listeners are called.
            events = [json.loads(line) for line in log.read_text().splitlines()]
            return [
                found for found in events if (found["job"]["name"], found["eventType"]) == ("live.rows", "COMPLETE")
            ]

        (event,) = airflow.until(told, "the event is written")
    assert names(event["inputs"]) == {(f"sqlite://{tmp_path}/flights.db", "main.flights")}
    (made,) = event["outputs"]
    assert made["name"] == f"{home}/artifacts/datasets/rows"
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 10
    assert event["run"]["facets"]["parent"]["job"]["name"] == "live"
    assert SECRET not in log.read_text()
