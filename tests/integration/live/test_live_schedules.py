"""The DAGs of docs/schedules.md, run by a real scheduler: each run processes the window that the page states."""

from __future__ import annotations

import re
import sqlite3
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[3] / "docs" / "schedules.md").read_text()
BLOCKS = re.findall(r"^( *)```(\w+)\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
TODAY = datetime.now(timezone.utc).date()
# Catchup creates the runs of two days, unless the tests run past midnight.
START = TODAY - timedelta(days=2)
FIRST = TODAY - timedelta(days=40)


def orders(shop: Path, first: date, last: date) -> None:
    """Add one order at 06:00 of each day; the amount is the day of the month."""
    with sqlite3.connect(shop) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (ordered_at TEXT, amount REAL)")
        for day in range((last - first).days + 1):
            at = first + timedelta(days=day)
            connection.execute("INSERT INTO orders VALUES (?, ?)", (f"{at} 06:00:00", float(at.day)))
    connection.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shop") / "shop.db"
    orders(file, FIRST, TODAY)
    return file


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow, shop: Path) -> None:
    airflow.connect("shop", conn_type="sqlite", host=str(shop))
    start = f"start_date=datetime({START.year}, {START.month}, {START.day})"
    blocks = [block for _, language, block in BLOCKS if language == "python"]
    # An asset event does not reach a DAG that Airflow has not parsed yet, so the DAG that waits for the event is
    # written first.
    blocks.sort(key=lambda block: "orders_profile" not in block)
    for number, block in enumerate(blocks):
        block = block.replace("start_date=datetime(2024, 1, 1)", start)
        block = block.replace("timedelta(minutes=10)", "timedelta(seconds=5)")
        (airflow.dags / f"page_{number}.py").write_text(block)
        if number == 0:
            airflow.parsed("orders_profile")
    airflow.parsed("orders_by_day")


def ended(airflow: LiveAirflow, dag_id: str, count: int) -> list[dict[str, Any]]:
    """Wait until ``count`` runs of a DAG have ended, and return them."""

    def found() -> list[dict[str, Any]]:
        runs = airflow.runs(dag_id)
        return runs if len(runs) >= count and all(run["state"] in ("success", "failed") for run in runs) else []

    runs: list[dict[str, Any]] = airflow.until(found, f"{count} runs of {dag_id} end", timeout=240)
    assert {run["state"] for run in runs} == {"success"}, runs
    return runs


def window(airflow: LiveAirflow, dag_id: str, run: dict[str, Any], task: str = "ingest") -> tuple[str, int]:
    """Return the window of the dataset that a run wrote, and its rows."""
    dataset = airflow.xcom(dag_id, run["dag_run_id"], task)["dataset"]
    return dataset["window"], dataset["rows"]


def day(at: date, hour: int = 0) -> str:
    return f"{at}T{hour:02}:00:00Z/{at + timedelta(days=1)}T{hour:02}:00:00Z"


def test_a_partition_by_cron_is_the_day_that_has_ended(airflow: LiveAirflow):
    runs = {run["partition_key"]: run for run in ended(airflow, "orders_by_day", 2)}
    newest = max(runs)
    # Catchup created the run of each tick since the start.
    assert (date.fromisoformat(newest) - date.fromisoformat(min(runs))).days == len(runs) - 1
    for key, run in runs.items():
        assert run["run_after"][:10] == str(date.fromisoformat(key) + timedelta(days=1))
        assert window(airflow, "orders_by_day", run) == (day(date.fromisoformat(key)), 1)


def test_a_partition_by_asset_is_the_partition_of_the_data(airflow: LiveAirflow):
    keys = {run["partition_key"] for run in ended(airflow, "orders_by_day", 2)}
    runs = ended(airflow, "orders_profile", len(keys))
    assert keys <= {run["partition_key"] for run in runs}
    for run in runs:
        (profile,) = airflow.task_instances("orders_profile", run["dag_run_id"])
        assert profile["rendered_fields"]["dataset"] == {"name": "orders", "window": run["partition_key"]}
        assert airflow.xcom("orders_profile", run["dag_run_id"], "profile")["profile"]["rows"] == 1


def test_a_data_interval_ends_when_the_run_begins(airflow: LiveAirflow):
    for run in ended(airflow, "orders_by_interval", 1):
        begins = datetime.fromisoformat(run["logical_date"])
        assert (begins.hour, run["data_interval_end"]) == (3, run["run_after"])
        assert window(airflow, "orders_by_interval", run) == (day(begins.date(), 3), 1)


def test_the_last_complete_day_of_a_plain_cron(airflow: LiveAirflow):
    for run in ended(airflow, "orders_daily", 2):
        begins = datetime.fromisoformat(run["logical_date"]).date()
        # docs/schedules.md says that the data interval of a plain cron is empty in Airflow 3.
        assert run["data_interval_start"] == run["data_interval_end"]
        assert window(airflow, "orders_daily", run) == (day(begins - timedelta(days=1)), 1)


def test_a_window_from_the_trigger_form(airflow: LiveAirflow):
    last_month = (TODAY.replace(day=1) - timedelta(days=1)).strftime("%Y-%m")
    run_id = airflow.trigger("orders_on_demand", {"window": last_month})
    airflow.wait_for_success("orders_on_demand", run_id)
    asked = {"dag_run_id": run_id}
    assert window(airflow, "orders_on_demand", asked)[0].startswith(f"{last_month}-01T00:00:00Z/")


def test_a_run_without_a_partition_key_fails_once_and_says_why(airflow: LiveAirflow):
    run_id = airflow.trigger("orders_by_day")
    assert airflow.wait("orders_by_day", run_id) == "failed"
    (ingest,) = airflow.task_instances("orders_by_day", run_id)
    assert (ingest["try_number"], ingest["max_tries"]) == (1, 2)
    log = airflow.get(f"/api/v2/dags/orders_by_day/dagRuns/{quote(run_id)}/taskInstances/ingest/logs/1")
    assert "this run has no partition key" in str(log["content"])
    airflow.call("DELETE", f"/api/v2/dags/orders_by_day/dagRuns/{quote(run_id)}")


def test_a_partition_is_processed_again_by_its_key(airflow: LiveAirflow):
    key = str(FIRST)
    datasets = []
    for _ in range(2):
        run_id = airflow.trigger("orders_by_day", partition_key=key)
        airflow.wait_for_success("orders_by_day", run_id)
        datasets.append(airflow.xcom("orders_by_day", run_id, "ingest")["dataset"])
    assert datasets[0] == datasets[1]
    assert (datasets[0]["window"], datasets[0]["rows"]) == (day(FIRST), 1)


def backfilled(airflow: LiveAirflow, first: date, last: date) -> None:
    """Wait for the runs of a backfill, and check that there is one for each day."""
    wanted = {str(first + timedelta(days=number)) for number in range((last - first).days + 1)}

    def runs() -> list[dict[str, Any]]:
        found = [run for run in airflow.runs("orders_by_day") if run["run_type"] == "backfill"]
        mine = [run for run in found if str(first) <= run["partition_key"] <= str(last)]
        return mine if len(mine) == len(wanted) and all(run["state"] == "success" for run in mine) else []

    found = airflow.until(runs, "the backfill ends", timeout=180)
    assert {run["partition_key"] for run in found} == wanted
    for run in found:
        assert window(airflow, "orders_by_day", run) == (day(date.fromisoformat(run["partition_key"])), 1)


def test_a_backfill_by_the_command_of_the_page_has_its_last_day(airflow: LiveAirflow):
    (command,) = (block for _, language, block in BLOCKS if language == "bash")
    first, last = FIRST + timedelta(days=3), FIRST + timedelta(days=5)
    arguments = command.replace("2024-02-01", str(first)).replace("2024-02-03", str(last)).split()
    assert arguments.pop(0) == "airflow"
    airflow.cli(*arguments)
    backfilled(airflow, first, last)


def test_a_backfill_as_the_ui_requests_it(airflow: LiveAirflow):
    first, last = FIRST + timedelta(days=8), FIRST + timedelta(days=9)
    body = {
        "dag_id": "orders_by_day",
        "from_date": f"{first}T00:00:00Z",
        "to_date": f"{last}T23:59:00Z",
        "run_backwards": False,
        "dag_run_conf": {},
        "reprocess_behavior": "none",
        "max_active_runs": 2,
    }

    def free() -> bool:
        found = airflow.get("/api/v2/backfills?dag_id=orders_by_day")["backfills"]
        return all(backfill["completed_at"] for backfill in found)

    # A DAG has one backfill at a time.
    airflow.until(free, "other backfills are completed", timeout=180)
    airflow.call("POST", "/api/v2/backfills", body)
    backfilled(airflow, first, last)


def test_a_task_waits_for_late_data_without_a_worker(airflow: LiveAirflow, shop: Path):
    late = TODAY + timedelta(days=5)
    run_id = airflow.trigger("orders_by_day", partition_key=str(late))

    def state() -> str:
        (ingest,) = airflow.task_instances("orders_by_day", run_id)
        return str(ingest["state"])

    airflow.until(lambda: state() == "deferred", "the task waits", timeout=90)
    orders(shop, late, late)
    airflow.wait_for_success("orders_by_day", run_id)
    assert window(airflow, "orders_by_day", {"dag_run_id": run_id}) == (day(late), 1)
    (ingest,) = airflow.task_instances("orders_by_day", run_id)
    assert ingest["try_number"] == 1
