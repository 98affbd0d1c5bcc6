"""Run one step in a process of a cluster, and report its error as JSON.

The cluster, such as Ray, transports the report. It never transports an exception, which may need packages that the
Airflow worker does not have.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.secrets import MaskedStream, mask, remember_fields
from airflow_mlops.core.termination import described
from airflow_mlops.stages.runner import run_call


def log_to_output() -> None:
    """Write log lines to standard output as ``LEVEL message``, and mask credentials in all output of this process."""
    # Libraries log and print URLs with credentials.
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s", force=True)


def run_reported(call: str) -> str:
    """Run the step that a call describes. The result is written to the artifact store.

    :param call: the step call as JSON
    :return: a JSON object. It is empty if the result was stored. Otherwise, it has the fields of
        :func:`airflow_mlops.core.termination.described` and ``traceback``, which is empty for errors of this package; or ``missing``,
        the name of a Python module that is not installed here, and ``traceback``
    """
    remember_fields(os.environ)
    log_to_output()
    try:
        run_call(StepCall.model_validate_json(call))
    except ModuleNotFoundError as error:
        return json.dumps({"missing": error.name, "traceback": mask(traceback.format_exc())})
    except Exception as error:  # noqa: BLE001 - the worker raises it again
        unexpected = "" if isinstance(error, MLOpsError) else mask(traceback.format_exc())
        return json.dumps({**described(error), "traceback": unexpected})
    return "{}"
