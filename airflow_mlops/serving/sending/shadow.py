"""Send the rows of answered requests to the process that scores them with another version.

The process (:mod:`airflow_mlops.serving.processes.shadow`) gets rows after the answer, from a queue of limited length. If the
queue is full or the process does not run, rows are dropped and counted, so a slow or crashed shadow cannot delay an
answer. Rows that a crashed process had not scored yet are counted, too.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from airflow_mlops.core.counts import counted
from airflow_mlops.serving.log.spool import Answer
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.processes.shadow import packed
from airflow_mlops.serving.spec import ServeSpec

log = logging.getLogger(__name__)

_QUEUED_ROWS, _MESSAGE_ROWS = 20_000, 2_000
_RESTART_SECONDS, _STOP_SECONDS = 2.0, 20.0


@dataclass
class _Sent:
    """The rows that were sent to one process.

    :param pipe: standard input of the process
    :param rows: number of rows sent
    :param settled: number of rows that the process has reported as scored or failed
    """

    pipe: IO[bytes]
    rows: int = 0
    settled: int = 0


class Shadowing:
    """Starts the process, and sends it rows until :meth:`stop`.

    :param spec: settings of the server
    :param metrics: the metrics of the server
    """

    def __init__(self, spec: ServeSpec, metrics: Metrics) -> None:
        self._spec, self._metrics = spec, metrics
        self._queue: deque[Answer] = deque()
        self._rows = 0
        self._version: int | None = None
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        # The rows sent to the running process.
        self._sent: _Sent | None = None
        self._threads = [
            threading.Thread(target=target, name=f"mlops-shadow-{target.__name__}", daemon=True)
            for target in (self._run, self._send)
        ]

    def start(self) -> None:
        """Start the process."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send the queued rows, and end the process after it has written its log."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()
        self._threads[1].join(_STOP_SECONDS)
        process = self._process
        if process is not None and process.stdin is not None:
            if self._threads[1].is_alive():
                # The thread waits for a process that no longer reads.
                process.kill()
            with suppress(OSError):
                process.stdin.close()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._threads[0].join(_STOP_SECONDS)

    def offer(self, answer: Answer) -> None:
        """Queue the rows of an answer, or count them as dropped. The call does not wait.

        If the shadow is the version that has answered, the rows are not scored again.
        """
        version, count = self._version, answer.rows.count
        if version == answer.served.ref.version:
            return
        with self._changed:
            if version is not None and self._rows + count <= _QUEUED_ROWS:
                self._queue.append(answer)
                self._rows += count
                self._changed.notify()
                return
        self._metrics.shadow_dropped.inc(count)

    def _send(self) -> None:
        while (answers := self._next()) is not None:
            count = sum(answer.rows.count for answer in answers)
            try:
                message = packed(answers)
            except Exception:
                self._metrics.shadow_dropped.inc(count)
                log.exception("%d rows could not be sent to the shadow.", count)
                continue
            with self._changed:
                sent = self._sent if self._version is not None else None
                if sent is not None:
                    sent.rows += count
            if sent is None:
                self._metrics.shadow_dropped.inc(count)
                continue
            # If the process has ended, `_run` counts the rows as dropped.
            with suppress(OSError, ValueError):
                sent.pipe.write(message)
                sent.pipe.flush()

    def _next(self) -> list[Answer] | None:
        """Wait for queued answers.

        :return: consecutive answers of one version; ``None`` after :meth:`stop`
        """
        with self._changed:
            while not self._queue:
                if self._stopped.is_set():
                    return None
                self._changed.wait()
            answers, rows = [self._queue.popleft()], 0
            while self._queue and rows < _MESSAGE_ROWS and self._queue[0].served is answers[0].served:
                answers.append(self._queue.popleft())
                rows += answers[-1].rows.count
            self._rows -= sum(answer.rows.count for answer in answers)
            return answers

    def _run(self) -> None:
        settings = json.dumps(self._spec.for_processes()).encode() + b"\n"
        while not self._stopped.is_set():
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow_mlops.serving.processes.shadow"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):
                process.stdin.write(settings)
                process.stdin.flush()
            self._process, self._sent = process, (sent := _Sent(process.stdin))
            for line in process.stdout:
                self._heard(line, sent)
            with self._changed:
                self._version = self._sent = None
            self._metrics.shadow_version.set(0)
            lost = sent.rows - sent.settled
            self._metrics.shadow_dropped.inc(lost)
            code = process.wait()
            if self._stopped.is_set():
                return
            log.warning(
                "The shadow %s of %s ended (exit status %d) and had not scored %s. It starts again in %g seconds.",
                self._spec.shadow,
                self._spec.model,
                code,
                counted(lost, "row"),
                _RESTART_SECONDS,
            )
            self._stopped.wait(_RESTART_SECONDS)

    def _heard(self, line: bytes, sent: _Sent) -> None:
        try:
            facts: dict[str, Any] = json.loads(line)
        except ValueError:
            return
        if "version" in facts:
            self._version = facts["version"]
            self._metrics.shadow_version.set(self._version or 0)
        scored, failed = facts.get("scored", 0), facts.get("failed", 0)
        sent.settled += scored + failed
        self._metrics.shadow_rows.inc(scored)
        self._metrics.shadow_errors.inc(failed)
        self._metrics.shadow_unlogged.set(facts.get("unlogged") or 0)
