"""``run_on=Worker()``: the step runs in the process of the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.compute.base import Compute, Runner
from airflow_mlops.compute.connections import airflow_connection

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall


@dataclass
class Worker(Compute):
    """Runs the step in the Airflow worker itself. This is the default."""

    runner: ClassVar[str] = "airflow_mlops.compute.worker:WorkerRunner"


class WorkerRunner(Runner[Worker]):
    """Calls the function of the step in the process of the task."""

    def run(self, call: StepCall, conn_ids: set[str], context: Context) -> dict[str, Any]:
        from airflow_mlops.stages.runner import run_call

        return run_call(call, airflow_connection)
