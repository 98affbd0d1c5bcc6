"""Airflow's own partitions in a real Airflow: of a time zone with summer time, passed on by assets, backfilled, and absent."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_mlops.core.references import DatasetSelection
from airflow_mlops.core.windows import Window
from airflow_mlops.data.selection import select
from airflow_mlops.data.store import ArtifactStore
from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

DAGS = """
from datetime import timedelta
import pendulum
from airflow.sdk import DAG, Asset, CronPartitionTimetable, PartitionedAssetTimetable
from airflow_mlops.operators import BuildTrainingSetOperator, IngestOperator

rows = Asset("mlops://rows")
days = CronPartitionTimetable("0 0 * * *", timezone="Europe/Berlin")
ends = pendulum.datetime(2024, 4, 10)
with DAG("ingest", schedule=days, start_date=ends.subtract(months=1), end_date=ends, catchup=False):
    IngestOperator(
        task_id="ingest", name="rows", window="{{{{ partition_key }}}}", files="{folder}/rows.csv", time_column="at",
        outlets=[rows], retries=2, retry_delay=timedelta(seconds=1),
    )
with DAG("consume", schedule=PartitionedAssetTimetable(assets=rows), catchup=False):
    BuildTrainingSetOperator(
        task_id="build", name="built", entities={{"name": "rows", "window": "{{{{ partition_key }}}}"}}, timestamp="at",
        columns=["x"], split=None,
    )
"""


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow) -> None:
    # One row an hour.
    first = datetime(2024, 3, 28, tzinfo=timezone.utc)
    times = [first + timedelta(hours=number) for number in range(24 * 6)]
    text = "".join(f"{time.isoformat()},{number}\n" for number, time in enumerate(times))
    (airflow.home / "rows.csv").write_text(f"at,x\n{text}")
    (airflow.dags / "partitions.py").write_text(DAGS.format(folder=airflow.home))
    airflow.parsed("ingest")
    airflow.parsed("consume")


def rows(airflow: LiveAirflow, window: str) -> int:
    store = ArtifactStore(f"file://{airflow.home}/artifacts")
    found = select(store, DatasetSelection(name="rows", window=Window.model_validate(window)))
    assert [str(dataset.window.zone) for dataset in found] == ["Europe/Berlin"] * len(found)
    return sum(dataset.rows for dataset in found)


def test_the_day_of_a_default_key_is_the_local_day_in_the_next_dag_too(airflow: LiveAirflow):
    run_id = airflow.trigger("ingest", partition_key="2024-03-31T00:00:00")
    airflow.wait_for_success("ingest", run_id)
    # The day on which clocks are turned forward has 23 hours.
    assert rows(airflow, "2024-03-31[Europe/Berlin]") == 23

    def consumed() -> list[dict[str, Any]]:
        return airflow.runs("consume")

    run_id = airflow.until(consumed, "the asset event starts the next DAG")[0]["dag_run_id"]
    airflow.wait_for_success("consume", run_id)
    built = airflow.xcom("consume", run_id, "build")["dataset"]
    assert (built["rows"], built["window"]) == (23, "2024-03-30T23:00:00Z/2024-03-31T22:00:00Z[Europe/Berlin]")


def test_a_backfill_writes_the_local_days(airflow: LiveAirflow):
    # test_live_schedules.py tests the same with Airflow's command, which takes a process that imports Airflow.
    days = {"from_date": "2024-03-29T00:00:00Z", "to_date": "2024-03-30T00:00:00Z"}
    options = {"run_backwards": False, "dag_run_conf": {}, "reprocess_behavior": "none", "max_active_runs": 2}
    airflow.call("POST", "/api/v2/backfills", {"dag_id": "ingest", **days, **options})

    def backfilled() -> list[dict[str, Any]]:
        found = [run for run in airflow.runs("ingest") if run["run_type"] == "backfill"]
        return found if len(found) == 2 else []

    for run in airflow.until(backfilled, "the backfill has two runs"):
        airflow.wait_for_success("ingest", run["dag_run_id"])
    assert rows(airflow, "2024-03-29..2024-03-30[Europe/Berlin]") == 48


def test_a_run_without_a_key_fails_once_and_says_why(airflow: LiveAirflow):
    run_id = airflow.trigger("ingest")
    assert airflow.wait("ingest", run_id) == "failed"
    assert airflow.task_instances("ingest", run_id)[0]["try_number"] == 1
    log = airflow.get(f"{airflow._run('ingest', run_id)}/taskInstances/ingest/logs/1")
    assert "this run has no partition key" in str(log["content"])
