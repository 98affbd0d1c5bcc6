"""A proxy for the Kubernetes API that refuses and drops some requests, as a busy API server does."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import yaml

FAULTS = ("429", "500", "drop", "lose")


class FaultyApi:
    """Forwards requests to a cluster. The first four requests of each kind (method and resource) fail: with 429, with 500,
    by a closed connection before the request, and by a closed connection after it.

    :param kubeconfig: the kubeconfig of the cluster
    :param context: its context, whose user makes the requests
    :param folder: where to write the kubeconfig of the proxy
    """

    def __init__(self, kubeconfig: str, context: str, folder: Path) -> None:
        config = yaml.safe_load(Path(kubeconfig).read_text())
        (chosen,) = (item["context"] for item in config["contexts"] if item["name"] == context)
        (cluster,) = (item["cluster"] for item in config["clusters"] if item["name"] == chosen["cluster"])
        self._server = urlsplit(cluster["server"])
        self._trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self.seen: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._lock = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _pass(self) -> None:
                api.handle(self)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _pass  # noqa: N815

        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._proxy.daemon_threads = True
        cluster = {"server": f"http://127.0.0.1:{self._proxy.server_port}"}
        for item in config["clusters"]:
            if item["name"] == chosen["cluster"]:
                item["cluster"] = cluster
        config["current-context"] = context
        self.kubeconfig = folder / "faulty-kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def __enter__(self) -> FaultyApi:
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()

    def _fault(self, request: Any) -> str | None:
        parts = urlsplit(request.path).path.split("/")
        # The kind of request is its path without the namespace and the name: /api/v1/namespaces/NAMESPACE/pods/NAME/log.
        kind = f"{request.command} {'/'.join(part for n, part in enumerate(parts) if n not in (4, 6))}"
        if "watch=True" in request.path or "follow=True" in request.path:
            kind += " stream"
        with self._lock:
            number = self.seen[kind]
            self.seen[kind] += 1
            fault = FAULTS[number] if number < len(FAULTS) else None
            if fault:
                self.faults[fault] += 1
            return fault

    def handle(self, request: Any) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self._fault(request)
        if fault in ("429", "500"):
            content = json.dumps({"kind": "Status", "message": f"injected: {fault}", "code": int(fault)}).encode()
            request.send_response(int(fault))
            if fault == "429":
                request.send_header("Retry-After", "1")
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)
            return
        if fault == "drop":
            request.close_connection = True
            request.connection.close()
            return
        upstream = http.client.HTTPSConnection(self._server.hostname, self._server.port, context=self._trust)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        upstream.request(request.command, request.path, body, headers)
        answer = upstream.getresponse()
        if fault == "lose" and "stream" not in request.path:
            answer.read()
            request.close_connection = True
            request.connection.close()
            return
        request.send_response(answer.status)
        request.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        try:
            while chunk := answer.read1(65536):
                request.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                request.wfile.flush()
            request.wfile.write(b"0\r\n\r\n")
        except OSError:
            request.close_connection = True
        finally:
            upstream.close()
