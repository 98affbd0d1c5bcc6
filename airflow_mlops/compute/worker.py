"""``run_on=Worker()``: the step runs in the process of the task."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.compute.base import Compute, Description, Runner
from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.compute.modules import module_folders

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall
    from airflow_mlops.stages.executors import Executors


@dataclass
class Worker(Compute):
    """Runs the step in the Airflow worker itself. This is the default."""

    runner: ClassVar[str] = "airflow_mlops.compute.worker:WorkerRunner"


class InProcessRunner(Runner[Description]):
    """Calls the function of the step in the process of the task."""

    _running = False

    def executors(self, call: StepCall) -> AbstractContextManager[Executors | None]:
        """Return a context manager that yields the executors for parts of the step; by default, it yields ``None``."""
        return nullcontext()

    def run(self, call: StepCall, conn_ids: set[str], context: Context) -> dict[str, Any]:
        from airflow_mlops.settings import step_environment
        from airflow_mlops.stages.runner import run_call

        os.environ.update(step_environment())
        sys.path.extend(folder for folder in module_folders(context) if folder not in sys.path)
        self._running = True
        try:
            with self.executors(call) as executors:
                return run_call(call, airflow_connection, executors)
        finally:
            self._running = False

    def on_kill(self) -> None:
        """Raise SystemExit in the step, so that its ``finally`` blocks run and its running query is cancelled.

        Airflow calls this method in its handler of SIGTERM. If the method returned, Airflow would continue the task.
        """
        if self._running:
            self._running = False
            raise SystemExit(128 + signal.SIGTERM)


class WorkerRunner(InProcessRunner[Worker]):
    """Runs the whole step in the process of the task."""
