"""Temporary files of the tests, which are in memory if there is enough of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

_MEMORY = Path("/dev/shm")
_PREFIX = "mlops-tests-"
# The temporary files take up to two gigabytes. The tests themselves need most of the memory.
_FREE, _AVAILABLE = 4 << 30, 12 << 30


def use_for_temporary_files() -> None:
    """Put temporary files into a folder in memory, in this process and in those that it starts.

    This has no effect if TMPDIR is set, or if there is no such folder, as on macOS, or too little memory, as in most containers.
    """
    if "TMPDIR" in os.environ or not _is_usable():
        return
    # Runs that failed or were killed have left their files.
    for folder in _MEMORY.glob(f"{_PREFIX}*"):
        if not psutil.pid_exists(int(folder.name.removeprefix(_PREFIX))):
            shutil.rmtree(folder, ignore_errors=True)
    folder = _folder()
    # The user of PostgreSQL's server must be able to enter this folder, because its own folder is inside.
    folder.mkdir(mode=0o711, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def remove() -> None:
    """Remove the folder, in the process that has created it."""
    shutil.rmtree(_folder(), ignore_errors=True)


def on_disk(name: str) -> Path:
    """Create a folder on the disk, for large files."""
    in_memory = Path(tempfile.gettempdir()).is_relative_to(_MEMORY)
    return Path(tempfile.mkdtemp(prefix=f"mlops-{name}-", dir="/tmp" if in_memory else None))


def _folder() -> Path:
    return _MEMORY / f"{_PREFIX}{os.getpid()}"


def _is_usable() -> bool:
    try:
        is_executable = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
        free = shutil.disk_usage(_MEMORY).free
    except OSError:
        return False
    return is_executable and free > _FREE and psutil.virtual_memory().available > _AVAILABLE
