"""The access log: a line with a JSON object for each request for predictions, with the fields that Logstash expects."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, BinaryIO

from pydantic_core import to_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_FLUSH_SECONDS = 0.5


class AccessLog:
    """Collects lines and writes them every half second, which costs less than one write for each request.

    A line contains only the path of a request, and neither its query nor its body.

    :param stream: stream to which the lines are written; ``None`` to write none
    """

    def __init__(self, stream: BinaryIO | None) -> None:
        self._stream = stream
        self._lines: list[bytes] = []

    def add(self, request: Request, response: Response, call: str, seconds: float) -> None:
        """Add the line of a request. The event loop must be running.

        :param request: the request
        :param response: its answer
        :param call: name of the call of the API
        :param seconds: time from the request to the answer
        """
        if self._stream is None:
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        scope, status, client = request.scope, response.status_code, request.scope["client"]
        line = {
            "@timestamp": datetime.now(timezone.utc),
            "@version": "1",
            "message": f"{scope['method']} {scope['path']} {status}",
            "call": call,
            "client": client[0] if client else None,
            "status": status,
            "milliseconds": round(1000 * seconds, 3),
            "bytes": len(response.body),
        }
        self._lines.append(to_json(line))

    def flush(self) -> None:
        """Write the collected lines. Errors of the stream are ignored."""
        lines, self._lines = self._lines, []
        if self._stream is not None and lines:
            # Requests must be answered even if the process that reads the log has ended.
            with suppress(OSError, ValueError):
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()
