"""``python -m airflow_mlops.stages``: run the one call given as JSON in ``MLOPS_CALL``, or on standard input.

The result goes to the artifact store under the call's key. Log lines go to standard output as ``LEVEL message``.
Exit status 0: the result is stored. 1: the step failed, and the last line is ``ERROR NAME message`` with the name of
an exception of :mod:`airflow_mlops.core.errors`. 143: it was asked to end (SIGTERM).

In a container, ``/dev/termination-log`` holds the same for Kubernetes: JSON with ``peak_memory`` in bytes and, after a
failure, ``error`` and ``message``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from types import FrameType

from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.termination import TerminationMessage
from airflow_mlops.stages.runner import read_call, run_call


def main() -> int:
    """Run the call; return the exit status."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s", force=True)
    # The first process of a container gets no default for this signal, and would be killed after the grace period.
    signal.signal(signal.SIGTERM, _end)
    with TerminationMessage() as termination:
        try:
            run_call(read_call(os.environ.pop("MLOPS_CALL", "") or sys.stdin.buffer.read()))
        except Exception as error:  # noqa: BLE001 - the parent turns it into a task failure
            if not isinstance(error, MLOpsError):
                traceback.print_exc(file=sys.stdout)
            name, message = type(error).__name__, " ".join(str(error).split())
            termination.fail(name, message)
            print(f"ERROR {name} {message}", flush=True)
            return 1
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    # What runs may still leave a checkpoint on its way out.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
