"""Run a step in the process of the task, and its parts on the executors of Spark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.compute.spark.spark import Spark
from airflow_mlops.compute.worker import InProcessRunner

if TYPE_CHECKING:
    from airflow_mlops.compute.spark.executors import SparkExecutors
    from airflow_mlops.core.calls import StepCall


class SparkRunner(InProcessRunner[Spark]):
    """Calls the function of the step in the process of the task, with executors for its parts."""

    _executors: SparkExecutors | None = None

    @contextmanager
    def executors(self, call: StepCall) -> Iterator[SparkExecutors]:
        from airflow_mlops.compute.spark.executors import SparkExecutors

        name = f"airflow-mlops {call.provenance.dag_id}.{call.provenance.task_id}"
        self._executors = SparkExecutors(self.compute, call.store, airflow_connection, name)
        try:
            yield self._executors
        finally:
            self._executors.close()

    def on_kill(self) -> None:
        """End the parts that run on executors, then the step.

        PySpark waits for a running job while an exception passes through it. The job is therefore cancelled first.
        """
        if self._executors is not None:
            self._executors.close()
        super().on_kill()
