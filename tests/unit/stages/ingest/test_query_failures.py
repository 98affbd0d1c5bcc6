"""A query that would fail again is not retried, and a query that a busy or broken database refuses is."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SourceError, SpecError
from airflow_mlops.data.databases.failures import is_final
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run


class DataError(Exception):
    sqlstate: str | None = None


class OperationalError(Exception):
    sqlstate: str | None = None


def with_state(state: str) -> Exception:
    error = OperationalError("failed")
    error.sqlstate = state
    return error


@pytest.mark.parametrize(
    "state", ["22012", "22P02", "23505", "42601", "42P01", "42703", "42501", "21000", "0A000", "P0001"]
)
def test_errors_of_the_text_and_the_data_are_final(state):
    assert is_final(with_state(state), "postgres")


@pytest.mark.parametrize(
    "state",
    ["08006", "08001", "28P01", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "58030", "XX000"],
)
def test_errors_of_the_server_are_not(state):
    assert not is_final(with_state(state), "postgres")


@pytest.mark.parametrize(
    ("code", "final"),
    [
        (1054, True), (1064, True), (1146, True), (1142, True), (1242, True), (1305, True), (1365, True), (1690, True),
        (1021, False), (1040, False), (1045, False), (1053, False), (1205, False), (1213, False), (1317, False), (1969, False),
        (2003, False), (2006, False), (2013, False), (3024, False),
    ],
)  # fmt: skip
def test_mysql_is_judged_by_the_number_of_the_error(code, final):
    assert is_final(OperationalError(code, "failed"), "mysql") == final


def test_other_drivers_are_judged_by_the_class_of_their_exception():
    assert is_final(DataError("failed"), "oracle")
    assert not is_final(OperationalError("failed"), "oracle")


@pytest.fixture(params=["ADBC", "SQLAlchemy"])
def ingest(request, tmp_path, monkeypatch):
    if request.param == "SQLAlchemy":
        monkeypatch.setitem(sys.modules, "adbc_driver_sqlite", None)
    with sqlite3.connect(tmp_path / "x.db") as database:
        database.execute("CREATE TABLE x (n INTEGER, s TEXT)")
        database.executemany("INSERT INTO x VALUES (?, ?)", [(n, "{}" if n < 20_000 else "{") for n in range(20_001)])
    database.close()
    monkeypatch.setenv("AIRFLOW_CONN_X", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "x.db")}))
    context = StepContext(ArtifactStore(f"file://{tmp_path}/store"))

    def ingest(sql):
        return run(parse(IngestSpec, {"name": "x", "conn_id": "x", "sql": sql}, "Step 'ingest'"), context)

    return ingest


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT abs(-9223372036854775807 - 1) AS a",
        # After 20,000 rows.
        "SELECT json(s) AS a FROM x ORDER BY n",
        "SELECT nope FROM x",
        "SELECT * FROM nowhere",
        "SELEC",
    ],
)
def test_sqlite_queries_that_fail_on_their_text_or_data_are_not_retried(sql, ingest):
    with pytest.raises(SpecError, match="'x' rejected the query: .*Correct `sql`, or the data") as raised:
        ingest(sql)
    assert not raised.value.retryable


def test_a_locked_sqlite_file_is_retried(ingest, tmp_path):
    # A process does not see its own locks of a file.
    program = (
        f"import sqlite3; sqlite3.connect({str(tmp_path / 'x.db')!r}).execute('BEGIN EXCLUSIVE'); print(); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as other:
        other.stdout.readline()
        with pytest.raises(SourceError, match="locked") as raised:
            ingest("SELECT * FROM x")
        other.kill()
    assert raised.value.retryable


@pytest.mark.parametrize("sql", ["nope.sql", " queries/nope.SQL\n"])
def test_the_name_of_a_file_is_not_a_query(sql, ingest):
    with pytest.raises(SpecError, match="`sql` is '.*nope.*', which is the name of a file"):
        ingest(sql)
