"""A gate in front of a server, which can be closed, so that the server cannot be reached through it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Gate:
    """Forwards TCP connections to a server on this machine.

    :param target: port of the server
    """

    def __init__(self, target: int) -> None:
        self._target, self.port = target, 0
        self._pairs: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        """Listen, at the same port as before."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections, and end those that exist."""
        # Closing alone would not end the call that waits for connections.
        for end in (self._listening, *self._pairs):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._pairs.clear()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._pairs += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65_536):
            sink.sendall(part)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
