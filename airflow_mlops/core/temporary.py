"""Temporary folders of steps, which later steps remove if their process was killed.

The folders lie in ``TMPDIR`` and have names with the prefix ``mlops-owned-``. A process locks each of its folders
(``flock``) until it deletes the folder. The operating system releases the locks of a process when the process ends, even
if it is killed, so a folder without a lock has no owner. Locks belong to files, not to process ids, so they also hold
between containers that share a folder.

On file systems that several machines may share, one machine may not see the locks of another. Folders there have another
prefix, and are never removed by other processes.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from airflow_mlops.core.errors import SpillError, one_line
from airflow_mlops.core.mounts import mount_of

log = logging.getLogger(__name__)

_OWNED, _NOT_LOCKED = "mlops-owned-", "mlops-"
# Each of these is mounted by one kernel only, and every process on it sees the same locks.
_LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
FULL = (errno.ENOSPC, errno.EDQUOT)
"""The numbers of an ``OSError`` of a full disk."""
_HARDLY_ANY_BYTES = 1_000_000


class _Folder(NamedTuple):
    """A temporary folder.

    :param folder: the folder, which is deleted at the latest when this process ends
    :param lock: descriptor that holds the lock; ``None`` on file systems that several machines may share
    """

    folder: tempfile.TemporaryDirectory[str]
    lock: int | None


# The folders that exist until this process ends.
_lasting: list[_Folder] = []


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Create a folder in ``TMPDIR``, and delete it at the end of the block.

    If this process is killed inside the block, the next step of the same user on this machine deletes the folder.

    :param purpose: word in the name of the folder, for people who look into ``TMPDIR``
    :raises SpillError: the disk is full, also if a write inside the block has found it full
    """
    with full_disk():
        found = _create(purpose)
        try:
            with found.folder as path:
                yield Path(path)
        finally:
            if found.lock is not None:
                os.close(found.lock)


@contextmanager
def full_disk() -> Iterator[None]:
    """Raise :class:`SpillError` if the disk is full when the block writes or reads a temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_full(one_line(error, 200)) from error


def disk_full(detail: str) -> SpillError:
    """Return the error of a step whose temporary files do not fit on the disk.

    :param detail: the error of the operating system
    """
    folder = tempfile.gettempdir()
    return SpillError(
        f"The disk is full ({detail}): temporary files are written to {folder}. Free space there, or set TMPDIR to a larger disk. "
        f"If `df -h {folder}` shows free space, there are too many files (`df -i {folder}`), or your quota is used up (`quota`).",
        disk_full=True,
    )


def is_full(folder: Path) -> bool:
    """Return whether the file system of a folder has hardly any space, or no inodes.

    This is for libraries that do not report why they could not write a file.
    """
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize < _HARDLY_ANY_BYTES or (found.f_files > 0 and found.f_favail == 0)


def lasting_folder(purpose: str) -> Path:
    """Create a folder in ``TMPDIR`` that is deleted when this process ends.

    If this process is killed, the next step of the same user on this machine deletes the folder.

    :param purpose: word in the name of the folder
    """
    _lasting.append(_create(purpose))
    return Path(_lasting[-1].folder.name)


def remove_abandoned() -> None:
    """Delete the temporary folders in ``TMPDIR`` that killed processes of this user have left behind.

    Only folders of this module are deleted. Several processes may do this at the same time. An error is ignored: the
    folder stays until another step starts.
    """
    with suppress(OSError):
        root = Path(tempfile.gettempdir())
        for name in os.listdir(root) if _shares_locks(root) else ():
            if name.startswith(_OWNED):
                _remove(root / name)


def _create(purpose: str) -> _Folder:
    # Executors of Spark create folders, but start no step.
    _remove_once(os.getpid())
    try:
        return _create_in(Path(tempfile.gettempdir()), purpose)
    except OSError as error:
        if error.errno in FULL:
            raise
        # gettempdir() writes a test file to each candidate folder, and raises FileNotFoundError if every write fails.
        raise SpillError(
            f"Temporary files cannot be written ({one_line(error, 200)}). Free space in TMPDIR, or set TMPDIR to a folder that the "
            "step can write.",
            disk_full=isinstance(error, FileNotFoundError),
        ) from error


def _create_in(root: Path, purpose: str) -> _Folder:
    if not _shares_locks(root):
        return _Folder(tempfile.TemporaryDirectory(prefix=f"{_NOT_LOCKED}{purpose}-"), None)
    while True:
        folder = tempfile.TemporaryDirectory(prefix=f"{_OWNED}{purpose}-")
        lock = _lock(Path(folder.name), fcntl.LOCK_SH)
        if lock is not None:
            return _Folder(folder, lock)
        # Another process has removed the folder before it was locked.
        folder.cleanup()


@lru_cache(maxsize=1)
def _remove_once(process: int) -> None:
    remove_abandoned()


def _remove(folder: Path) -> None:
    with suppress(OSError):
        if folder.lstat().st_uid != os.getuid():
            return
        lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is None:
            return
        try:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
        if not folder.exists():
            log.info("Deleted the temporary folder %s, which a killed process had left behind.", folder)


def _lock(folder: Path, mode: int) -> int | None:
    """Open and lock a folder. Return ``None`` if the folder does not exist any more.

    :raises OSError: the lock is not available, or ``folder`` is a link or a file
    """
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(opened, mode)
        if os.path.samestat(folder.lstat(), os.fstat(opened)):
            return opened
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(opened)
        raise
    os.close(opened)
    return None


@lru_cache
def _shares_locks(folder: Path) -> bool:
    """Return whether the folder is on a file system on which all processes see each other's locks."""
    return mount_of(folder)[1] in _LOCAL
