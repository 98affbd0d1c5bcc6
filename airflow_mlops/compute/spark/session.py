"""Open a Spark session with the settings of an Airflow connection."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_mlops.compute.spark.failures import failure
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import ComputeError, MLOpsError, SpecError

if TYPE_CHECKING:
    from airflow_mlops.compute.spark.spark import Spark

_PYTHON = "spark.sql.execution.pyspark.python"
_UNPACKED = "environment"
# PySpark sets this variable. While it is set, PySpark starts no driver in this process.
_REMOTE = "SPARK_CONNECT_MODE_ENABLED"
_LOCAL = re.compile(r"local(-cluster)?(\[.*\])?")
_CONNECT_PORT, _CONNECT_SECONDS = 15002, 10.0


@dataclass(frozen=True)
class Session:
    """An open session.

    :param spark: the session
    :param is_own: whether the session ends with the step. If the process already had a session with the same master,
        that session is used and stays open
    :param was_remote: whether PySpark used Spark Connect in this process before
    """

    spark: Any
    is_own: bool
    was_remote: bool


def open_session(place: Spark, connection: ConnectionInfo, name: str, package: Path) -> Session:
    """Open a session whose executors have the code of this package.

    :param place: the value of ``run_on``
    :param connection: the Airflow connection ``place.conn_id``
    :param name: name of the application in Spark's UI
    :param package: ZIP file with the code of this package
    :raises SpecError: the connection, a setting or the worker cannot be used
    :raises ComputeError: Spark cannot be reached
    """
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        raise SpecError(
            "run_on=Spark(...) needs PySpark, which is not installed in the worker. Install airflow-mlops[spark]."
        ) from None
    was_remote = _REMOTE in os.environ
    spark, is_own = None, True
    try:
        if connection.conn_type == "spark_connect":
            require_server(connection)
            settings = dict(place.conf)
            python = settings.pop("spark.pyspark.python", None)
            spark = SparkSession.builder.remote(connect_url(connection)).create()
            for key, value in settings.items():
                spark.conf.set(key, value)
        elif connection.conn_type == "spark":
            spark, is_own, python = _classic(place, connection, name)
        else:
            raise SpecError(
                f"Connection {connection.conn_id!r} has the type {connection.conn_type!r}, but Spark(conn_id=...) needs the type "
                "spark_connect or spark. Correct the connection or conn_id=."
            )
        if place.archive is not None:
            if not Path(place.archive).is_file():
                raise SpecError(f"The file {place.archive!r} does not exist on the worker. Correct Spark(archive=...).")
            spark.addArtifacts(f"{place.archive}#{_UNPACKED}", archive=True)
            python = f"./{_UNPACKED}/bin/python"
        if python is not None:
            spark.conf.set(_PYTHON, python)
        spark.addArtifacts(str(package), pyfile=True)
    except BaseException as error:
        close(Session(spark, is_own, was_remote))
        if isinstance(error, MLOpsError) or not isinstance(error, Exception):
            raise
        raise failure(error, f"Spark of connection {connection.conn_id!r}") from None
    return Session(spark, is_own, was_remote)


def _classic(place: Spark, connection: ConnectionInfo, name: str) -> tuple[Any, bool, str | None]:
    """Open a session with a driver in this process.

    :return: the session, whether it ends with the step, and the Python interpreter of the executors (``None`` for the
        default of Spark)
    """
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    master = master_of(connection)
    running: Any = SparkContext._active_spark_context
    if running is not None and running.master != master:
        raise SpecError(
            f"This process already runs Spark with master {running.master!r}, so the master of connection "
            f"{connection.conn_id!r} cannot be used. Stop the other session first."
        )
    if running is None and not _has_java():
        raise SpecError(
            f"Connection {connection.conn_id!r} names the master {master!r}, whose driver runs on the worker, but the worker has "
            "no Java. Install Java 17 or newer there, or use a connection of the type spark_connect, which needs none."
        )
    # At the level INFO, Py4J logs each connection to the JVM that it closes.
    logging.getLogger("py4j").setLevel(logging.WARNING)
    builder = SparkSession.builder.master(master).appName(name)
    options = {"spark.yarn.queue": connection.extra.get("queue")} if master.startswith("yarn") else {}
    if master.startswith("k8s://"):
        options = {"spark.kubernetes.namespace": connection.extra.get("namespace")}
    for key, value in {**options, **place.conf}.items():
        if value is not None:
            builder = builder.config(key, value)
    python = place.conf.get("spark.pyspark.python")
    # Local executors are on this machine, so the interpreter of the driver has their packages.
    if python is None and _LOCAL.fullmatch(master):
        python = sys.executable
    if running is None:
        return builder.getOrCreate(), True, python
    # The settings and the jobs of the existing session are not changed.
    spark = SparkSession.builder.getOrCreate().newSession()
    for key, value in place.conf.items():
        if spark.conf.isModifiable(key):
            spark.conf.set(key, value)
    return spark, False, python


def master_of(connection: ConnectionInfo) -> str:
    """Return the URL of the master of a connection of the type ``spark``, as Airflow's SparkSubmitHook reads it.

    :raises SpecError: the connection has no host
    """
    if not connection.host:
        raise SpecError(
            f"Connection {connection.conn_id!r} has no host. Set it to the master of Spark, such as spark://host:7077."
        )
    host = connection.host
    # In a connection that is written as a URI, the type of the connection replaces the scheme of the master.
    if "://" not in host and host != "yarn" and not _LOCAL.fullmatch(host):
        host = f"spark://{host}"
    return f"{host}:{connection.port}" if connection.port else host


def connect_url(connection: ConnectionInfo) -> str:
    """Return the URL of the server of Spark Connect, as Airflow's SparkConnectHook builds it. It may contain a token.

    :raises SpecError: the connection has no host, or its host has a path
    """
    host = connection.host or ""
    url = urlsplit(host if "://" in host else f"sc://{host}")
    if not url.hostname or url.path.strip("/"):
        raise SpecError(
            f"Connection {connection.conn_id!r} has the host {host!r}. Set it to a server of Spark Connect without a path, "
            "such as sc://host."
        )
    options: dict[str, str | None] = {
        "user_id": connection.login,
        "token": connection.secret,
        "use_ssl": str(connection.extra["use_ssl"]).lower() if "use_ssl" in connection.extra else None,
    }
    listed = ";".join(f"{name}={quote(value, safe='')}" for name, value in options.items() if value)
    place = f"{url.netloc}:{connection.port}" if connection.port and not url.port else url.netloc
    return f"sc://{place}/;{listed}" if listed else f"sc://{place}"


def require_server(connection: ConnectionInfo) -> None:
    """Check that the server of Spark Connect accepts connections. PySpark itself would try for ten minutes.

    :raises ComputeError: the server does not accept a connection
    """
    url = urlsplit(connect_url(connection))
    assert url.hostname is not None  # connect_url() has checked that the host is set
    port = url.port or _CONNECT_PORT
    try:
        socket.create_connection((url.hostname, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ComputeError(
            f"Spark Connect of connection {connection.conn_id!r} cannot be reached at {url.hostname}:{port} "
            f"({error.strerror or 'it does not answer'}). Start the server, or correct the connection."
        ) from None


def _has_java() -> bool:
    home = os.environ.get("JAVA_HOME")
    return bool(home and (Path(home) / "bin" / "java").exists()) or shutil.which("java") is not None


def close(session: Session) -> None:
    """Interrupt the running operations of the session. End the session unless the process had it before."""
    if session.is_own:
        # At the exit of the process, PySpark's handler would try for ten minutes to reach a server that has ended. A
        # session without a driver has this client.
        with suppress(Exception):
            atexit.unregister(session.spark.client._cleanup_ml_cache)
    # The session may have ended together with its server.
    with suppress(Exception):
        session.spark.interruptAll()
    if session.is_own:
        with suppress(Exception):
            session.spark.stop()
    if not session.was_remote:
        os.environ.pop(_REMOTE, None)
