"""DuckDB databases with a memory limit. DuckDB continues in temporary files when the limit is reached."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.cpus import available_cpus
from airflow_mlops.core.errors import SpillError, one_line
from airflow_mlops.core.sizes import MEMORY_VARIABLE, parse_size
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.prefetch import prefetch

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")

JOIN_MEMORY = 1_000_000_000
"""The largest default memory in bytes of sorts and joins on a machine with at most four CPUs."""
# Each thread of DuckDB needs memory of its own.
_CPUS_OF_MOST = 4


@contextmanager
def connect(memory_limit: str | None = None, threads: int | None = None) -> Iterator[DuckDBPyConnection]:
    """Open an empty in-memory database. The end of the block closes the database and deletes its temporary files.

    Timestamps without a time zone are read as UTC. The temporary files are in ``TMPDIR``.

    :param memory_limit: memory that DuckDB may use before it continues in temporary files, for example ``2GB``; by
        default :func:`default_memory`. Arrow data that is registered in the database does not count towards the limit
    :param threads: number of threads; by default one per CPU (:func:`available_cpus`)
    :raises SpillError: the disk is full, or the memory limit is too small for a query
    """
    import duckdb

    memory_limit = memory_limit or default_memory()
    with temporary_folder("duckdb") as folder, _spilling(memory_limit):
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "temp_directory": str(folder),
            "threads": threads or available_cpus(),
            # A table name in SQL must not refer to a Python variable.
            "python_enable_replacements": False,
            # DuckDB must not download extensions.
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(":memory:", config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")
            yield connection


def connect_bounded(
    memory_limit: str | None = None, most: int = JOIN_MEMORY
) -> AbstractContextManager[DuckDBPyConnection]:
    """Open a database for sorting and joining, see :func:`connect`.

    Sorts and joins continue in temporary files at little cost in time, so that more memory hardly makes them faster.

    :param memory_limit: memory that DuckDB may use; by default :func:`default_memory`
    :param most: the largest default in bytes on a machine with at most four CPUs
    """
    return connect(memory_limit or default_memory(most=most))


def connect_on_one_cpu(memory_limit: str | None = None) -> AbstractContextManager[DuckDBPyConnection]:
    """Open a database in one of several processes that share a machine, such as the executors of Spark.

    See :func:`connect`. There is one process per CPU, so the database has one thread.

    :param memory_limit: memory that DuckDB may use; by default :func:`default_memory` of one process per CPU
    """
    return connect(memory_limit or default_memory(available_cpus()), threads=1)


@contextmanager
def _spilling(memory_limit: str) -> Iterator[None]:
    import duckdb

    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        if is_disk_full(error):
            raise SpillError(
                f"The disk is full. A query that needs more than {memory_limit} of memory writes temporary files to "
                f"{tempfile.gettempdir()}. Free space there, set TMPDIR to a larger disk, or raise the memory limit.",
                disk_full=True,
            ) from error
        if isinstance(error, duckdb.OutOfMemoryException):
            raise SpillError(
                f"A query needs more memory than its limit of {memory_limit} ({one_line(error, 200)}). Raise the memory limit "
                "([mlops] memory, or the parameter of the operator)."
            ) from error
        raise


def is_disk_full(error: Exception) -> bool:
    """Return whether DuckDB raised an error because the disk has too little space for its temporary files."""
    text = str(error)
    return "max_temp_directory_size" in text or "No space left on device" in text


def stream(
    connection: DuckDBPyConnection,
    sql: str,
    tables: Mapping[str, tuple[pa.Schema, Iterable[pa.RecordBatch]]],
    *,
    parameters: Mapping[str, Any] | None = None,
    rows: int = 65_536,
) -> Iterator[pa.RecordBatch]:
    """Run a query on streams of record batches, and stream the result.

    An error that reading a table raises is raised unchanged.

    :param connection: the DuckDB connection
    :param sql: query that uses each table once
    :param tables: the schema and the batches of each table, by name
    :param parameters: parameters of the query
    :param rows: maximum number of rows in a batch of the result
    """
    import duckdb

    failures: list[BaseException] = []

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            failures.append(error)
            raise

    for name, (schema, batches) in tables.items():
        connection.register(name, pa.RecordBatchReader.from_batches(schema, read(batches)))
    try:
        with prefetch(_batches(connection, sql, parameters, rows), connection.interrupt) as found:
            yield from found
    except (duckdb.Error, pa.ArrowException, OSError):
        if failures:
            raise failures[0] from None
        raise
    finally:
        for name in tables:
            connection.unregister(name)


def _batches(
    connection: DuckDBPyConnection, sql: str, parameters: Mapping[str, Any] | None, rows: int
) -> Iterator[pa.RecordBatch]:
    yield from connection.sql(sql, params=dict(parameters or {})).to_arrow_reader(rows)


def default_memory(processes: int = 1, most: int | None = None) -> str:
    """Return the memory that a database may use, as a size for DuckDB such as ``512MB``.

    This is ``[mlops] memory``, by default half of :func:`available_memory` and at least 100 MB.

    :param processes: number of processes that share the machine, each with a database
    :param most: the largest default in bytes on a machine with at most four CPUs, and in proportion on a machine with
        more; ``None`` for no limit. It does not limit the setting
    :raises SpecError: the setting is not a size
    """
    if setting := os.environ.get(MEMORY_VARIABLE):
        parse_size(setting, "The setting [mlops] memory")
        return setting
    found = available_memory(processes) // 2
    if most is not None:
        found = min(found, most * max(available_cpus(), _CPUS_OF_MOST) // _CPUS_OF_MOST)
    return f"{max(found // 1_000_000, 100)}MB"


def available_memory(processes: int = 1) -> int:
    """Return the memory of the machine in bytes, or the limit of the process or its container if it is smaller.

    :param processes: number of processes that share the machine or the container in equal parts
    """
    shared = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _memory_files():
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        # A group without a limit has "max" in version 2, and a number greater than any memory in version 1.
        if text.isdigit() and int(text):
            shared.append(int(text))
    own = [limit for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA) if (limit := resource.getrlimit(kind)[0]) > 0]
    return min([min(shared) // processes, *own])


def _memory_files() -> Iterator[Path]:
    """Yield the files that may contain a memory limit, for the cgroups of this process and their parent cgroups."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        lines = []
    for line in ["0::/", *lines]:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        # In a container, the root is the container's own cgroup, even if the path is that of the host.
        places = [root, *(root / part for part in _ancestors(path))]
        yield from (place / name for place in places for name in _MEMORY_LIMITS)


def _ancestors(path: str) -> Sequence[str]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def quoted(name: str) -> str:
    """Quote a table or column name for SQL."""
    return '"' + name.replace('"', '""') + '"'
