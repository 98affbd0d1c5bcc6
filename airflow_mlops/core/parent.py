"""Environment variables that an Airflow worker sets for the process of a step.

``Process`` sets these variables. In a pod and in a notebook they are not set.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

#: Folders in which the step finds modules, separated as in ``PYTHONPATH``.
MODULES_VARIABLE = "MLOPS_MODULES"
#: Process id of the Airflow task.
PARENT_VARIABLE = "MLOPS_PARENT"

_INTERVAL_SECONDS = 1.0
# Seconds between SIGTERM and the forced end of this process, in which a step can write a checkpoint.
_GRACE_SECONDS = 30.0


def add_modules() -> None:
    """Append the folders from which the Airflow worker imports user modules to ``sys.path``.

    The folders come after all installed packages, as on the worker.
    """
    folders = os.environ.pop(MODULES_VARIABLE, "").split(os.pathsep)
    sys.path.extend(folder for folder in folders if folder and folder not in sys.path)


def end_with_parent() -> None:
    """End this process soon after the Airflow task that started it has ended.

    A killed task cannot end the process that it started. Without this function, the process would still run during the
    task's retry.
    """
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent:
        threading.Thread(target=_follow, args=(int(parent),), name="mlops-parent", daemon=True).start()


def _follow(parent: int) -> None:
    while _exists(parent):
        time.sleep(_INTERVAL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(128 + signal.SIGKILL)


def _exists(process: int) -> bool:
    # The parent of this process may be a script that started Python, so os.getppid() may name the script instead of the
    # Airflow task.
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
