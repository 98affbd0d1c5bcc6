"""``Process`` starts another Python, relays its words, ends it when asked, and keeps Airflow's secrets from it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from airflow_mlops import __version__
from airflow_mlops.compute import Process
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import ComputeError, MLOpsError, SpecError

log = logging.getLogger("test")


def call(tmp_path: Path, step: str = "ingest", version: str = __version__) -> StepCall:
    return StepCall(step=step, spec={}, store=f"file://{tmp_path}", key="results/x.json", version=version)


def script(tmp_path: Path, text: str) -> str:
    """An interpreter of our own, to stand for one that misbehaves."""
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def run(process: Process, tmp_path: Path, **kwargs: str) -> MLOpsError:
    with pytest.raises(MLOpsError) as caught:
        process.run(call(tmp_path, **kwargs), set(), {}, log)
    return caught.value


def test_airflow_settings_and_unrelated_secrets_stay_behind(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "fernet")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "postgres://x:y@z")
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("AWS_PROFILE", "ml")
    env = Process(python="python", env={"MINE": "1"})._environment(set())
    assert not {"AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_CONN_OTHER", "DATABASE_PASSWORD"} & set(env)
    assert env["AWS_PROFILE"] == "ml"
    assert env["MINE"] == "1"


def test_its_environment_does_not_show_when_it_is_rendered():
    assert "hunter2" not in repr(Process(python="python", env={"TOKEN": "hunter2"}))


def test_another_version_over_there_is_refused_by_name(tmp_path):
    error = run(Process(python=sys.executable), tmp_path, version="0.0.0")
    assert isinstance(error, SpecError)
    assert f"side has airflow-mlops 0.0.0, the side that runs the step has {__version__}" in str(error)


def test_a_python_without_the_package_is_told_what_to_install(tmp_path):
    error = run(Process(python=script(tmp_path, "echo 'No module named airflow_mlops'; exit 1")), tmp_path)
    assert isinstance(error, SpecError)
    assert "install airflow-mlops with the extras of this step there" in str(error)


def test_a_process_that_is_killed_says_by_what(tmp_path):
    error = run(Process(python=script(tmp_path, "kill -9 $$")), tmp_path)
    assert isinstance(error, ComputeError)
    assert error.retryable
    assert "SIGKILL" in str(error)


def test_success_without_a_result_is_not_believed(tmp_path):
    error = run(Process(python=script(tmp_path, "exit 0")), tmp_path)
    assert "left no result" in str(error)


def test_the_lines_reach_the_log_with_their_levels(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(Process(python=script(tmp_path, "echo 'WARNING mind the gap'; echo plain; exit 3")), tmp_path)
    assert ("WARNING", "mind the gap") in [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "plain") in [(record.levelname, record.getMessage()) for record in caplog.records]


def test_ending_the_task_ends_the_process_and_its_children(tmp_path):
    process = Process(python=script(tmp_path, f"sleep 300 & echo $! > {tmp_path}/pid; wait"))
    ended: list[MLOpsError] = []
    thread = threading.Thread(target=lambda: ended.append(run(process, tmp_path)))
    thread.start()
    deadline = time.monotonic() + 10
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    grandchild = psutil.Process(int((tmp_path / "pid").read_text()))
    process.on_kill()
    thread.join(timeout=10)
    assert "SIGTERM" in str(ended[0])
    _, alive = psutil.wait_procs([grandchild], timeout=5)
    assert not alive or alive[0].status() == psutil.STATUS_ZOMBIE
