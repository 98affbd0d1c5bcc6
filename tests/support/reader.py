"""A process that ingests files within limits of CPU time and memory.

A file that crashes the process, or exceeds a limit, does not end the process of the tests.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """The result of ingesting a file.

    :param count: number of rows; ``None`` if the file was not read
    :param rows: the rows, if they were requested
    :param error: the class of the error, or what ended the process, such as ``SIGSEGV``; empty if the file was read
    :param message: text of the error
    :param is_final: whether the error is one of this package and is not retried
    :param cpu_s: CPU time in seconds
    :param peak_mb: highest use of memory so far, above that of the idle process
    """

    count: int | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    message: str = ""
    is_final: bool = False
    cpu_s: float = 0
    peak_mb: float = 0

    @property
    def is_read_or_refused(self) -> bool:
        """Whether the file was read, or refused in one line by an error that is not retried."""
        return self.count is not None or (self.is_final and "\n" not in self.message)


class Reader:
    """A process that ingests one file after the other. Use it as a context manager.

    :param cpu_s: limit of the CPU time of each file, in seconds
    :param memory_mb: limit of the memory of all files, above that of the idle process
    :param row_mb: the longest row of a text file that the ingestion accepts
    """

    def __init__(self, cpu_s: int = 10, memory_mb: int = 1024, row_mb: int = 64) -> None:
        self._limits = [str(cpu_s), str(memory_mb), str(row_mb)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ingest(self, path: str | Path, *, with_rows: bool = True, **options: Any) -> Outcome:
        """Ingest a file with the parameters ``options``. If the process ends, the next call starts another one."""
        if self._process is None:
            command = [sys.executable, "-m", "tests.support.reader", *self._limits]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump((str(path), with_rows, options), self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            return Outcome(error=self.close())

    def close(self) -> str:
        """End the process. Return the signal that ended it, or else the exit code as text."""
        if self._process is None:
            return "0"
        process, self._process = self._process, None
        try:
            process.communicate(timeout=60)
        except BrokenPipeError:
            process.wait(60)
        code = process.returncode
        return signal.Signals(-code).name if code < 0 else str(code)


def main(cpu_s: int, memory_mb: int, row_mb: int) -> None:
    """Ingest the files that standard input names, and write an outcome for each to standard output."""
    from airflow_mlops.core.errors import MLOpsError
    from airflow_mlops.data.datasets import open_dataset
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.ingest.sources.formats import READERS, source_file
    from airflow_mlops.stages.ingest.spec import IngestSpec
    from airflow_mlops.stages.ingest.step import run

    assert READERS
    source_file.MAX_RECORD_BYTES = row_mb << 20
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    idle = _peak_mb()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    size = int(status["VmSize"].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size + (memory_mb << 20),) * 2)
    while True:
        try:
            path, with_rows, options = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + cpu_s + 1, resource.RLIM_INFINITY))
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            store = ArtifactStore(f"file://{folder}")
            try:
                spec = IngestSpec.model_validate({"name": "raw", "files": [path], **options})
                dataset = open_dataset(store, run(spec, StepContext(store)).dataset)
                rows = dataset.table().to_pylist() if with_rows else []
                found: dict[str, Any] = {"count": dataset.manifest.rows, "rows": rows}
            except Exception as error:  # noqa: BLE001 - what is no error of this package fails the test
                is_final = isinstance(error, MLOpsError) and not error.retryable
                found = {"error": type(error).__name__, "message": str(error), "is_final": is_final}
        used = {"cpu_s": time.process_time() - started, "peak_mb": _peak_mb() - idle}
        pickle.dump(Outcome(**found, **used), answers)
        answers.flush()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    # Otherwise the class would belong to the module `__main__`.
    from tests.support import reader

    reader.main(*map(int, sys.argv[1:]))
