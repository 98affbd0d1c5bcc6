"""The same work in a task of this package and in a PythonOperator, and a task without work."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, Param

from airflow_mlops.compute import Process
from airflow_mlops.operators import IngestOperator

NUMBER = "{{ params.number }}"
FILE = "{{ params.file }}"


def ingest(name: str, file: str) -> dict:
    """The work of the plain script, in a task."""
    sys.path.append(str(Path(__file__).parents[3]))
    from benchmarks.step_overhead import work

    return work(name, file)


with DAG(
    "step_overhead",
    schedule=None,
    params={"number": Param(0, type="integer"), "file": Param("", type="string")},
):
    empty = PythonOperator(task_id="empty", python_callable=len, op_args=[""])
    function = PythonOperator(task_id="function", python_callable=ingest, op_args=[f"function_{NUMBER}", FILE])
    worker = IngestOperator(task_id="worker", name=f"worker_{NUMBER}", files=FILE)
    process = IngestOperator(
        task_id="process", name=f"process_{NUMBER}", files=FILE, run_on=Process(python=sys.executable)
    )
    empty >> function >> worker >> process
