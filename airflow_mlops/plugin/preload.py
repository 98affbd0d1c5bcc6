"""``[mlops] preload``: modules that the scheduler imports before LocalExecutor forks its workers.

Imports are the largest cost of a small task. The process of a task is forked from a worker of the executor, which is forked
from the scheduler, so modules that the scheduler has imported cost the task nothing.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
from typing import Any

from airflow.listeners import hookimpl

from airflow_mlops.core.isolation import quiet

log = logging.getLogger(__name__)


@hookimpl
def on_starting(component: Any) -> None:
    """Import the configured modules. Airflow calls this listener in every component, before the executor starts."""
    # The type of the job is not set yet, so the command line identifies the scheduler. Tasks forked from the scheduler
    # have the same command line, but their component is not a Job.
    if sys.argv[1:2] == ["scheduler"] and type(component).__name__ == "Job":
        from airflow_mlops.settings import preload

        import_all(preload())


def import_all(modules: list[str]) -> None:
    """Import ``modules``. A failing import is logged as a warning, since perhaps no task needs the module."""
    # OpenMP reads this when it is loaded; see airflow_mlops.stages.runner.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in modules:
        start = time.perf_counter()
        try:
            # Importing great_expectations and skops logs hundreds of lines.
            with quiet():
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a broken module must not prevent the scheduler from starting
            log.warning("[mlops] preload: %s cannot be imported (%s: %s)", module, type(error).__name__, error)
        else:
            log.info("[mlops] preload: imported %s in %.1f s", module, time.perf_counter() - start)
