"""``run_on=Worker()``: the step runs in the task's own process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_mlops.compute.base import Compute, airflow_connection

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall


@dataclass
class Worker(Compute):
    """Runs the step in the Airflow worker itself. The default."""

    def run(self, call: StepCall, conn_ids: set[str], context: Context, log: Any) -> dict[str, Any]:
        from airflow_mlops.stages.runner import run_call

        return run_call(call, airflow_connection)
