"""What a container tells Kubernetes about its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from airflow_mlops import __version__
from airflow_mlops.core.termination import TerminationMessage


def call(tmp_path, **changes) -> str:
    content = {
        "step": "ingest", "spec": {}, "store": f"file://{tmp_path}", "key": "results/a.json", "version": __version__
    }  # fmt: skip
    return json.dumps({**content, **changes})


def run(tmp_path, text: str):
    file = tmp_path / "termination-log"
    file.touch()
    env = {**os.environ, "MLOPS_CALL": text, "MLOPS_TERMINATION_LOG": str(file)}
    done = subprocess.run([sys.executable, "-m", "airflow_mlops.stages"], env=env, capture_output=True, text=True)
    return done, json.loads(file.read_text())


def test_an_error_is_told_with_its_kind_and_the_memory_that_was_held(tmp_path):
    done, message = run(tmp_path, call(tmp_path))
    assert done.returncode == 1
    assert message["error"] == "SpecError"
    assert "'ingest'" in message["message"]
    # Outside a container it is that of all processes.
    assert message["peak_memory"] > 10e6


def test_another_version_is_named_before_anything_else_is_understood(tmp_path):
    _, message = run(tmp_path, call(tmp_path, version="99.0", something="new"))
    assert message["error"] == "SpecError"
    assert "99.0" in message["message"]


def test_the_memory_is_told_while_the_step_runs(tmp_path):
    file = tmp_path / "message"
    file.touch()
    with TerminationMessage(file):
        end = time.monotonic() + 10
        while not file.read_text() and time.monotonic() < end:
            time.sleep(0.05)
        assert json.loads(file.read_text())["peak_memory"] > 10e6


def test_nothing_is_written_where_there_is_no_such_file(tmp_path):
    with TerminationMessage(tmp_path / "message") as termination:
        termination.fail("SpecError", "no")
    assert not (tmp_path / "message").exists()


def test_being_asked_to_end_ends_the_step_as_a_signal_does(tmp_path):
    # A named pipe nobody writes to: the step waits for its call.
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
