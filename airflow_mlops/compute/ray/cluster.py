"""Connect the process of a task to Ray by an Airflow connection."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from airflow_mlops.compute.ray.failures import failure
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import ComputeError, SpecError

LOCAL, AUTO = "local", "auto"
_SCHEME = "ray://"
_PORT, _CONNECT_SECONDS = 10001, 10.0
# On a busy head node, about one in ten of Ray's client servers dies while it starts: https://github.com/ray-project/ray/issues/63202.
# Ray then raises the first of these errors. If the server dies while Ray reads its command line, it is one of psutil
# (NoSuchProcess, ZombieProcess). The last error occurs on a head node that has just started: its agent for runtime
# environments may not answer for half a minute.
_TRIES = 4
_NOT_STARTED = (
    "Starting Ray client server failed", "NoSuchProcess", "ZombieProcess", "GetOrCreateRuntimeEnv request failed",
)  # fmt: skip
# Ray sends the output of a task to the driver with a delay of up to half a second.
_OUTPUT_SECONDS = 0.5


def address_of(connection: ConnectionInfo) -> str:
    """Return the address of the cluster as ``ray.init`` takes it: ``local``, ``auto`` or ``ray://host:port``.

    :raises SpecError: the connection does not name a cluster of Ray
    """
    if connection.conn_type not in ("ray", "generic"):
        raise SpecError(
            f"Connection {connection.conn_id!r} has the type {connection.conn_type!r}, but Ray(conn_id=...) needs the type ray "
            "or generic. Correct the connection or conn_id=."
        )
    host = (connection.host or "").removeprefix(_SCHEME).rstrip("/")
    if host in (LOCAL, AUTO):
        return host
    # A host of IPv6 is written in brackets.
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    port = port or str(connection.port or _PORT)
    if not name or "/" in name or not port.isdigit():
        raise SpecError(
            f"Connection {connection.conn_id!r} has the host {connection.host!r}. Set it to Ray's client server without a path, "
            "such as ray://head:10001, to auto or to local. The address of the dashboard does not run steps."
        )
    return f"{_SCHEME}{name}:{port}"


@contextmanager
def connected(connection: ConnectionInfo, runtime_env: Mapping[str, Any], needed: Mapping[str, float]) -> Iterator[str]:
    """Connect this process to Ray for the block, and yield the address.

    :param connection: the Airflow connection of the cluster
    :param runtime_env: runtime environment of the tasks
    :param needed: the resources of the step by their names in Ray, which a local Ray must have
    :raises SpecError: the connection cannot be used, or this process already uses Ray
    :raises ComputeError: Ray cannot be reached or started
    """
    address = address_of(connection)
    if address.startswith(_SCHEME):
        _require_server(connection, address)
    was_imported = "ray" in sys.modules
    with _token(connection):
        try:
            import ray
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise SpecError(
                "run_on=Ray(...) needs Ray, which is not installed on the worker. Install airflow-mlops[ray] there, with the "
                "version of Ray that the cluster has."
            ) from None
        if ray.is_initialized():
            raise SpecError("This process already uses Ray. Call ray.shutdown() before a task with run_on=Ray(...).")
        if was_imported:
            _reload_token()
        where = f"Ray of connection {connection.conn_id!r}"
        _require_known(runtime_env)
        options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
        try:
            try:
                with _own_sigterm():
                    _start(ray, address=address, runtime_env=dict(runtime_env), logging_level="WARNING", **options)
            except Exception as error:  # noqa: BLE001 - Ray raises errors of many types
                raise failure(error, where) from None
            if address == LOCAL:
                _require_resources(ray.cluster_resources(), needed)
            yield address
            time.sleep(_OUTPUT_SECONDS)
        finally:
            ray.shutdown()


def _start(ray: Any, **options: Any) -> None:
    """Call ``ray.init``, and repeat it if the client server on the head node did not start. No step has run yet."""
    for tries_left in reversed(range(_TRIES)):
        try:
            ray.init(**options)
            return
        except ConnectionError as error:
            if not tries_left or not any(message in str(error) for message in _NOT_STARTED):
                raise
            ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler with which Airflow ends a task. Ray replaces it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _token(connection: ConnectionInfo) -> Iterator[None]:
    """Pass the connection's password to Ray as the token of the cluster. Ray reads it from the environment."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    before = {name: os.environ.get(name) for name in names}
    if connection.secret:
        os.environ.update(zip(names, ("token", connection.secret), strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _reload_token() -> None:
    """Let Ray read the token again. Ray reads it only once, when it is imported."""
    raylet: Any = import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _require_server(connection: ConnectionInfo, address: str) -> None:
    """Check that the client server accepts connections. Ray itself would try for half a minute.

    :raises ComputeError: the server does not accept a connection
    """
    host, _, port = address.removeprefix(_SCHEME).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ComputeError(
            f"Ray of connection {connection.conn_id!r} cannot be reached at {host}:{port} "
            f"({error.strerror or 'it does not answer'}). Start the cluster, or correct the connection."
        ) from None


def _require_known(runtime_env: Mapping[str, Any]) -> None:
    """Check the names of the fields of a runtime environment. Ray itself ignores unknown fields.

    :raises SpecError: Ray has no field with one of the names
    """
    from ray.runtime_env import RuntimeEnv

    if unknown := sorted(set(runtime_env) - RuntimeEnv.known_fields):
        raise SpecError(
            f"Ray(runtime_env=...) has the field {unknown[0]!r}, which Ray's runtime environments do not have. Use one of "
            f"{', '.join(sorted(RuntimeEnv.known_fields))}."
        )


def _require_resources(available: Mapping[str, float], needed: Mapping[str, float]) -> None:
    """Check that a local Ray has the resources of the step, because no nodes are ever added to it.

    :raises SpecError: this machine has too few resources
    """
    for name, amount in needed.items():
        if amount > available.get(name, 0):
            raise SpecError(
                f"Ray(...) asks for {amount:g} {name}, but the local Ray on this worker has {available.get(name, 0):g}. Ask for "
                "less, or use the connection of a cluster."
            )
