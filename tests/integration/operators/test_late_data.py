"""``IngestOperator(on_empty="wait")`` is deferred until there are rows, and fails without a retry after its timeout."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators import IngestOperator

DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import IngestOperator
with DAG("late_{name}", schedule=None):
    IngestOperator(
        task_id="ingest", name="late_{name}", files="{file}", time_column="at", window="2024-03",
        on_empty="{on_empty}", poke_interval=0.5, timeout={timeout},
    )
"""
HEADER, OLD, NEW = "at,n\n", "2024-02-28,1\n", "2024-03-01,2\n2024-03-02,3\n"


@pytest.fixture
def arrives(tmp_path):
    """``arrives(text)``: write the text into the file two seconds later."""
    timers = []

    def later(text: str) -> None:
        timer = threading.Timer(2, lambda: (tmp_path / "rows.csv").write_text(text))
        timers.append(timer)
        timer.start()

    yield later
    for timer in timers:
        timer.cancel()


@pytest.mark.parametrize("before", [None, HEADER, HEADER + OLD], ids=["no file", "no rows", "older rows"])
def test_the_task_waits_for_rows_of_its_window(before, run_dag, tmp_path, arrives):
    name = "none" if before is None else str(len(before))
    if before is not None:
        (tmp_path / "rows.csv").write_text(before)
    arrives(HEADER + OLD + NEW)
    outcome = run_dag(DAG.format(name=name, file=tmp_path / "rows.csv", on_empty="wait", timeout=60))
    assert outcome.state == "success"
    assert outcome.xcom("ingest")["dataset"]["rows"] == 2


def test_the_task_fails_after_its_timeout(run_dag, tmp_path, caplog):
    (tmp_path / "rows.csv").write_text(HEADER + OLD)
    outcome = run_dag(DAG.format(name="timeout", file=tmp_path / "rows.csv", on_empty="wait", timeout=2))
    assert outcome.states() == {"ingest": "failed"}


def test_by_default_an_empty_window_fails(run_dag, tmp_path):
    (tmp_path / "rows.csv").write_text(HEADER + OLD)
    outcome = run_dag(DAG.format(name="default", file=tmp_path / "rows.csv", on_empty="fail", timeout=60))
    assert outcome.states() == {"ingest": "failed"}


def test_the_times_are_durations_or_seconds():
    task = IngestOperator(
        task_id="ingest", name="n", files="x", on_empty="wait", poke_interval=90, timeout=timedelta(days=1)
    )
    assert (task.poke_interval, task.timeout) == (timedelta(seconds=90), timedelta(days=1))
    with pytest.raises(SpecError, match="'fail' or 'wait'"):
        IngestOperator(task_id="ingest", name="n", files="x", on_empty="skip")
