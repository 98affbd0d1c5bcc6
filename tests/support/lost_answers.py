"""A proxy in front of a server that carries out requests and drops the answers of some of them."""

from __future__ import annotations

import http.client
import http.server
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
# Ids of runs, logged models and files in paths, so that each kind of request counts once.
_ID = re.compile(r"/(m-)?[0-9a-f]{32}(/.*)?(?=/|$)|(?<=/mlflow-artifacts/artifacts)/.*")


@dataclass
class Proxy:
    """The address of the proxy, and the kinds of requests whose answers were dropped."""

    address: str
    dropped: list[str] = field(default_factory=list)


@contextmanager
def lost_answers(server: str, lose: Callable[[str], bool], times: int = 1) -> Iterator[Proxy]:
    """Start a proxy in front of ``server`` that drops successful answers of each kind of request.

    :param lose: function that takes a kind of request, such as ``POST runs/create``, and returns whether to drop its
        answers
    :param times: how many answers of each kind to drop: every second one, so that the repetition is answered
    """
    target, lock, answered = urlsplit(server), threading.Lock(), Counter[str]()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            try:
                connection.request(self.command, self.path, body or None, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            kind = f"{self.command} {_ID.sub('/ID', urlsplit(self.path).path).rpartition('/mlflow/')[2]}"
            with lock:
                if answer.status < 300 and lose(kind):
                    answered[kind] += 1
                    if answered[kind] % 2 and proxy.dropped.count(kind) < times:
                        proxy.dropped.append(kind)
                        self.close_connection = True
                        return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    relay = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    relay.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{relay.server_port}")
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        relay.shutdown()
        relay.server_close()
