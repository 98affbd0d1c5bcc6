"""The listener for ``[mlops] preload``, which imports modules in the scheduler before LocalExecutor forks its workers.

Imports take most of the time of a small task. A worker of the executor is forked from the scheduler, and the process of
a task from the worker. A task therefore need not import modules that the scheduler has imported.
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
    """Import the modules of ``[mlops] preload`` in the scheduler. Airflow calls this hook when a component starts."""
    # The scheduler is identified by its command line, because the type of the job is not set yet. Tasks forked from the
    # scheduler have the same command line, but their component is not a Job.
    if sys.argv[1:2] == ["scheduler"] and type(component).__name__ == "Job":
        from airflow_mlops.settings import preload

        import_all(preload())


def import_all(modules: list[str]) -> None:
    """Import ``modules``. If an import fails, a warning is logged and no error is raised."""
    # OpenMP reads this variable when its library is loaded, see airflow_mlops.stages.runner.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in modules:
        start = time.perf_counter()
        try:
            # Importing great_expectations and skops logs hundreds of lines.
            with quiet():
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a broken module must not prevent the scheduler from starting
            log.warning(
                "The preloaded module %s cannot be imported (%s: %s). Install it, or remove it from [mlops] preload.",
                module,
                type(error).__name__,
                error,
            )
        else:
            log.info("Preloaded module %s in %.1f s.", module, time.perf_counter() - start)
