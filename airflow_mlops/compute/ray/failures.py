"""Convert errors of Ray to one short error, without a traceback of Ray."""

from __future__ import annotations

import re

from airflow_mlops.core.errors import ComputeError, MemoryLimitError, MLOpsError, SpecError

_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
_RAISED = re.compile(r"^(?:\w+\.)*[A-Z]\w*(?=:|$)", re.MULTILINE)
_LONGEST = 300
# Remedies by the name of Ray's error. After these errors, a retry may succeed.
_REMEDIES = {
    "WorkerCrashedError": "The process of the step ended, for example because the container of the node ran out of memory. "
    "Check the logs of Ray on the node",
    "NodeDiedError": "The node of the step ended, for example because it was preempted",
    "RuntimeEnvSetupError": "Correct Ray(runtime_env=...), or make its packages reachable from the nodes",
}


def failure(error: Exception, where: str) -> MLOpsError:
    """Return the error of the task for an exception of Ray.

    :param error: the exception
    :param where: the start of the message: what failed, such as ``The task of Ray``
    """
    name, text = type(error).__name__, str(error)
    if "ersion mismatch" in text and len(found := _VERSIONS.findall(text)) == 2:
        (ray, python), (own_ray, own_python) = found
        return SpecError(
            f"{where} has Ray {ray} and Python {python}, but the worker has Ray {own_ray} and Python {own_python}. Install the "
            "same version of Ray and the same minor version of Python in both."
        )
    if name == "AuthenticationError" or "UNAUTHENTICATED" in text:
        return SpecError(f"{where} refused the token. Set the password of the connection to the token of the cluster.")
    if name == "OutOfMemoryError":
        return MemoryLimitError(
            f"{where} was killed, because its node ran out of memory. Reserve more with Ray(memory=...), or use larger nodes.",
            grows=True,
        )
    if isinstance(error, (TypeError, ValueError)):
        return SpecError(f"{where} cannot be used as Ray(...) describes it ({_reason(text)}). Correct Ray(...).")
    if isinstance(error, ConnectionError) and "timeout" in text:
        return ComputeError(
            f"{where} accepts connections, but does not answer. Check that the port is that of Ray's client server, and that the "
            "password of the connection is the token of the cluster."
        )
    remedy = _REMEDIES.get(
        "RuntimeEnvSetupError" if "runtime_env" in text else name, "Check the logs of Ray's head node"
    )
    return ComputeError(f"{where} failed ({name}: {_reason(text)}). {remedy}.")


def _reason(text: str) -> str:
    """Return the message of an error, or of the last error in a traceback."""
    found = list(_RAISED.finditer(text)) if "Traceback (most recent" in text else []
    return " ".join(text[found[-1].start() if found else 0 :].split())[:_LONGEST].rstrip(". ") or "no reason is given"
