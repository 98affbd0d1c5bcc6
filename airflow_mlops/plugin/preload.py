"""``[mlops] preload``: what the scheduler imports once, before LocalExecutor forks the workers that run tasks.

Imports are the biggest cost of a small task. A task's process is forked from an executor's worker, and that from the
scheduler, so what the scheduler has imported costs the task nothing.
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
    """Import the configured modules. Airflow calls this in each component, before an executor is started."""
    # A job has no type yet that would tell the scheduler's from the triggerer's, and the tasks that are forked from the
    # scheduler, which have no job, keep its arguments.
    if sys.argv[1:2] == ["scheduler"] and type(component).__name__ == "Job":
        from airflow_mlops.settings import preload

        import_all(preload())


def import_all(modules: list[str]) -> None:
    """Import ``modules``; one that cannot be imported is a warning, for no task may need it."""
    # As in airflow_mlops.stages.runner: OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in modules:
        start = time.perf_counter()
        try:
            # great_expectations and skops log hundreds of lines when they are imported.
            with quiet():
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a broken module must not keep the scheduler from starting
            log.warning("[mlops] preload: %s cannot be imported (%s: %s)", module, type(error).__name__, error)
        else:
            log.info("[mlops] preload: imported %s in %.1f s", module, time.perf_counter() - start)
