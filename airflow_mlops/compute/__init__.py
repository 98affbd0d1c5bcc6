"""Where a step runs: the values that ``run_on=`` takes."""

from __future__ import annotations

from airflow_mlops.compute.base import Compute
from airflow_mlops.compute.process import Process
from airflow_mlops.compute.worker import Worker

__all__ = ["Compute", "Process", "Worker"]
