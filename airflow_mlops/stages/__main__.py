"""The command ``python -m airflow_mlops.stages``, which runs one step.

A *call* contains the name and the spec of the step, the URL of the artifact store and the key of the result. The
command reads the call from the artifact store if ``MLOPS_CALL_STORE`` and ``MLOPS_CALL_KEY`` are set, and from standard
input otherwise (:mod:`airflow_mlops.stages.calls`). The command writes the result of the step to the artifact store,
and log lines to standard output as ``LEVEL message``.

The exit status is 0 if the result was stored, 1 if the step failed (the termination message contains the error, see
:mod:`airflow_mlops.core.termination`), and 143 if the process received SIGTERM.
"""

from __future__ import annotations

import faulthandler
import gc
import signal
import sys
import traceback
from types import FrameType

from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.parent import add_modules, end_with_parent
from airflow_mlops.core.termination import TerminationMessage
from airflow_mlops.stages.calls import receive_call
from airflow_mlops.stages.reported import log_to_output
from airflow_mlops.stages.runner import run_call


def main() -> int:
    """Read the call, run its step and return the exit status."""
    # The libraries that steps import create many objects. With Python's default thresholds, garbage collection takes a
    # seventh of the CPU time of the imports.
    gc.set_threshold(10_000, 10, 10)
    log_to_output()
    # The first process of a container ignores SIGTERM by default, so Kubernetes would kill it after the grace period.
    signal.signal(signal.SIGTERM, _exit)
    # If a library crashes the process, the log shows the Python stack.
    faulthandler.enable()
    end_with_parent()
    add_modules()
    with TerminationMessage.for_this_process() as termination:
        try:
            run_call(receive_call())
        except Exception as error:  # noqa: BLE001 - the process that started this one raises it again
            if not isinstance(error, MLOpsError):
                traceback.print_exc(file=sys.stdout)
            termination.fail(error)
            print(f"ERROR {type(error).__name__} {' '.join(str(error).split())}", flush=True)
            return 1
        finally:
            # Otherwise garbage collection at the end of the process takes up to another second.
            gc.freeze()
    return 0


def _exit(number: int, frame: FrameType | None) -> None:
    # SystemExit runs the ``finally`` blocks of the step, which may write a checkpoint.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
