"""Send the answers to the process that writes the log of predictions.

The collected answers are sent to the process (:mod:`airflow_mlops.serving.processes.write`) every 0.1 seconds. Answers wait in a
buffer of limited size until the process takes them. If the buffer is full, further answers are counted as not logged.

All of this happens in the event loop. A thread would delay responses, because only one thread at a time runs Python
code.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from airflow_mlops.data.columns import Apart
from airflow_mlops.serving.log.options import in_sample
from airflow_mlops.serving.log.spool import Answer, prepare
from airflow_mlops.serving.log.uptime import State
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.processes.write import Packed, message, packed, state_message
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served, Versions

log = logging.getLogger(__name__)

_SEND_SECONDS = 0.1
# Seconds between two messages with the state of the server.
_STATE_SECONDS = 5.0
_BUFFER_BYTES = 32 << 20
# Answers with more rows are encoded in a thread.
_ROWS_HERE = 256
# Other answers are encoded in groups of at least this number of rows. Encoding a single answer between two requests takes
# several times as long, because the requests evict code and data from the processor's caches. Groups are small, so that
# they delay requests by less than 0.1 ms.
_GROUP_ROWS = 16
_RESTART_SECONDS, _STOP_SECONDS = 2.0, 20.0
# Capacity of the pipe to the process. The event loop fills the pipe only once between two rounds of answers, which takes
# 50 ms with 64 clients. With the default of 64 kB, answers of many rows would wait in the buffer until it is full.
_PIPE_BYTES = 1 << 20
# With its defaults, glibc keeps the freed memory of written batches: 40 MB after a second of 64 clients. With a smaller
# threshold for its own mappings (128 kB), each column would get new pages, which takes a fifth of the process's time.
_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "1048576", "MALLOC_MMAP_THRESHOLD_": "4194304"}


@dataclass
class _Batch:
    """Answers that wait to be sent in one message.

    ``versions`` maps the ``id()`` of each version that has answered to a pair: the index of the version in the message,
    and the version.
    """

    versions: dict[int, tuple[int, Served]] = field(default_factory=dict)
    answers: list[bytes] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def add(self, served: Served, found: Packed, rows: int) -> None:
        """Add an encoded answer.

        :param served: the version that has answered
        :param found: the answer as bytes
        :param rows: number of rows of the answer
        """
        number, _ = self.versions.setdefault(id(served), (len(self.versions), served))
        parts = found.numbered(number)
        self.answers.extend(parts)
        self.size += sum(map(len, parts))
        self.rows += rows


class Writing:
    """Starts the process that writes the log, and sends answers to it until :meth:`stop`.

    All calls must come from the event loop.

    :param spec: settings of the server
    :param metrics: the metrics of the server
    :param versions: the loaded versions. With the first one, the server is ready to answer
    :raises ConnectionNotFoundError: the connection ``hash_conn_id`` does not exist
    :raises SpecError: the connection ``hash_conn_id`` has no password, or its password is too short; or the spool
        belongs to servers of another model or artifact store
    """

    def __init__(self, spec: ServeSpec, metrics: Metrics, versions: Versions) -> None:
        self._spec, self._metrics, self._versions = spec, metrics, versions
        self._claimed = prepare(spec)
        self._batch = _Batch()
        # Answers that are not encoded yet, and the number of their rows.
        self._group: list[tuple[Answer, Apart | None]] = []
        self._group_rows = 0
        self._timer: asyncio.TimerHandle | None = None
        self._process: Process | None = None
        # The write end of the pipe to the running process.
        self._pipe: asyncio.WriteTransport | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        # When to send the next state, by the monotonic clock, and whether predictions were dropped since the last one.
        self._next_state, self._has_dropped = 0.0, False
        self._telling: asyncio.Task[None] | None = None
        # Counts of rows, for the running process: rows sent to it; rows that it has written or counted as not logged;
        # rows that it has counted as not logged.
        self._sent, self._settled, self._dropped = 0, 0, 0.0

    async def start(self) -> None:
        """Start the process that writes the log."""
        self._process = await self._open()
        self._task = asyncio.create_task(self._run(self._process))
        self._telling = asyncio.create_task(self._keep_telling())

    async def stop(self) -> None:
        """Send the waiting answers, and end the process after it has written and uploaded its log."""
        self._stopped.set()
        if self._telling is not None:
            self._telling.cancel()
        try:
            await asyncio.wait_for(self._end(), _STOP_SECONDS)
        except asyncio.TimeoutError:
            # The next server uploads the files in the spool.
            if self._process is not None:
                self._process.kill()
        if self._task is not None:
            await self._task
        if self._batch.rows:
            log.error(
                "%d predictions were not logged, because the process that writes the log ended.", self._batch.rows
            )

    async def add(self, answer: Answer, apart: Apart | None = None) -> None:
        """Log an answer, if its request is in the sample. If the buffer is full, its rows are counted as not logged.

        :param answer: the answer
        :param apart: ``shadow`` or ``canary`` for predictions of a shadow or canary version; ``None`` for the champion
        """
        if not in_sample(answer.request_id, self._spec.sample):
            return
        rows = answer.rows.count
        if self._batch.size > _BUFFER_BYTES:
            self._drop(rows)
            return
        if rows > _ROWS_HERE:
            loop = asyncio.get_running_loop()
            self._encode(answer, await loop.run_in_executor(None, _encoded, answer, apart))
        else:
            self._group.append((answer, apart))
            self._group_rows += rows
            if self._group_rows - rows < _GROUP_ROWS <= self._group_rows:
                # Usually, the response to the request is sent before this call.
                asyncio.get_running_loop().call_soon(self._encode_group)
        if self._timer is None:
            self._send_later()

    def _encode_group(self) -> None:
        """Move the answers of the group to the batch."""
        group, self._group, self._group_rows = self._group, [], 0
        for answer, apart in group:
            self._encode(answer, _encoded(answer, apart))

    def _encode(self, answer: Answer, found: Packed | Exception) -> None:
        rows = answer.rows.count
        if isinstance(found, Exception):
            self._drop(rows)
            log.error("%d predictions of a request were not logged: %s", rows, found)
        else:
            self._batch.add(answer.served, found, rows)

    def _drop(self, rows: int) -> None:
        self._metrics.dropped.inc(rows)
        self._has_dropped = True

    async def _keep_telling(self) -> None:
        """Send the state of the server, even if there are no answers to send."""
        while True:
            if self._timer is None:
                self._send()
            await asyncio.sleep(_STATE_SECONDS)

    def _state(self, *, ended: bool = False) -> bytes:
        """Return a message with the state of the server; empty if no version is loaded yet."""
        served = self._versions.champion
        if served is None:
            return b""
        self._next_state = time.monotonic() + _STATE_SECONDS
        dropped, self._has_dropped = self._has_dropped, False
        return state_message(State(served, time.time(), dropped, ended))

    def _send_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_SEND_SECONDS, self._send)

    def _send(self) -> None:
        self._timer = None
        self._encode_group()
        batch, pipe = self._batch, self._pipe
        is_due = time.monotonic() >= self._next_state
        if not batch.answers and not is_due:
            return
        if self._process is None or pipe is None or pipe.is_closing() or pipe.get_write_buffer_size():
            if not self._stopped.is_set():
                self._send_later()
            return
        if batch.answers:
            self._batch = _Batch()
            self._sent += batch.rows
            pipe.write(message([served for _, served in batch.versions.values()], batch.answers))
        if is_due and (state := self._state()):
            pipe.write(state)

    async def _end(self) -> None:
        # If the process has ended, `stop` counts these answers as not logged.
        self._encode_group()
        while self._batch.answers and self._process is not None:
            self._send()
            await asyncio.sleep(_SEND_SECONDS / 10)
        if (process := self._process) is not None:
            if self._pipe is not None:
                if not self._pipe.is_closing() and (state := self._state(ended=True)):
                    self._pipe.write(state)
                self._pipe.close()
            await process.wait()

    async def _open(self) -> Process:
        # The pipe of asyncio, or the pair of sockets of uvloop, would have the default capacity.
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb", buffering=0), ExitStack() as unused:
            opened = unused.enter_context(os.fdopen(write_end, "wb", buffering=0))
            # Only Linux has this call.
            with suppress(AttributeError, OSError):
                fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "airflow_mlops.serving.processes.write",
                stdin=read_end,
                stdout=PIPE,
                env={**_MALLOC, **os.environ},
            )
            pipe, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, opened)
            unused.pop_all()
        pipe.write(json.dumps(self._spec.for_processes()).encode() + b"\n")
        self._pipe, self._next_state = pipe, 0.0
        return process

    async def _run(self, process: Process) -> None:
        """Read the reports of the process, and start another process when it ends."""
        while True:
            assert process.stdout is not None
            async for line in process.stdout:
                self._heard(line)
            code = await process.wait()
            self._process = None
            if self._pipe is not None and not self._pipe.is_closing():
                self._pipe.abort()
            lost = self._sent - self._settled
            self._sent, self._settled, self._dropped = 0, 0, 0.0
            if code or lost or not self._stopped.is_set():
                self._drop(lost)
                log.error(
                    "The process that writes the log ended (exit status %d). At most %d predictions are lost.",
                    code,
                    lost,
                )
            if not self._stopped.is_set():
                await asyncio.sleep(_RESTART_SECONDS)
            if self._stopped.is_set():
                return
            process = self._process = await self._open()
            if self._stopped.is_set() and self._pipe is not None:
                self._pipe.close()

    def _heard(self, line: bytes) -> None:
        with suppress(ValueError):
            facts: dict[str, Any] = json.loads(line)
            self._settled = facts["settled"]
            self._metrics.dropped.inc(facts["dropped"] - self._dropped)
            self._dropped = facts["dropped"]
            self._metrics.spooled.set(facts["spooled"])
            self._metrics.lag.set(facts["lag"])
            self._metrics.damaged.set(facts["damaged"])


def _encoded(answer: Answer, apart: Apart | None) -> Packed | Exception:
    """Return an answer as bytes, or the error if it cannot be encoded, for example because of a text."""
    try:
        return packed(answer, apart)
    except Exception as error:  # noqa: BLE001 - it is logged and counted
        # The other answers of the group are still logged.
        return error
