"""The message a container leaves for Kubernetes: why it failed, and how much memory it held."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

FILE = Path(os.environ.get("MLOPS_TERMINATION_LOG", "/dev/termination-log"))

# Kubernetes keeps this much of it.
_MESSAGE = 3000
_SECONDS = 0.5


class TerminationMessage:
    """Keeps the file up to date while the step runs, so that it tells the memory of one that was killed for it, too.

    Does nothing where there is no such file, which is everywhere but in a container.
    """

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._content: dict[str, Any] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="termination-message", daemon=True)

    def __enter__(self) -> TerminationMessage:
        if self._file.exists() and os.access(self._file, os.W_OK):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._ended.set()
            self._thread.join()
            self._write()

    def fail(self, name: str, message: str) -> None:
        """Say why the step failed."""
        with self._lock:
            self._content |= {"error": name, "message": message[:_MESSAGE]}

    def _follow(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._content["peak_memory"] = peak_memory()
            # Written in place: Kubernetes mounts this one file.
            self._file.write_text(json.dumps(self._content))


def peak_memory() -> int:
    """The most memory that this process or one of its ended children held, in bytes."""
    import resource

    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # Linux counts in KiB, macOS in bytes.
    return int(max(peaks)) * (1 if sys.platform == "darwin" else 1024)
