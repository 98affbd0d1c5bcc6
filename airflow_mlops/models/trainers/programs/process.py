"""Run a program in a separate process, which ends with the training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from airflow_mlops.core.parent import PARENT_VARIABLE
from airflow_mlops.core.secrets import remember_fields

# Seconds between SIGTERM and SIGKILL. Kubernetes kills a pod 30 s after SIGTERM by default.
_GRACE_SECONDS = 10.0
# Environment variables that are not passed to the program: Airflow's connections and settings, which include the
# credentials of the MLflow server, the settings of MLflow's server and run, and the keys of the ledger. The program
# logs to a temporary MLflow store, so it needs none of them.
_WITHOUT_PREFIXES = ("AIRFLOW_CONN_", "AIRFLOW_VAR_", "AIRFLOW__", "MLFLOW_TRACKING_", "MLOPS_")
_WITHOUT = (
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_REGISTRY_URI",
)


def run(arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> int:
    """Run Python with ``arguments`` until the process ends, and return its exit status.

    If this process is interrupted in the meantime, for example by SIGTERM, the program is ended first.

    :param arguments: the command line after ``python``
    :param environment: environment variables to add
    :param output: the file to which standard output and standard error are written
    """
    # The output of the program is logged, and can contain values of environment variables. Secrets among these values
    # are therefore masked.
    remember_fields(os.environ)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _WITHOUT and not name.startswith(_WITHOUT_PREFIXES)
    }
    inherited |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), PARENT_VARIABLE: str(os.getpid())}
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - the DAG's author names the program
            [sys.executable, *arguments],
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # The program gets a separate process group, so that its child processes can be ended as well.
            start_new_session=True,
        )
        try:
            return process.wait()
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    # Child processes of the program may still run after the program has ended.
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def last_line(output: Path) -> str:
    """Return the last line that is not blank in the output of a program; an empty text without such a line."""
    lines = output.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
