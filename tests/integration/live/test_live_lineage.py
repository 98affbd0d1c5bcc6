"""The events that a worker of a live Airflow emits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.lineage.test_lineage import SECRET, Event, names, write_flights
from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

LIVE = """
import sys
from airflow.sdk import DAG
from airflow_mlops.compute import Process
from airflow_mlops.operators import IngestOperator
from airflow.providers.openlineage.utils.selective_enable import enable_lineage
with DAG("live") as dag:
    IngestOperator(
        task_id="rows", name="live_rows", conn_id="lineage_live", sql="SELECT * FROM flights",
        run_on=Process(python=sys.executable),
    )
enable_lineage(dag)
"""


def test_a_worker_of_a_live_airflow_emits_the_same_events(airflow: LiveAirflow, tmp_path):
    """The connection is in Airflow's database, and the step runs in a different process than the one that emits the events."""
    log = Path(json.loads(airflow.env["AIRFLOW__OPENLINEAGE__TRANSPORT"])["log_file_path"])
    write_flights(tmp_path / "flights.db", rows=10)
    airflow.connect("lineage_live", conn_type="sqlite", host=f"{tmp_path}/flights.db", login="alice", password=SECRET)
    (airflow.dags / "live.py").write_text(LIVE)
    run = airflow.trigger("live")
    airflow.wait_for_success("live", run)

    def told() -> list[Event]:
        # The task has its state before its listeners are called.
        events = [json.loads(line) for line in log.read_text().splitlines()]
        return [found for found in events if (found["job"]["name"], found["eventType"]) == ("live.rows", "COMPLETE")]

    (event,) = airflow.until(told, "the event is written")
    assert names(event["inputs"]) == {(f"sqlite://{tmp_path}/flights.db", "main.flights")}
    (made,) = event["outputs"]
    assert made["name"] == f"{airflow.home}/artifacts/datasets/live_rows"
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 10
    assert event["run"]["facets"]["parent"]["job"]["name"] == "live"
    assert SECRET not in log.read_text()
