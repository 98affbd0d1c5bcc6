"""Convert errors of Spark to one short error, without a Java stack trace."""

from __future__ import annotations

import re

from airflow_mlops.core.errors import ComputeError, MLOpsError, SpecError

_MISSING = re.compile(r"No module named '([\w.]+)'")
# Errors that a retry cannot correct: a text in Spark's error, and the remedy.
_FINAL = {
    "PYTHON_VERSION_MISMATCH": "Install Python of the worker's minor version on the executors, or pass one with Spark(archive=...)",
    "Cannot run program": "Set spark.pyspark.python in Spark(conf=...) to a Python interpreter of the executors, or use Spark(archive=...)",
    "CANNOT_MODIFY": "Remove the setting from Spark(conf=...), or set it where the Spark application starts",
    "UNAUTHENTICATED": "Correct the login and password of the connection",
    "PERMISSION_DENIED": "Give the user of the connection access to the server",
}
_IN_PYTHON = re.compile(r"(?:\w+\.)*\w+(?:Error|Exception)\b")
_JAVA_CLASS = re.compile(r"^(?:[\w$]+\.)+[\w$]+(?:Exception|Error): ")
_LONGEST = 300


def failure(error: Exception, where: str) -> MLOpsError:
    """Return the error of the task for an exception of PySpark, Py4J or gRPC.

    :param error: the exception
    :param where: the start of the message: what failed, such as ``The job of Spark``
    """
    text = str(error)
    if found := _MISSING.findall(text):
        return SpecError(
            f"{where} failed, because the Python of the executors has no module {found[-1]!r}. Install its package on the "
            "executors, or pass a packed environment with Spark(archive=...)."
        )
    for sign, remedy in _FINAL.items():
        if sign in text:
            return SpecError(f"{where} failed ({_reason(text)}). {remedy}.")
    return ComputeError(
        f"{where} failed ({_reason(text)}). Check the application in Spark's UI, and the logs of its driver and "
        "executors."
    )


def _reason(text: str) -> str:
    """Return the most informative line of a Java stack trace or a Python traceback."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    in_python = [line for line in lines if _IN_PYTHON.match(line)] if "Traceback (most recent" in text else []
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    # Py4J names the method that it called, and then the exception.
    raised = [line.removeprefix(": ") for line in lines if line.startswith(": ")]
    chosen = (in_python[-1:] or causes[-1:] or raised[:1] or lines[:1] or ["no reason is given"])[0].strip()
    return _JAVA_CLASS.sub("", chosen)[:_LONGEST].rstrip(". ")
