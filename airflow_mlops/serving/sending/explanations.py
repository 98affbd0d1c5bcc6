"""Send rows to the process that computes attributions (:mod:`airflow_mlops.serving.processes.explain`).

The first request for attributions starts the process.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from airflow_mlops.core.contract import FeatureColumn
from airflow_mlops.data.columns import ATTRIBUTION_COLUMNS
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving.processes.frames import packed, unpacked
from airflow_mlops.serving.refusals import RefusedError
from airflow_mlops.serving.rows.request import Rows, as_list
from airflow_mlops.serving.versions.loaded import Served

# Requests that may wait for the process at the same time.
_WAITING = 64


@dataclass(frozen=True)
class Explained:
    """The attributions of the rows of a request.

    :param scale: the scale of the attributions, such as ``log-odds of late = True``
    :param rows: the fields ``attributions`` and ``attribution_base`` of each row
    """

    scale: str
    rows: list[dict[str, Any]]


class Explaining:
    """Starts the process, and sends it rows.

    :param seconds: time after which the process is ended if it has not answered
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, "mlops-explain")
        self._waiting = 0

    def stop(self) -> None:
        """End the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def explain(self, served: Served, rows: Rows, found: Predictions) -> Explained:
        """Return the attributions of rows.

        :param served: the version that has predicted the rows
        :param rows: the rows
        :param found: the predictions
        :raises RefusedError: the version has no exact attributions (422), or they cannot be computed now (503)
        """
        if self._waiting >= _WAITING:
            raise RefusedError(
                503, f"{_WAITING} requests are already waiting for attributions. Send the request again later."
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, served, rows, found)
        finally:
            self._waiting -= 1

    def _ask(self, served: Served, rows: Rows, found: Predictions) -> Explained:
        multiclass = served.model.contract.task == "multiclass" and found.probabilities is not None
        head = {
            "folder": str(served.folder),
            "name": str(served.ref),
            "probabilities": found.probabilities.tolist() if multiclass and found.probabilities is not None else None,
        }
        message = packed(head, _batch(rows, served.columns.features))
        process = self._running()
        timer = threading.Timer(self._seconds, process.kill)
        timer.start()
        answer = None
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):
                process.stdin.write(message)
                process.stdin.flush()
            answer = unpacked(cast("BinaryIO", process.stdout))
        finally:
            timer.cancel()
        if answer is None:
            raise RefusedError(
                503,
                f"The process that computes the attributions of {served.ref} ended (exit status {process.wait()}). Send the "
                "request without `explain`.",
            )
        facts, table = answer
        if "error" in facts:
            raise RefusedError(422 if facts["refused"] else 503, facts["error"])
        return Explained(facts["scale"], table.select(list(ATTRIBUTION_COLUMNS)).to_pylist())

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow_mlops.serving.processes.explain"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        return self._process


def _batch(rows: Rows, features: list[FeatureColumn]) -> pa.RecordBatch:
    """Return the features as batch scoring reads them from a dataset."""
    return pa.RecordBatch.from_arrays(
        [_column(as_list(rows.features[feature.name]), feature.kind) for feature in features],
        names=[feature.name for feature in features],
    )


def _column(values: list[Any], kind: str) -> pa.Array:
    if kind == "string":
        return pa.array(values, pa.string())
    if float not in set(map(type, values)):
        # As in predictions, whole numbers are rounded to single precision only once.
        with suppress(OverflowError, pa.ArrowInvalid):
            return pa.array(values, pa.int64())
    return pa.array([value if value is None else float(value) for value in values], pa.float64())
