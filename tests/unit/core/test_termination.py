"""The termination message, which the process of a step leaves for the process or cluster that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from airflow_mlops import __version__
from airflow_mlops.core.errors import ComputeError, SpecError, SpillError
from airflow_mlops.core.termination import TerminationMessage, error_in, parse


def call(tmp_path, **changes) -> str:
    content = {
        "step": "ingest", "spec": {}, "store": f"file://{tmp_path}", "key": "results/a.json", "version": __version__
    }  # fmt: skip
    return json.dumps({**content, **changes})


def run(tmp_path, text: str):
    file = tmp_path / "termination-log"
    file.touch()
    env = {**os.environ, "MLOPS_TERMINATION_LOG": str(file)}
    command = [sys.executable, "-m", "airflow_mlops.stages"]
    done = subprocess.run(command, env=env, input=text, capture_output=True, text=True)
    return done, json.loads(file.read_text())


def test_message_has_the_error_and_the_peak_memory(tmp_path):
    done, message = run(tmp_path, call(tmp_path))
    assert done.returncode == 1
    assert message["error"] == "SpecError"
    assert "'ingest'" in message["message"]
    assert message["peak_memory"] > 10e6


def test_another_version_is_reported_before_the_call_is_validated(tmp_path):
    _, message = run(tmp_path, call(tmp_path, version="99.0", something="new"))
    assert message["error"] == "SpecError"
    assert "99.0" in message["message"]


def test_memory_is_written_while_the_step_runs(tmp_path):
    file = tmp_path / "message"
    file.touch()
    with TerminationMessage(file):
        first = json.loads(file.read_text())["peak_memory"]
        assert first > 10e6
        held = bytearray(first + 50_000_000)
        end = time.monotonic() + 10
        # The file may be empty for a moment while it is rewritten.
        while (last := parse(file.read_text()).get("peak_memory", 0)) < len(held) and time.monotonic() < end:
            time.sleep(0.05)
        assert last >= len(held)


def test_nothing_is_written_without_the_file(tmp_path):
    with TerminationMessage(tmp_path / "message") as termination:
        termination.fail(SpecError("no"))
    assert not (tmp_path / "message").exists()


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "漢字" * 50_000, '"\\' * 50_000, "\x00" * 50_000, "\ud800" * 5_000, "short"]
)
def test_kubernetes_never_truncates_the_message(tmp_path, text):
    file = tmp_path / "message"
    file.touch()
    with TerminationMessage(file) as termination:
        termination.fail(SpecError(text))
    # Each of four containers in a pod may use 3072 bytes.
    assert file.stat().st_size <= 3072
    error = error_in(parse(file.read_text(encoding="utf-8")))
    assert type(error) is SpecError
    if text == "short":
        assert str(error) == text
    else:
        assert file.stat().st_size > 2500


@pytest.mark.parametrize("is_retryable", [True, False])
def test_a_step_decides_whether_its_error_is_retried(tmp_path, is_retryable):
    file = tmp_path / "message"
    file.touch()
    with TerminationMessage(file) as termination:
        termination.fail(SpillError("The query does not fit.", disk_full=is_retryable))
    error = error_in(parse(file.read_text()))
    assert (type(error), error.retryable) == (SpillError, is_retryable)


def test_error_keeps_its_class_and_others_become_compute_errors():
    error = error_in({"error": "SpecError", "message": "wrong"})
    assert (type(error), str(error)) == (SpecError, "wrong")
    error = error_in({"error": "ZeroDivisionError", "message": "division by zero"})
    assert type(error) is ComputeError
    assert "ZeroDivisionError: division by zero" in str(error)
    assert error_in({"peak_memory": 1}) is None


@pytest.mark.parametrize("text", ["", "Traceback", "[1]", '{"error": "SpecErr'])
def test_text_that_is_not_a_message_is_ignored(text):
    assert parse(text) == {}


def test_processes_that_a_step_starts_do_not_inherit_the_file(tmp_path, monkeypatch):
    file = tmp_path / "message"
    file.touch()
    monkeypatch.setenv("MLOPS_TERMINATION_LOG", str(file))
    with TerminationMessage.for_this_process() as termination:
        assert "MLOPS_TERMINATION_LOG" not in os.environ
        termination.fail(SpecError("no"))
    assert json.loads(file.read_text())["message"] == "no"


def test_sigterm_ends_the_step_with_status_143(tmp_path):
    # Standard input stays open, so the step waits for its call.
    child = subprocess.Popen(
        [sys.executable, "-c", "import airflow_mlops.stages.__main__ as m; print('ready', flush=True); raise SystemExit(m.main())"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=10) == 143
    child.stdin.close()
    child.stdout.close()
