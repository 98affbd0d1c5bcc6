"""``python -m airflow_mlops.steps``: run the one call given as JSON on standard input.

The result goes to the artifact store under the call's key. Log lines go to standard output as ``LEVEL message``.
Exit status 0: the result is stored. 1: the step failed, and the last line is ``ERROR NAME message`` with the name of
an exception of :mod:`airflow_mlops.exceptions`.
"""

from __future__ import annotations

import logging
import sys
import traceback

from airflow_mlops.exceptions import MLOpsError
from airflow_mlops.specs.base import StepCall
from airflow_mlops.steps.runner import run_call


def main() -> int:
    """Run the call on standard input; return the exit status."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s", force=True)
    call = StepCall.model_validate_json(sys.stdin.buffer.read())
    try:
        run_call(call)
    except MLOpsError as error:
        print(f"ERROR {type(error).__name__} {' '.join(str(error).split())}", flush=True)
        return 1
    except Exception as error:  # noqa: BLE001 - the parent turns it into a task failure
        traceback.print_exc(file=sys.stdout)
        print(f"ERROR {type(error).__name__} {' '.join(str(error).split())}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
