"""Real servers of object stores for tests: moto for S3, azurite for Azure Blob Storage, and an emulator of GCS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import fsspec
import pytest

# The account of azurite, as its documentation gives it.
_AZURE_ACCOUNT = "devstoreaccount1"
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def configured(protocol: str, **options: Any) -> Iterator[None]:
    """Give fsspec the options of a protocol, as a user's configuration file of fsspec does."""
    before = dict(fsspec.config.conf)
    fsspec.config.conf[protocol] = options
    try:
        yield
    finally:
        fsspec.config.conf.clear()
        fsspec.config.conf.update(before)


class _Unconditional:
    """A WSGI application without conditional writes, like older servers that speak the protocol of S3."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return self._app(environ, start)


class _Conditional:
    """A WSGI application in which a conditional write is atomic, as in S3. moto looks for the key first, and writes it later."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app
        self._one_at_a_time = Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self._app(environ, start)
        with self._one_at_a_time:
            return self._app(environ, start)


class S3Server:
    """moto's server, which can be stopped and started again at the same address, with the same objects.

    :param conditional: whether the server honours the header ``If-None-Match``
    """

    def __init__(self, *, conditional: bool = True) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        app: Any = DomainDispatcherApplication(create_backend_app)
        self._app = (_Conditional if conditional else _Unconditional)(app)
        self._port, self._stopped = 0, True
        self.start()
        client = {"endpoint_url": f"http://127.0.0.1:{self._port}", "region_name": "eu-central-1"}
        #: Options of fsspec.
        self.options = {"key": "a", "secret": "b", "client_kwargs": client}
        with configured("s3", **self.options):
            fsspec.filesystem("s3").mkdir(f"bucket-{self._port}")

    @property
    def url(self) -> str:
        """The URL of a folder in a bucket."""
        return f"s3://bucket-{self._port}/mlops"

    def start(self) -> None:
        """Listen."""
        from werkzeug.serving import make_server

        self._stopped = False
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections, and end the connections that clients keep."""
        self._stopped = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        if self._stopped:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        return self._app(environ, start)


@contextmanager
def s3(*, conditional: bool = True) -> Iterator[str]:
    """Run moto's server. Yield the URL of a bucket.

    :param conditional: whether the server honours the header ``If-None-Match``
    """
    pytest.importorskip("s3fs")
    server = S3Server(conditional=conditional)
    with configured("s3", **server.options):
        yield server.url
    server.stop()


@contextmanager
def azure(location: Path | None = None) -> Iterator[str]:
    """Run azurite. Yield the URL of a container.

    :param location: folder in which azurite keeps its files; by default it keeps them in memory
    """
    pytest.importorskip("adlfs")
    if (azurite := shutil.which("azurite-blob")) is None:
        pytest.skip("azurite is not installed (npm install -g azurite)")
    port = free_port()
    kept = ["--inMemoryPersistence"] if location is None else ["--location", str(location)]
    command = [azurite, "--blobPort", str(port), *kept, "--disableTelemetry", "--silent", "--skipApiVersionCheck"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_port(port)
        string = (
            f"DefaultEndpointsProtocol=http;AccountName={_AZURE_ACCOUNT};AccountKey={_AZURE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{_AZURE_ACCOUNT};"
        )
        with configured("abfs", connection_string=string):
            with suppress(FileExistsError):
                fsspec.filesystem("abfs").mkdir("container")
            yield "abfs://container/mlops"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def gcs() -> Iterator[str]:
    """Run an emulator of Google Cloud Storage. Yield the URL of a bucket."""
    # gcsfs would ask for the kind of the bucket by gRPC, which the emulator does not support. gcsfs reads this variable
    # only once, at its import.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    pytest.importorskip("gcsfs")
    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.server import HANDLERS, create_server

    objects._multipart_upload = _conditional(objects._multipart_upload)
    for _, methods in HANDLERS:
        if methods.get("PUT") is objects.upload_partial:
            methods["DELETE"] = _cancel_upload
    server = create_server("127.0.0.1", port := free_port(), in_memory=True, default_bucket="bucket")
    server.start()
    try:
        with configured("gs", token="anon", endpoint_url=f"http://127.0.0.1:{port}", project="test"):
            yield "gs://bucket/mlops"
    finally:
        server.stop()


def _cancel_upload(request: Any, response: Any, storage: Any) -> None:
    """Answer to a cancelled upload, which the emulator does not know."""
    response.status = HTTPStatus.NO_CONTENT


def _conditional(upload: Callable[..., Any]) -> Callable[..., Any]:
    """Let the emulator honour ``ifGenerationMatch=0``, which it ignores. The real service documents the answer 412."""
    from gcp_storage_emulator.exceptions import NotFound

    one_at_a_time = Lock()

    @wraps(upload)
    def honour(request: Any, response: Any, storage: Any) -> Any:
        with one_at_a_time:
            if request.query.get("ifGenerationMatch") == ["0"]:
                with suppress(NotFound):
                    storage.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
                    response.status = HTTPStatus.PRECONDITION_FAILED
                    return None
            return upload(request, response, storage)

    return upload if hasattr(upload, "__wrapped__") else honour


@contextmanager
def folder() -> Iterator[str]:
    """Yield the URL of a local folder, which is a store like the others."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path).as_uri()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}; PATH={os.environ.get('PATH')}")
