"""DuckDB databases with a memory limit. DuckDB continues in temporary files when the limit is reached."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# cgroup v2: the processor time that the container may use in a period, both in microseconds, or "max".
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@contextmanager
def connect(memory_limit: str) -> Iterator[DuckDBPyConnection]:
    """Open an empty in-memory database. The end of the block closes the database and deletes its temporary files.

    Timestamps without a time zone are read as UTC.

    :param memory_limit: memory that DuckDB may use before it continues in temporary files, for example ``2GB``. Arrow
        data that is registered in the database does not count towards the limit
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="mlops-duckdb-") as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "temp_directory": folder,
            "threads": available_cpus(),
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


def quoted(name: str) -> str:
    """Quote a table or column name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def available_cpus() -> int:
    """Count the CPUs that this process may use, according to its CPU affinity and its container's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        if quota != "max":
            cpus = min(cpus, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(cpus, 1)
