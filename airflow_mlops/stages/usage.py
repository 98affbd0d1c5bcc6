"""Measure the resources that a step uses, and record them with the MLflow runs of the versions that it worked on."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.connections import ConnectionResolver
from airflow_mlops.core.termination import peak_memory
from airflow_mlops.core.usage import Usage
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.names import USAGE_TAG

log = logging.getLogger("airflow_mlops.stages")

_PROCESS, _DEVICES = Path("/proc/self"), Path("/dev")


class Meter:
    """Measures a step from the moment at which it is created.

    :param store: the artifact store of the step
    :ivar rows: number of rows that the step has processed; ``None`` if it has reported no rows
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.rows: int | None = None
        self._read, self._written = store.traffic.read, store.traffic.written
        # What executors used: CPU seconds, peak memory in MB, and bytes read and written.
        self._elsewhere = {"cpu_seconds": 0.0, "peak_memory_mb": 0.0, "read_bytes": 0, "written_bytes": 0}
        self._shards: list[Usage] = []
        self._rows_of_shards: int | None = None
        self._children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        # This resets the kernel's record of the peak memory (VmHWM). Without permission, the record covers the whole
        # life of the process.
        with suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()

    def add_executors(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Add what executors used. The peak memory is the largest of all processes.

        :param answers: answers of :func:`airflow_mlops.stages.executors.answer`
        """
        for answer in answers:
            for name, value in self._elsewhere.items():
                used = answer[name]
                self._elsewhere[name] = max(value, used) if name == "peak_memory_mb" else value + used

    def add_shards(self, others: Iterable[Usage], rows: int) -> None:
        """Add what the other shards of the step used, for :meth:`usage_of_shards`.

        :param others: the resources that each other shard used
        :param rows: number of rows that all shards together have processed
        """
        self._shards += others
        self._rows_of_shards = rows

    def usage_of_shards(self) -> Usage:
        """Return the resources that all shards of the step have used; without shards, those of the step.

        Times and bytes are summed over the shards. The peak memory is the largest of all shards.
        """
        own = self.usage()
        if self._rows_of_shards is None:
            return own
        return Usage.total([own, *self._shards]).model_copy(update={"rows": self._rows_of_shards})

    def usage(self) -> Usage:
        """Return the resources that the step has used so far, on this machine and on executors."""
        elsewhere = self._elsewhere
        seconds = time.perf_counter() - self._started
        gpus = available_gpus()
        return Usage(
            seconds=round(seconds, 3),
            cpu_seconds=round(_cpu_seconds() - self._cpu + elsewhere["cpu_seconds"], 3),
            gpu_seconds=round(seconds * gpus, 3) if gpus else None,
            peak_memory_mb=max(self._peak_memory(), round(elsewhere["peak_memory_mb"], 1)),
            read_bytes=self._store.traffic.read - self._read + int(elsewhere["read_bytes"]),
            written_bytes=self._store.traffic.written - self._written + int(elsewhere["written_bytes"]),
            rows=self.rows,
        )

    def _peak_memory(self) -> float:
        try:
            status = (_PROCESS / "status").read_text()
            own = 1024 * int(status.partition("VmHWM:")[2].split()[0])
        except (OSError, IndexError, ValueError):
            return round(peak_memory() / 1e6, 1)
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        # The peak memory of the largest child process that has ended. The peak belongs to the step only if it has grown
        # since the step began.
        return round(max(own, 1024 * children if children > self._children else 0) / 1e6, 1)


def record(usage: Usage, step: str, result: Result, spec: Spec, connection: ConnectionResolver) -> None:
    """Write the usage as tags ``mlops.usage.STEP.*`` to the MLflow runs of the versions that the step worked on.

    A failure is logged as a warning, because the step has succeeded.

    :param usage: the resources that the step has used
    :param step: name of the step
    :param result: result of the step, which names the MLflow runs
    :param spec: spec of the step, which names the MLflow server
    :param connection: function that returns an Airflow connection by its id
    """
    target = getattr(spec, "mlflow", None)
    runs = [run for run in dict.fromkeys(result.mlflow_runs()) if run]
    if target is None or not runs:
        return
    try:
        from mlflow.entities import RunTag

        from airflow_mlops.registry.client import connect

        tags = [
            RunTag(f"{USAGE_TAG}.{step}.{name}", str(value))
            for name, value in usage.model_dump().items()
            if value is not None
        ]
        client = connect(target, connection)
        for run in runs:
            client.log_batch(run, tags=tags)
    except Exception as error:  # noqa: BLE001 - the step has succeeded
        log.warning("The usage of the step was not written to MLflow: %s: %s", type(error).__name__, error)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def available_gpus() -> int:
    """Return the number of NVIDIA GPUs that the process can use. In a pod, these are the requested GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = sum(path.name.removeprefix("nvidia").isdigit() for path in _DEVICES.glob("nvidia*"))
    if visible is None:
        return found
    return min(found, sum(part.strip() not in ("", "-1") for part in visible.split(",")))
