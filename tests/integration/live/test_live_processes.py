"""Tasks that are ended, deferred, cleared and repeated on a real Airflow."""

from __future__ import annotations

import json
import sqlite3
import textwrap
import time
from contextlib import suppress

import psutil
import pytest

from tests.support.live import LiveAirflow
from tests.support.postgres import Postgres, postgres  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

PLACES, ENGINES = ("worker", "process"), ("adbc", "sqlalchemy", "sqlite")
BLOCKED = [f"{place}_{engine}" for place in PLACES for engine in ENGINES]

DAGS = """
import sys
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlops.compute import Process, Worker
from airflow_mlops.operators import IngestOperator
from later import Later

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) AS n FROM c"
for place, run_on in (("worker", Worker()), ("process", Process(python=sys.executable))):
    for engine in ("adbc", "sqlalchemy", "sqlite"):
        # An endless query of SQLite takes CPU time as long as it runs. A step in another process begins later.
        seconds = 15 if (place, engine) == ("worker", "sqlite") else 25
        for limit in (None, timedelta(seconds=seconds)):
            name = f"{place}_{engine}"
            with DAG(f"{name}_limited" if limit else name):
                IngestOperator(
                    task_id="ingest",
                    name=name,
                    conn_id=name,
                    sql=ENDLESS if engine == "sqlite" else "SELECT pg_sleep(600)::text AS s",
                    run_on=run_on,
                    execution_timeout=limit,
                )

with DAG("deferred"):
    IngestOperator(task_id="ingest", name="deferred", files="{{ var.value.source }}", run_on=Later())
"""

# Waits in the triggerer for a file, as a deferrable pod waits for its end.
LATER = """
from airflow.providers.standard.triggers.file import FileTrigger
from airflow.sdk.exceptions import TaskDeferred
from airflow_mlops.compute.worker import Worker, WorkerRunner

class Later(Worker):
    runner = "later:LaterRunner"

class LaterRunner(WorkerRunner):
    def run(self, call, conn_ids, context):
        trigger = FileTrigger(filepath=context["dag_run"].conf["file"], poke_interval=0.5)
        raise TaskDeferred(trigger=trigger, method_name="trigger_reentry")

    def resume(self, call, event, context):
        return super().run(call, set(), context)
"""

COUNTED = """
from airflow.sdk import DAG
from airflow_mlops.operators import IngestOperator

with DAG("counted"):
    IngestOperator(task_id="ingest", name="counted", files={files!r}, retries={retries})
"""


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow, postgres: Postgres) -> None:  # noqa: F811
    for name in ("first", "second"):
        (airflow.home / f"{name}.csv").write_text(f"which\n{name}\n")
    sqlite3.connect(airflow.home / "empty.db").execute("CREATE TABLE t (x int)")
    for name in BLOCKED:
        airflow.connect(name, **connection(name, airflow, postgres))
    (airflow.dags / "later.py").write_text(textwrap.dedent(LATER))
    (airflow.dags / "tasks.py").write_text(textwrap.dedent(DAGS))
    write_counted(airflow, retries=0)


def write_counted(airflow: LiveAirflow, retries: int) -> None:
    (airflow.dags / "counted.py").write_text(COUNTED.format(files=str(airflow.home / "first.csv"), retries=retries))


def connection(name: str, airflow: LiveAirflow, postgres: Postgres) -> dict:  # noqa: F811
    if name.endswith("sqlite"):
        return {"conn_type": "sqlite", "host": str(airflow.home / "empty.db")}
    if name.endswith("adbc"):
        return postgres.connection(extra={"application_name": name})
    # A type of connection that has no ADBC driver.
    return postgres.connection(conn_type="redshift", extra={"sqlalchemy_query": {"application_name": name}})


def running(airflow: LiveAirflow, postgres: Postgres) -> set[str]:  # noqa: F811
    """The names whose query sleeps in PostgreSQL. The text of the query may be that of its cursor."""
    sql = "SELECT application_name FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    return {name for (name,) in postgres.execute(sql) if name in BLOCKED}


def steps(airflow: LiveAirflow) -> set[psutil.Process]:
    """The processes of running tasks, and those that they started."""
    workers = psutil.Process(airflow._processes["scheduler"].pid).children()
    found = {process for worker in workers for process in worker.children(recursive=True)}
    # The processes of steps have sessions of their own. They know the folder of the DAG file.
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(airflow.dags) in process.environ().get("MLOPS_MODULES", ""):
                found.add(process)
    return found


def reading(airflow: LiveAirflow) -> set[psutil.Process]:
    """The processes that have opened the database of SQLite, which they do for the query."""
    file, found = str(airflow.home / "empty.db"), set()
    for process in steps(airflow):
        with suppress(psutil.Error):
            if file in {opened.path for opened in process.open_files()}:
                found.add(process)
    return found


@pytest.mark.parametrize("ended_by", ["user", "execution_timeout"])
def test_a_killed_task_and_its_blocked_query_end_within_seconds(
    ended_by, airflow, postgres  # noqa: F811
):  # fmt: skip
    suffix = "" if ended_by == "user" else "_limited"
    servers = [name for name in BLOCKED if not name.endswith("sqlite")]
    files = [name for name in BLOCKED if name.endswith("sqlite")]
    runs = {}
    for name in BLOCKED:
        airflow.parsed(name + suffix)
    for name in servers:
        runs[name] = airflow.trigger(name + suffix)
    began: set[str] = set()
    airflow.until(
        lambda: began.update(running(airflow, postgres)) or began == set(servers), "all queries run", timeout=120
    )
    for name in files:
        runs[name] = airflow.trigger(name + suffix)
    begun: set[psutil.Process] = set()
    airflow.until(
        lambda: begun.update(reading(airflow)) or len(begun) >= len(files), "all queries of SQLite run", timeout=120
    )
    if ended_by == "user":
        for name in BLOCKED:
            airflow.fail(name, runs[name], "ingest")
    started = time.monotonic()
    airflow.until(lambda: not running(airflow, postgres), "no query runs", timeout=60)
    for name in BLOCKED:
        assert airflow.wait(name + suffix, runs[name], timeout=60) == "failed"
    airflow.until(lambda: not steps(airflow), "no process is left", timeout=30)
    # A query that was to be ended would run for 600 s.
    assert time.monotonic() - started < 90
    if ended_by == "execution_timeout":
        for name in BLOCKED:
            assert "AirflowTaskTimeout" in airflow_log(airflow, name + suffix, runs[name]), name


def airflow_log(airflow: LiveAirflow, dag_id: str, run_id: str) -> str:
    path = f"{airflow._run(dag_id, run_id)}/taskInstances/ingest/logs/1?full_content=true"
    return json.dumps(airflow.get(path))


def test_a_deferred_task_continues_with_its_first_call(airflow, tmp_path):
    folder = airflow.home
    airflow.call("POST", "/api/v2/variables", {"key": "source", "value": str(folder / "first.csv")})
    run_id = airflow.trigger("deferred", {"file": str(tmp_path / "go")})
    airflow.until_deferred("deferred", run_id, "ingest")
    airflow.call("PATCH", "/api/v2/variables/source", {"key": "source", "value": str(folder / "second.csv")})
    (tmp_path / "go").touch()
    airflow.wait_for_success("deferred", run_id)
    assert ingested(airflow, "deferred", run_id) == [str(folder / "first.csv")]
    # A cleared task starts again from the beginning.
    (tmp_path / "go").unlink()
    airflow.clear("deferred", run_id, "ingest")
    airflow.until_deferred("deferred", run_id, "ingest")
    (tmp_path / "go").touch()
    airflow.wait_for_success("deferred", run_id)
    assert ingested(airflow, "deferred", run_id) == [str(folder / "second.csv")]


def ingested(airflow: LiveAirflow, dag_id: str, run_id: str) -> list[str]:
    """The files in the manifest of the dataset that a run returned."""
    dataset = airflow.xcom(dag_id, run_id, "ingest")["dataset"]["id"]
    (manifest,) = (airflow.home / "artifacts").rglob(f"manifests/{dataset}.json")
    return list(json.loads(manifest.read_text())["source"]["files"])


def results(airflow: LiveAirflow) -> int:
    return len(list((airflow.home / "artifacts" / "results" / "counted").rglob("*.json")))


def test_a_cleared_task_runs_again_even_if_the_dag_has_more_retries_now(airflow):
    run_id = airflow.trigger("counted")
    airflow.wait_for_success("counted", run_id)
    assert results(airflow) == 1
    # Airflow takes the number of retries from the version of the DAG with which the run was created.
    write_counted(airflow, retries=1)
    airflow.clear("counted", run_id, "ingest")
    airflow.wait_for_success("counted", run_id)
    assert results(airflow) == 2
    write_counted(airflow, retries=0)
    airflow.clear("counted", run_id, "ingest")
    airflow.wait_for_success("counted", run_id)
    assert results(airflow) == 3


def test_a_run_that_was_deleted_and_created_again_runs_again(airflow):
    run_id = airflow.trigger("counted")
    airflow.wait_for_success("counted", run_id)
    before = results(airflow)
    # The new task instance has the same key. The scheduler would take the end of the first task for that of the new one.
    ended = f"TaskInstance Finished: dag_id=counted, task_id=ingest, run_id={run_id}"
    airflow.until(lambda: ended in airflow.output("scheduler"), "the scheduler knows that the task ended")
    airflow.call("DELETE", airflow._run("counted", run_id))
    airflow.call("POST", "/api/v2/dags/counted/dagRuns", {"logical_date": None, "dag_run_id": run_id})
    airflow.wait_for_success("counted", run_id)
    assert results(airflow) == before + 1
