"""The models that this machine has downloaded, in a private temporary folder of limited size.

The least recently used models are removed first. A process locks the folder of each model that it uses or downloads
(``flock``, shared), until the process ends. A process removes a folder only if it obtains an exclusive lock. It renames
the folder before it deletes the files, so that no other process finds an incomplete folder. The operating system
releases the locks of a process when the process ends, even if it is killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.sizes import parse_size

# The setting `[mlops] cache_size`, which Airflow passes to the process of a step.
SIZE_VARIABLE = "MLOPS_CACHE_SIZE"
DEFAULT_SIZE = "10GB"
_ATTEMPTS = 10

# Descriptors of the folders that this process has locked, by path.
_held: dict[Path, int] = {}


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` of the cache. The folder is not removed while this process runs.

    If the folder does not exist, it is filled. Other folders are then removed until the cache is not larger than the
    size in the environment variable ``MLOPS_CACHE_SIZE`` (by default 10 GB). Folders in use are kept, even if the cache
    then exceeds this size.

    :param name: name of the folder, which identifies the model version
    :param fill: function that writes the files into an empty folder
    :raises RegistryError: the cache belongs to another user, is writable by others or is a link, or other processes
        removed the folder at every attempt
    :raises SpecError: the size of the cache is not a size
    :raises OSError: the folder cannot be written
    """
    limit = parse_size(os.environ.get(SIZE_VARIABLE) or DEFAULT_SIZE, "The setting [mlops] cache_size")
    root = _root()
    folder = root / name
    for _ in range(_ATTEMPTS):
        if _hold(folder):
            if _size(folder) >= _read_sizes(_record(root)).get(name, 0):
                return folder
            # A program that cleans temporary folders may have removed old files.
            os.close(_held.pop(folder))
            with suppress(OSError):
                folder.rename(root / f".{uuid.uuid4().hex}")
        partial = root / f".{uuid.uuid4().hex}"
        partial.mkdir(mode=0o700)
        lock = _lock(partial)
        if lock is None:
            # Another process removed the new folder as a leftover of a killed process.
            continue
        try:
            fill(partial)
            try:
                partial.rename(folder)
            except OSError:
                # Another process has filled the same folder at the same time.
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            held = _hold(folder)
            os.close(lock)
        if held:
            _make_room(folder, limit)
            return folder
    raise RegistryError(f"Other processes repeatedly removed the folder {folder}. Increase [mlops] cache_size.")


class InUse:
    """Keeps a folder of the cache from being removed as long as this object exists.

    The object is for processes that use a folder that another process has downloaded.

    :param folder: the folder
    :raises FileNotFoundError: the folder does not exist any more
    """

    def __init__(self, folder: Path) -> None:
        opened = _lock(folder)
        if opened is None:
            raise FileNotFoundError(f"The folder {folder} was removed. Increase [mlops] cache_size.")
        weakref.finalize(self, os.close, opened)


def _root() -> Path:
    folder = Path(tempfile.gettempdir()) / f"airflow-mlops-{os.getuid()}" / "models"
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    owner = folder.parent.lstat()
    # A folder of another user could contain manipulated models.
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022 or folder.parent.is_symlink():
        raise RegistryError(
            f"The cache folder {folder.parent} belongs to another user, is writable by others, or is a link. Remove "
            "this folder, or set the environment variable TMPDIR to another folder."
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _hold(folder: Path) -> bool:
    """Lock a folder until this process ends, and record its use. Return ``False`` if the folder does not exist."""
    lock = _held.get(folder)
    if lock is not None and not _is(folder, lock):
        os.close(_held.pop(folder))
        lock = None
    if lock is None:
        lock = _lock(folder)
        if lock is None:
            return False
        _held[folder] = lock
    with suppress(OSError):
        os.utime(folder)
    return True


def _lock(folder: Path, mode: int = fcntl.LOCK_SH) -> int | None:
    """Open and lock a folder. Return ``None`` if it does not exist any more, or the requested lock is not available."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(opened, mode)
    except OSError:
        # Some network file systems have no locks. No folder is removed there.
        if mode != fcntl.LOCK_SH:
            os.close(opened)
            return None
    if not _is(folder, opened):
        os.close(opened)
        return None
    return opened


def _is(folder: Path, opened: int) -> bool:
    """Return whether ``folder`` is still the path of the opened folder, which may have been renamed or removed."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(opened))
    except FileNotFoundError:
        return False


def _make_room(added: Path, limit: int) -> None:
    """Remove leftovers of killed downloads, and the least recently used folders until the rest fits into ``limit``.

    The sizes of the folders are recorded in a file, because measuring thousands of folders is slow.

    :param added: the new folder
    :param limit: largest size of the cache, in bytes
    """
    root = added.parent
    record = _record(root)
    with _one_process(root):
        known = _read_sizes(record) | {added.name: _size(added)}
        # Downloads in progress cannot be removed. They count towards the size of the cache, and their own size changes.
        names = [name for name in os.listdir(root) if not (name.startswith(".") and _remove(root / name))]
        sizes = {name: known[name] if name in known else _size(root / name) for name in names}
        total = sum(sizes.values())
        if total > limit:
            for name in sorted(names, key=lambda name: _last_use(root / name)):
                if _remove(root / name):
                    total -= sizes.pop(name)
                if total <= limit:
                    break
        _write_sizes(record, sizes)


def _record(root: Path) -> Path:
    return root.with_name(f"{root.name}.sizes")


def _read_sizes(record: Path) -> dict[str, int]:
    """Return the recorded size of each folder, in bytes. Damaged lines are left out."""
    try:
        lines = record.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    entries = (line.partition(" ") for line in lines)
    return {name: int(size) for size, _, name in entries if size.isdecimal()}


def _write_sizes(record: Path, sizes: dict[str, int]) -> None:
    # Without a record, the next process measures the folders.
    with suppress(OSError, UnicodeError):
        record.write_text("".join(f"{size} {name}\n" for name, size in sizes.items() if not name.startswith(".")))


def _last_use(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@contextmanager
def _one_process(root: Path) -> Iterator[None]:
    """Allow only one process at a time to delete models from the cache.

    Otherwise, two processes could delete more than necessary.
    """
    lock = _lock(root, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _remove(folder: Path) -> bool:
    lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None:
        return False
    try:
        removed = folder.with_name(f".{uuid.uuid4().hex}")
        folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _size(folder: Path) -> int:
    size = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(parent, file)).st_size
    return size
