"""The access log: a line with a JSON object for each request for predictions, with the fields that Logstash expects."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from contextlib import suppress
from datetime import datetime, timezone
from io import RawIOBase
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from pydantic_core import to_json

from airflow_mlops.serving.http.messages import ID, VERSION
from airflow_mlops.serving.metrics import Metrics

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Scope

_FLUSH_SECONDS, _STOP_SECONDS = 0.5, 5.0
# Bytes of lines that wait to be written. Further lines are dropped.
_WAITING_BYTES = 8 << 20
# Lines are created in groups of this number of requests, which takes less time. The comment on the groups of answers in
# airflow_mlops.serving.sending.answers explains why.
_GROUP = 16
# Parts of lines that are kept, because many requests have the same path, status and client.
_PARTS = 256


class _Request(NamedTuple):
    """What the log says about a request.

    :param at: time of the response in seconds since 1970
    :param scope: the ASGI scope of the request
    :param status: HTTP status of the response
    :param size: size of the body of the response, in bytes
    :param call: name of the API call
    :param seconds: time from the request to the response
    """

    at: float
    scope: Scope
    status: int
    size: int
    call: str
    seconds: float


class AccessLog:
    """Collects lines, and writes them every half second in a thread.

    Responses do not wait for the process that reads the log. If this process reads too slowly, lines are dropped and
    counted. A line contains the path of a request, its id and the version that answered, as far as the request was read. It
    contains no other part of the query or the body.

    :param stream: stream without a buffer to which the lines are written; ``None`` to write none
    :param metrics: the metrics of the server
    """

    def __init__(self, stream: BinaryIO | RawIOBase | None, metrics: Metrics) -> None:
        self._stream, self._metrics = stream, metrics
        self._requests: list[_Request] = []
        self._lines: list[bytes] = []
        # Whether the lines will be flushed.
        self._waiting = False
        self._parts: dict[tuple[str, str, int, str, str | None, int | None], bytes] = {}
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # Number of bytes put into the queue, and number of them that were written. Only one thread changes each number.
        self._put, self._written = 0, 0
        self._thread = threading.Thread(target=self._write, name="mlops-access-log", daemon=True)
        if stream is not None:
            self._thread.start()

    def add(self, request: Request, response: Response, call: str, seconds: float) -> None:
        """Add the line of a request. The event loop must be running.

        :param request: the request
        :param response: its response
        :param call: name of the API call, such as ``predict``
        :param seconds: time from the request to the response
        """
        if self._stream is None:
            return
        if not self._waiting:
            self._waiting = True
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        self._requests.append(
            _Request(time.time(), request.scope, response.status_code, len(response.body), call, seconds)
        )
        if len(self._requests) >= _GROUP:
            # The response to the request is sent before this call.
            asyncio.get_running_loop().call_soon(self._format)

    def _format(self) -> None:
        """Create the lines of the collected requests."""
        requests, self._requests = self._requests, []
        self._lines += map(self._line, requests)

    def _line(self, request: _Request) -> bytes:
        scope, status, client = request.scope, request.status, request.scope["client"]
        key = (scope["method"], scope["path"], status, request.call, client[0] if client else None, scope.get(VERSION))
        part = self._parts.get(key)
        if part is None:
            if len(self._parts) >= _PARTS:
                self._parts.clear()
            message = f"{key[0]} {key[1]} {status}"
            fields: dict[str, Any] = {
                "@version": "1",
                "message": message,
                "call": request.call,
                "client": key[4],
                "status": status,
            }
            if key[5] is not None:
                fields["version"] = key[5]
            part = self._parts[key] = to_json(fields)[1:-1]
        at = datetime.fromtimestamp(request.at, timezone.utc).replace(tzinfo=None)
        now = at.isoformat(timespec="microseconds").encode()
        milliseconds = round(1000 * request.seconds, 3)
        request_id = scope.get(ID)
        given = b"" if request_id is None else b',"id":%b' % to_json(request_id)
        return b'{"@timestamp":"%bZ",%b%b,"milliseconds":%a,"bytes":%d}\n' % (
            now, part, given, milliseconds, request.size,
        )  # fmt: skip

    def flush(self) -> None:
        """Pass the lines of the collected requests to the thread that writes."""
        self._waiting = False
        self._format()
        lines, self._lines = self._lines, []
        if self._stream is None or not lines:
            return
        data = b"".join(lines)
        if self._put - self._written + len(data) > _WAITING_BYTES:
            self._metrics.access_dropped.inc(len(lines))
            return
        self._put += len(data)
        self._queue.put(data)

    def stop(self) -> None:
        """Wait until the flushed lines are written, for at most 5 seconds. Lines that are not written then are lost."""
        if self._stream is not None:
            self._queue.put(None)
            self._thread.join(_STOP_SECONDS)

    def _write(self) -> None:
        assert self._stream is not None
        while (data := self._queue.get()) is not None:
            rest = memoryview(data)
            # Requests must be answered even if the process that reads the log has ended.
            with suppress(OSError, ValueError):
                while rest:
                    count = self._stream.write(rest)
                    if count is None:
                        # A pipe that does not block is full.
                        time.sleep(_FLUSH_SECONDS / 10)
                    rest = rest[count or 0 :]
            self._written += len(data)
