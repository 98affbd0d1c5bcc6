"""Steps of ``run_on=Process(...)`` that run in the process of the test, because a new process spends seconds on imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.compute.process import ProcessRunner
from airflow_mlops.stages.runner import run_call

if TYPE_CHECKING:
    import pytest


def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the step of a command of ``airflow mlops`` in this process. Its connections are those of this process."""
    monkeypatch.setattr(ProcessRunner, "run", lambda runner, call, *_: run_call(call))
