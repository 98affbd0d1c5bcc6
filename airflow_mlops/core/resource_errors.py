"""Recognise that a step failed because disk space, memory or open files ran out, whichever error reports it.

Libraries report a full disk in many ways: MLflow lists the files that it could not download, skops says that the model
cannot be serialized, and SQLite has an error of its own. Code of this package may also have wrapped the exception, for
example as a model that cannot be exported. This module searches the exception and its causes.
"""

from __future__ import annotations

import errno
import re
import resource
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from airflow_mlops.core.errors import (
    ComputeError,
    MemoryLimitError,
    MLOpsError,
    SpillError,
    StoreError,
    TableError,
    one_line,
)
from airflow_mlops.core.temporary import FULL, disk_full

_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
# These libraries write to the disks of this machine only, and their exceptions have no `errno`.
_LOCAL_LIBRARIES = frozenset({"_catboost", "_duckdb", "duckdb", "lightgbm", "sqlite3", "xgboost"})
_FULL_TEXT = re.compile(r"No space left on device|Disk quota exceeded|database or disk is full")
# MLflow lists the files that it could not write. Its other messages can be those of the server, whose disk may be full.
_NOT_DOWNLOADED = re.compile(r"failures occurred while downloading.*?(\[Errno (?:28|122)\][^#]*)", re.DOTALL)
_MEMORY_TEXT = re.compile(r"bad_alloc|bad allocation|[Cc]an(?:no|')t allocate memory")


def explain(error: Exception) -> MLOpsError | None:
    """Return the error that a task reports if the disk is full, or memory or open files ran out.

    :param error: an exception that a step raised
    :return: ``None`` if the exception has another reason, or if it already names the full disk or the limit of memory
    """
    chain = list(_chain(error))
    if any(isinstance(item, OSError) and item.errno in _TOO_MANY_FILES for item in chain):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return ComputeError(
            f"The step needs more open files than the limit of {limit} ({one_line(error, 200)}). Raise the limit (ulimit -n) of the "
            "worker or the container."
        )
    # These errors name the folder or the table whose disk is full, or the limit.
    if any(isinstance(item, (MemoryLimitError, SpillError, StoreError, TableError)) for item in chain):
        return None
    for item in chain:
        number = item.errno if isinstance(item, OSError) else None
        if number in FULL or (_library(item) in _LOCAL_LIBRARIES and _FULL_TEXT.search(str(item))):
            return _full(item)
        if _library(item) == "mlflow" and (found := _NOT_DOWNLOADED.search(str(item))):
            return disk_full(" ".join(found[1].split())[:200])
    for item in chain:
        if _is_memory(item):
            # Without a limit of its own, the process shares the memory of the machine with other tasks. After they have ended,
            # a retry may succeed.
            shared = resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
            return MemoryLimitError(
                f"The step needs more memory than its process may use ({one_line(item, 200)}). Give the process more memory (the limit "
                "of the container, or ulimit -v), or give the step fewer rows.",
                grows=shared,
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes. An error of this package may have been raised ``from None``."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _full(error: BaseException) -> SpillError:
    detail, temporary = one_line(error, 200), tempfile.gettempdir()
    name = error.filename if isinstance(error, OSError) else None
    if isinstance(name, str):
        if Path(name).is_relative_to(temporary):
            return disk_full(detail)
        # The user's own function may have written the file.
        return SpillError(f"The disk is full ({detail}). Free space in {Path(name).parent}.", disk_full=True)
    if any(
        frame.f_globals.get("__name__", "").startswith("feast.") for frame, _ in traceback.walk_tb(error.__traceback__)
    ):
        return SpillError(
            f"A disk is full ({detail}): Feast writes to the registry and the stores that feature_store.yaml names, and to "
            f"{temporary}. Free space there.",
            disk_full=True,
        )
    return disk_full(detail)


def _library(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return not isinstance(error, MLOpsError) and _MEMORY_TEXT.search(str(error)) is not None
