"""A timeout ends a step whose query is blocked, and the query."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run
from tests.support.killing import Timeout, timeout_on_alarm
from tests.support.mariadb import MariaDB, mariadb  # noqa: F401 - a fixture
from tests.support.postgres import Postgres, postgres  # noqa: F401 - a fixture

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) AS n FROM c"
# The query blocks before the first row, or after some rows were read and written.
AT_ONCE = "SELECT pg_sleep(600)::text AS s"
LATER = "SELECT g, repeat('x', 100) AS s, CASE WHEN g = 200000 THEN pg_sleep(600)::text END AS z FROM generate_series(1, 300000) g"
# `%s` is a name, because other tests use the same server.
MARIADB_AT_ONCE = "SELECT SLEEP(600) AS s, '%s' AS q"
MARIADB_LATER = (
    "SELECT seq, REPEAT('x', 100) AS s, '%s' AS q, IF(seq = 200000, SLEEP(600), 0) AS z FROM seq_1_to_300000"
)


@pytest.fixture
def timeout():
    with timeout_on_alarm():
        yield


@pytest.fixture
def name() -> str:
    """A name that identifies the query of the test, because other tests use the same server."""
    return f"q{uuid.uuid4().hex[:12]}"


def blocked(database: Postgres | MariaDB, name: str) -> int:
    """The number of queries with the name that sleep."""
    if isinstance(database, MariaDB):
        sql = "SELECT count(*) FROM information_schema.processlist WHERE state = 'User sleep' AND info LIKE '%%%s%%'"
    else:
        # The text of a query may be that of its cursor, so the session has the name.
        sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name = '%s'"
    return int(database.execute(sql % name)[0][0])


def wait_until_blocked(database: Postgres | MariaDB, name: str) -> None:
    deadline = time.monotonic() + 120
    while not blocked(database, name):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_until_ended(database: Postgres | MariaDB, name: str) -> None:
    deadline = time.monotonic() + 15
    while blocked(database, name):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def start_step(folder: Path, spec: dict[str, Any], before: str = "") -> subprocess.Popen[str]:
    """Start an ingestion in a process of its own, as ``Process`` does.

    :param before: Python code that the process runs first
    """
    call = {"step": "ingest", "spec": spec, "store": f"file://{folder}/store", "key": "results/x.json"}
    code = (
        f"import json, sys\n{before}"
        "from airflow_mlops import __version__\n"
        "from airflow_mlops.stages.__main__ import main\n"
        "import airflow_mlops.stages.__main__ as stages\n"
        "from airflow_mlops.core.calls import StepCall\n"
        f"stages.receive_call = lambda: StepCall(version=__version__, **json.loads({json.dumps(call)!r}))\n"
        "print('ready', flush=True)\n"
        "sys.exit(main())"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def ring_when_blocked(database: Postgres | MariaDB, name: str, rung: list[float]) -> None:
    try:
        wait_until_blocked(database, name)
    finally:
        rung.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGALRM)


@pytest.mark.parametrize("sql", [AT_ONCE, LATER], ids=["at once", "later"])
@pytest.mark.parametrize("engine", ["ADBC", "SQLAlchemy"])
def test_a_query_on_postgresql_is_cancelled(engine, sql, name, postgres, tmp_path, monkeypatch, timeout):  # noqa: F811
    session = {"application_name": name}
    if engine == "SQLAlchemy":
        monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
        session = {"sqlalchemy_query": session}
    monkeypatch.setenv("AIRFLOW_CONN_PG", json.dumps(postgres.connection(extra=session)))
    spec = parse(IngestSpec, {"name": "raw", "conn_id": "pg", "sql": sql}, "Step 'ingest'")
    store = ArtifactStore(f"file://{tmp_path}")
    rung: list[float] = []
    threading.Thread(target=ring_when_blocked, args=(postgres, name, rung)).start()
    with pytest.raises(Timeout):
        run(spec, StepContext(store))
    assert time.monotonic() - rung[0] < 4
    wait_until_ended(postgres, name)
    assert store.fs.find(store.root) == []


@pytest.mark.parametrize("sql", [MARIADB_AT_ONCE, MARIADB_LATER], ids=["at once", "later"])
def test_a_query_on_mariadb_is_cancelled(sql, name, mariadb, tmp_path, monkeypatch, timeout):  # noqa: F811
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(mariadb.connection()))
    spec = parse(IngestSpec, {"name": "raw", "conn_id": "shop", "sql": sql % name}, "Step 'ingest'")
    store = ArtifactStore(f"file://{tmp_path}")
    rung: list[float] = []
    threading.Thread(target=ring_when_blocked, args=(mariadb, name, rung)).start()
    with pytest.raises(Timeout):
        run(spec, StepContext(store))
    assert time.monotonic() - rung[0] < 4
    wait_until_ended(mariadb, name)
    assert store.fs.find(store.root) == []


@pytest.mark.parametrize("database", ["postgres", "mariadb"])
def test_a_validation_in_the_database_is_cancelled(database, name, request, tmp_path, monkeypatch, timeout):
    from airflow_mlops.stages.validate import step
    from airflow_mlops.stages.validate.spec import ValidateSpec

    server = request.getfixturevalue(database)
    session = {"sqlalchemy_query": {"application_name": name}} if database == "postgres" else {}
    connection = server.connection()
    connection["extra"] = {**connection.get("extra", {}), **session}
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(connection))
    sql = AT_ONCE if database == "postgres" else MARIADB_AT_ONCE % name
    check = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "s"}}
    suite = {"name": "checks", "expectations": [check]}
    given = {"conn_id": "shop", "sql": sql, "name": "rows", "suite": suite, "on_failure": "quarantine"}
    spec, store = parse(ValidateSpec, given, "Step 'validate'"), ArtifactStore(f"file://{tmp_path}")
    rung: list[float] = []
    threading.Thread(target=ring_when_blocked, args=(server, name, rung)).start()
    with pytest.raises(Timeout):
        step.run(spec, StepContext(store))
    assert time.monotonic() - rung[0] < 4
    wait_until_ended(server, name)
    assert store.fs.find(store.root) == []


def test_a_process_that_is_ended_cancels_its_query_on_mariadb(name, mariadb, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(mariadb.connection()))
    process = start_step(tmp_path, {"name": "raw", "conn_id": "shop", "sql": MARIADB_AT_ONCE % name})
    wait_until_blocked(mariadb, name)
    started = time.monotonic()
    process.terminate()
    assert process.wait(timeout=30) == 143
    # Process sends SIGKILL after 3.5 s.
    assert time.monotonic() - started < 3.5
    wait_until_ended(mariadb, name)


def test_the_query_of_a_process_that_is_killed_ends_too(name, postgres, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("AIRFLOW_CONN_PG", json.dumps(postgres.connection(extra={"application_name": name})))
    code = (
        "from airflow_mlops.data.store import ArtifactStore\n"
        "from airflow_mlops.stages.context import StepContext\n"
        "from airflow_mlops.stages.ingest.spec import IngestSpec\n"
        "from airflow_mlops.stages.ingest.step import run\n"
        f"run(IngestSpec(name='raw', conn_id='pg', sql={AT_ONCE!r}), StepContext(ArtifactStore('file://{tmp_path}')))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until_blocked(postgres, name)
    process.kill()
    process.wait()
    wait_until_ended(postgres, name)


@pytest.mark.parametrize("engine", ["ADBC", "SQLAlchemy"])
def test_a_process_whose_query_on_sqlite_is_blocked_ends_on_sigterm(engine, tmp_path, monkeypatch):
    (tmp_path / "empty.db").touch()
    monkeypatch.setenv("AIRFLOW_CONN_LITE", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "empty.db")}))
    hide = "sys.modules['adbc_driver_sqlite'] = None\n" if engine == "SQLAlchemy" else ""
    spec = {"name": "raw", "conn_id": "lite", "sql": ENDLESS}
    process = start_step(tmp_path, spec, hide)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(5)
    assert process.poll() is None
    started = time.monotonic()
    process.terminate()
    assert process.wait(timeout=30) == 143
    # Process sends SIGKILL after 3.5 s.
    assert time.monotonic() - started < 3.5


def test_a_join_in_duckdb_is_interrupted(timeout, monkeypatch):
    import pyarrow as pa

    from airflow_mlops.data.feast import point_in_time

    blocked = "SELECT count(*) AS n FROM range(2000000) a, range(2000000) b WHERE (a.range * b.range) % 7 = 3"
    monkeypatch.setattr(point_in_time, "_query", lambda *_: (blocked, {}))
    events = pa.table({"t": pa.array([datetime(2024, 1, 1, tzinfo=timezone.utc)], pa.timestamp("us", "UTC"))})
    signal.setitimer(signal.ITIMER_REAL, 2)
    started = time.monotonic()
    with pytest.raises(Timeout):
        list(point_in_time.join([], events, "t", "100MB", 1000))
    assert time.monotonic() - started < 5
