"""A real Redis server for tests, as Feast's online store."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest


@dataclass
class RedisServer:
    """A running server, which needs a password.

    :param address: as Feast's setting ``connection_string``
    """

    address: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.wait()


@contextmanager
def server() -> Iterator[RedisServer]:
    """Run a server on a free port of the loopback interface. Nothing is written to the disk."""
    import redis

    if (program := shutil.which("redis-server")) is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = {"port": str(port), "bind": "127.0.0.1", "dir": folder, "save": "", "requirepass": "s3cret"}
        command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(200):
                with suppress(redis.ConnectionError), redis.Redis("127.0.0.1", port, password="s3cret") as client:
                    client.ping()
                    break
                assert process.poll() is None
                time.sleep(0.05)
            yield RedisServer(f"127.0.0.1:{port},password=s3cret", process)
        finally:
            process.kill()
            process.wait()
