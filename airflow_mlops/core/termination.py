"""The termination message: how the process of a step reports its error to the process or the cluster that started it.

The message is a small JSON file with ``peak_memory`` in bytes and, if the step failed, ``error`` (the name of the
exception class), ``message`` and, for errors of this package, ``retryable``. In a container the file is ``/dev/termination-log``, and Kubernetes copies its content
into the status of the pod. ``Process`` sets a different path in the environment variable ``MLOPS_TERMINATION_LOG``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from airflow_mlops.core.errors import ComputeError, MLOpsError, by_name
from airflow_mlops.core.secrets import mask

VARIABLE = "MLOPS_TERMINATION_LOG"
_IN_CONTAINER = "/dev/termination-log"
# Kubernetes truncates a message to 4096 bytes, and to 3072 bytes in a pod of four containers.
_MESSAGE_BYTES = 2900
_INTERVAL_SECONDS = 0.5


class TerminationMessage:
    """A context manager that writes the termination message of this process.

    While the block runs, the file is updated twice a second. The file therefore contains the peak memory even if the
    process is killed. If the file does not exist, as is usual outside containers, nothing is written.

    :param file: the file to write
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content: dict[str, Any] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._update, name="termination-message", daemon=True)

    @classmethod
    def for_this_process(cls) -> TerminationMessage:
        """Create the termination message of this process.

        The environment variable with the file's path is removed, so that child processes do not write to the file.
        """
        return cls(Path(os.environ.pop(VARIABLE, _IN_CONTAINER)))

    def __enter__(self) -> TerminationMessage:
        if self._file.exists() and os.access(self._file, os.W_OK):
            # The first content shows that the step's code could be imported and started.
            self._write()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._ended.set()
            self._thread.join()
            self._write()

    def fail(self, error: Exception) -> None:
        """Record why the step failed. Credentials are masked, and a long message is shortened.

        :param error: the exception
        """
        found = described(error)
        with self._lock:
            self._content |= {**found, "message": _shortened(found["message"])}

    def _update(self) -> None:
        while not self._ended.wait(_INTERVAL_SECONDS):
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._content["peak_memory"] = peak_memory()
            # The file is written in place. Kubernetes mounts only this file, so it would not see a renamed file.
            self._file.write_text(json.dumps(self._content, ensure_ascii=False), encoding="utf-8")


def described(error: Exception) -> dict[str, Any]:
    """Return the fields of a message that describe an exception, with masked credentials.

    :func:`error_in` creates the error from these fields.
    """
    # For some classes, the step decides whether a retry may succeed, such as after a full disk.
    decided = {"retryable": error.retryable} if isinstance(error, MLOpsError) else {}
    return {"error": type(error).__name__, "message": mask(" ".join(str(error).split())), **decided}


def _shortened(message: str) -> str:
    """Cut ``message`` to at most ``_MESSAGE_BYTES`` bytes in JSON, so that Kubernetes does not cut the JSON."""
    message = message.encode(errors="replace").decode()
    while (excess := len(json.dumps(message, ensure_ascii=False).encode()) - _MESSAGE_BYTES) > 0:
        # In JSON, a character takes at most six bytes, as in \u0000.
        message = message[: -max(1, excess // 6)]
    return message


def parse(text: str) -> dict[str, Any]:
    """Parse a termination message.

    :return: the content of the message; empty if ``text`` is not a termination message
    """
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def error_in(message: dict[str, Any]) -> MLOpsError | None:
    """Recreate the error that a parsed termination message reports.

    :return: an error of the same class as in the step, or a :class:`ComputeError` if the class is not of this package;
        ``None`` if the message reports no error
    """
    if "error" not in message:
        return None
    name, text = str(message["error"]), str(message.get("message", ""))
    kind = by_name(name)
    if kind is MLOpsError:
        return ComputeError(f"The step failed with {name}: {text}")
    error = kind(text)
    error.retryable = bool(message.get("retryable", error.retryable))
    return error


def peak_memory() -> int:
    """Return the peak memory of this process or of the largest of its ended child processes, in bytes."""
    import resource

    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # Linux reports KiB, and macOS reports bytes.
    return int(max(peaks)) * (1 if sys.platform == "darwin" else 1024)
