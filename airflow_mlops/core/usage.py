"""The resources that a step used: time, memory, and bytes of the artifact store."""

from __future__ import annotations

from collections.abc import Collection

from airflow_mlops.core.base import Model
from airflow_mlops.core.counts import counted


class Usage(Model):
    """The resources that a step used. The time in which a pod starts and Python imports libraries is not included.

    With ``run_on=Spark(...)``, CPU time and bytes are summed over the step and its executors. The peak memory is
    measured in the largest process.

    :param seconds: elapsed time
    :param cpu_seconds: CPU time of the process and of its child processes that have ended
    :param peak_memory_mb: peak resident memory in MB (1,000,000 bytes) of the process or, if larger, of its largest
        child process. The memory of the libraries is included. If the operating system cannot reset the peak before
        each step, the value is the peak since the process started
    :param gpu_seconds: elapsed time multiplied by the number of available GPUs, used or not; ``None`` without a GPU
    :param read_bytes: bytes read from the artifact store
    :param written_bytes: bytes written to the artifact store
    :param rows: rows of data that the step processed; ``None`` if it processes none
    """

    seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    gpu_seconds: float | None = None
    read_bytes: int = 0
    written_bytes: int = 0
    rows: int | None = None

    @classmethod
    def total(cls, steps: Collection[Usage]) -> Usage:
        """Add up the resources of several steps. The peak memory is the largest of all steps.

        The GPU time is ``None`` if no step has it. The sum has no number of rows, because several steps process the
        same rows.
        """
        gpu = [step.gpu_seconds for step in steps if step.gpu_seconds is not None]
        return cls(
            seconds=round(sum(step.seconds for step in steps), 3),
            cpu_seconds=round(sum(step.cpu_seconds for step in steps), 3),
            peak_memory_mb=max((step.peak_memory_mb for step in steps), default=0),
            gpu_seconds=round(sum(gpu), 3) if gpu else None,
            read_bytes=sum(step.read_bytes for step in steps),
            written_bytes=sum(step.written_bytes for step in steps),
        )

    @property
    def rows_per_second(self) -> float | None:
        """Return the number of processed rows per second of elapsed time; ``None`` without rows or time."""
        return self.rows / self.seconds if self.rows and self.seconds else None

    def sentence(self) -> str:
        """Return a sentence for the log of the task."""
        gpu = "" if self.gpu_seconds is None else f", {self.gpu_seconds:,.1f} s of GPU time"
        rate = self.rows_per_second
        rows = f" for {counted(self.rows or 0, 'row')} ({rate:,.0f} per second)" if rate else ""
        return (
            f"The step took {self.seconds:,.1f} s{rows}, {self.cpu_seconds:,.1f} s of CPU time{gpu}, and at most "
            f"{self.peak_memory_mb:,.0f} MB of memory. It read {self.read_bytes / 1e6:,.1f} MB from the artifact store and "
            f"wrote {self.written_bytes / 1e6:,.1f} MB."
        )
