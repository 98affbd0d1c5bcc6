"""Limits for clients that keep a connection without sending a request or without reading the response.

uvicorn itself has no such time limits.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from airflow_mlops.serving.http.messages import COMPLETE
from airflow_mlops.serving.http.upgrades import PlainParser, without_upgrade

if TYPE_CHECKING:
    from httptools import HttpRequestParser

# Largest size of the headers of a request, in bytes.
_HEAD_BYTES = 65_536
_OPEN_FILES = 65_536


class OneWrite:
    """A transport that sends the headers of a response together with its body.

    uvicorn writes them separately. A second write takes about 20 microseconds, and wakes the client a second time.

    :param transport: the transport of the connection
    :param closed: function that is called when the connection is to be closed. The transport first writes what the
        client has not read yet
    """

    def __init__(self, transport: asyncio.Transport, closed: Callable[[], None]) -> None:
        self._transport, self._closed = transport, closed
        self._head: bytes | None = None
        self.is_closing, self.abort = transport.is_closing, transport.abort

    def write(self, data: bytes) -> None:
        """Keep headers until the next call, and write everything else."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write headers that have no body."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def close(self) -> None:
        """Close the connection after everything is written."""
        self.flush()
        self._transport.close()
        self._closed()


class TimedProtocol(HttpToolsProtocol):
    """Closes a connection whose client does not send the headers of its next request, or read its response, in time.

    The limit for headers also applies to a body that continues after its request was answered. While a request is being
    answered, the endpoint limits the time of its body.

    The limit for a response begins when more than 64 KB of it wait in the transport, or when the connection is to be
    closed. Smaller responses wait until then: uvicorn closes a connection five seconds after its last response.
    Without the limit, a client that does not read would keep the response in memory and the connection open.
    """

    #: Seconds for the headers of a request, and for reading a response.
    seconds = 30.0
    parser: PlainParser  # type: ignore[assignment]
    _timer: asyncio.TimerHandle | None = None
    # Ends the connection if the client does not read the response.
    _unread: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        self._writer = OneWrite(transport, self._expect_reading)
        # uvicorn also closes the connection itself, for example after an invalid request.
        self.transport = self._writer  # type: ignore[assignment]
        self.parser = PlainParser(cast("HttpRequestParser", self.parser), self._head)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request. A request whose headers are too large is answered with status 400."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self.send_400_response(f"The headers of the request are larger than {_HEAD_BYTES} bytes.")
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()

    def on_message_begin(self) -> None:
        """Record that the headers of a request begin."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Record that the headers of a request are complete, and stop their timer."""
        if self.parser.repeats():
            return
        self._in_head = False
        self._stop()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Record that the request is complete, so that no time limit is needed for its body."""
        if self.parser.repeats():
            return
        self.scope[COMPLETE] = True  # type: ignore[literal-required]
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Write the headers of a response without a body, such as the response to a HEAD request."""
        self._writer.flush()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Start the timer of a response, because the client reads it more slowly than it was written."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Stop the timer of a response that was read, unless the connection is to be closed."""
        super().resume_writing()
        if not self._writer.is_closing():
            self._stop_reading()

    def eof_received(self) -> None:
        """Start the timer of a response, because the transport closes the connection once the response is written."""
        self._expect_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers of a closed connection."""
        super().connection_lost(exc)
        self._stop()
        self._stop_reading()

    def _head(self) -> bytes:
        return without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.seconds, self.timeout_keep_alive_handler)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expect_reading(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(self.seconds, self._writer.abort)

    def _stop_reading(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def allow_connections() -> None:
    """Raise the limit of open files of this process to 65,536 or the hard limit.

    Each connection is an open file, and the default limit is often 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
