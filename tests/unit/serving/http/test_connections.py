"""Connections: heads and bodies of responses, and clients that do not read.

The server has small buffers of the operating system, so that responses wait in the server.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response

from airflow_mlops.serving.http.connections import OneWrite, TimedProtocol

SECONDS, BUFFER = 1.0, 4096


class Quick(TimedProtocol):
    """The protocol with a short limit."""

    seconds = SECONDS


async def bytes_of_the_path(scope: Any, receive: Any, send: Any) -> None:
    """Answer ``GET /N`` with N bytes."""
    await Response(b"x" * int(scope["path"][1:]))(scope, receive, send)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest) -> Iterator[uvicorn.Server]:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            bytes_of_the_path, http=Quick, loop=request.param, ws="none", lifespan="off", log_config=None,
            timeout_keep_alive=1, timeout_graceful_shutdown=1,
        )  # fmt: skip
        found = uvicorn.Server(config)
        thread = threading.Thread(target=found.run, args=([listening],), daemon=True)
        thread.start()
        found.port = listening.getsockname()[1]
        while not found.started:
            time.sleep(0.01)
        yield found
        found.should_exit = True
        thread.join(20)


def asked(server: uvicorn.Server, size: int, *headers: str) -> socket.socket:
    """Request a number of bytes. The client has a small buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    client.settimeout(20)
    client.connect(("127.0.0.1", server.port))
    lines = "".join(f"{line}\r\n" for line in ("Host: localhost", *headers))
    client.sendall(f"GET /{size} HTTP/1.1\r\n{lines}\r\n".encode())
    return client


def until_let_go(server: uvicorn.Server) -> float:
    """Wait until the server has no connections, and return the seconds this took."""
    began = time.monotonic()
    while server.server_state.connections:
        assert time.monotonic() - began < 20
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.parametrize("end", ["keep", "close", "half"])
def test_clients_that_read_nothing_are_let_go(server, end):
    with ExitStack() as stack:
        # 20 and 60 kB wait in the server without reaching its limit, and 1 MB exceeds the limit.
        for size in (20_000, 60_000, 1_000_000):
            client = stack.enter_context(asked(server, size, *(["Connection: close"] if end == "close" else [])))
            if end == "half":
                client.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        assert len(server.server_state.connections) == 3
        until_let_go(server)


def test_a_client_that_sends_requests_without_reading_is_let_go(server):
    with asked(server, 10) as client:
        with suppress(ConnectionError):
            for _ in range(2_000):
                client.sendall(b"GET /1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until_let_go(server)


def test_a_client_that_reads_slowly_is_let_go(server):
    with asked(server, 1_000_000) as client:
        began, received = time.monotonic(), 0
        while server.server_state.connections:
            with suppress(ConnectionError):
                received += len(client.recv(1000))
            time.sleep(0.02)
            assert time.monotonic() - began < 20
    assert received < 200_000


def test_what_is_no_request_is_answered_with_400(server):
    with asked(server, 10) as client:
        assert client.recv(1_000).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"nonsense\r\n\r\n")
        parts = []
        while part := client.recv(1_000):
            parts.append(part)
    refused = b"".join(parts)
    assert refused.startswith(b"HTTP/1.1 400 ")
    assert refused.endswith(b"Invalid HTTP request received.")


def test_clients_that_do_not_read_the_ends_of_their_responses_are_let_go(server):
    with ExitStack() as stack:
        # The unread rest of some responses is so small that asyncio's transport already reports the response as sent.
        for unread in range(8_000, 40_000, 4_000):
            client = stack.enter_context(asked(server, 200_000, "Connection: close"))
            left = 200_000 - unread
            while left > 0:
                part = client.recv(left)
                assert part
                left -= len(part)
        until_let_go(server)


def test_a_client_that_reads_in_time_gets_every_byte_of_several_responses(server):
    with asked(server, 100_000) as client:
        for size in (100_000, 30_000) * 3:
            received = b""
            while not received.endswith(b"x" * size):
                part = client.recv(100_000)
                assert part
                received += part
            # The limit applies to each response.
            time.sleep(SECONDS / 4)
            client.sendall(f"GET /{30_000 if size == 100_000 else 100_000} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert client.recv(1)


def test_the_head_of_an_answer_is_sent_with_its_body():
    sent: list[list[bytes]] = []
    transport = SimpleNamespace(
        is_closing=lambda: False, close=lambda: sent.append([b"closed"]), write=lambda data: sent.append([data]),
        writelines=lambda parts: sent.append(list(parts)), abort=None,
    )  # fmt: skip
    writer = OneWrite(transport, lambda: sent.append([b"expects the client to read"]))
    for part in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"body", b"more"):
        writer.write(part)
    assert [b"".join(parts) for parts in sent] == [
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nbody", b"more",
    ]  # fmt: skip
    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    writer.close()
    assert sent[3:] == [[b"HTTP/1.1 204 No Content\r\n\r\n"], [b"closed"], [b"expects the client to read"]]
