"""The artifact store: files under an fsspec URL that are written atomically."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from airflow_mlops.core.errors import StoreError


class HashingFile:
    """A binary file opened for writing that computes the SHA-256 and the length in bytes of the written content."""

    def __init__(self, file: BinaryIO, failed: Callable[[OSError], StoreError]) -> None:
        self._file = file
        self._failed = failed
        self._hash = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.bytes += view.nbytes
        written = 0
        try:
            # A single write to an unbuffered file may be incomplete.
            while written < view.nbytes:
                written += self._file.write(view[written:])
        except OSError as error:
            raise self._failed(error) from error
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        # ArtifactStore.create() closes the underlying file, and either publishes or discards it.
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class ArtifactStore:
    """Files under one fsspec URL (``file://``, ``s3://``, ``gs://``, ``abfs://``, ``memory://``), identified by keys.

    A key is a relative path with ``/`` as separator. fsspec takes credentials from the environment, from the workload
    identity of the machine, or from its configuration files.

    :param url: URL of the folder that contains all keys

    :raises StoreError: fsspec does not know the URL's protocol, or the package for it is not installed
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        # Some file systems connect to their server at once.
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(
                f"The artifact store {self.url!r} cannot be opened: {error}. Correct the setting [mlops] artifacts, or "
                "install the fsspec package for this protocol where the step runs."
            ) from error
        self._local = isinstance(self.fs, LocalFileSystem)

    def __repr__(self) -> str:
        return f"ArtifactStore({self.url!r})"

    def path(self, key: str) -> str:
        """Return the path of ``key`` in the fsspec filesystem ``self.fs``."""
        return f"{self.root.rstrip('/')}/{key}"

    def local_path(self, key: str) -> Path | None:
        """Return the path of ``key`` on this machine, or ``None`` if the store is not a local folder."""
        return Path(self.path(key)) if self._local else None

    def url_of(self, key: str) -> str:
        """Return the full URL of ``key``, which other tools can open."""
        return cast("str", self.fs.unstrip_protocol(self.path(key)))

    @contextmanager
    def create(self, key: str) -> Iterator[HashingFile]:
        """Open the file ``key`` for writing. The file becomes visible when the block ends without an error.

        An existing file is replaced atomically. If two writers write the same key at the same time, the file has the
        complete content of one of the two writers.

        :raises StoreError: the store is full or cannot be written
        """
        with self._create_local(key) if self._local else self._create_remote(key) as file:
            yield HashingFile(file, lambda error: self._failed("write", key, error))

    @contextmanager
    def _create_local(self, key: str) -> Iterator[BinaryIO]:
        target = Path(self.path(key))
        # The temporary file is in the folder of its target, so both are on one filesystem and the rename is atomic.
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
        with self._guard(key):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb", buffering=0)
        try:
            yield cast("BinaryIO", file)
            with self._guard(key):
                os.fsync(file.fileno())
                file.close()
                temporary.replace(target)
        finally:
            file.close()
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _create_remote(self, key: str) -> Iterator[BinaryIO]:
        path = self.path(key)
        with self._guard(key):
            before = self.fs.exists(path)
            file = self.fs.open(path, "wb", autocommit=False)
        try:
            yield file
            with self._guard(key):
                file.close()
                file.commit()
        except BaseException:
            with suppress(Exception):
                file.discard()
            # On filesystems without transactions (memory://), the file is visible while it is written.
            with suppress(Exception):
                if not before and self.fs.exists(path):
                    self.fs.rm_file(path)
            raise

    @contextmanager
    def _guard(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failed("write", key, error) from error

    def _failed(self, verb: str, key: str, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(
                f"The artifact store {self.url} is full. {key!r} was not written, and no partial file is left. "
                "Free some space, then clear the task."
            )
        return StoreError(
            f"Could not {verb} {key!r} in the artifact store {self.url}: {error}. Check that the store can be reached "
            "and its credentials are valid where the step runs."
        )

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write ``data`` as the content of ``key``, and replace an existing file."""
        with self.create(key) as file:
            file.write(data)

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write the file ``key`` only if it does not exist.

        If several writers try to write the file at the same time, exactly one writer succeeds.

        :return: ``True`` if the file was written, ``False`` if the file already existed
        :raises StoreError: the store is full or cannot be written
        """
        with self._guard(key):
            try:
                if self._local:
                    self._link_exclusive(key, data)
                else:
                    self.fs.pipe_file(self.path(key), data, mode="create")
            except FileExistsError:
                return False
        return True

    def _link_exclusive(self, key: str, data: bytes) -> None:
        # os.link fails if the target exists. Unlike O_EXCL, it never makes an incomplete file visible.
        whole = f"{key.rpartition('/')[0]}/.{uuid.uuid4().hex}.tmp"
        self.write_bytes(whole, data)
        try:
            os.link(self.path(whole), self.path(key))
        finally:
            self.delete(whole)

    def read_bytes(self, key: str) -> bytes:
        """Read the content of ``key``.

        :raises FileNotFoundError: ``key`` does not exist
        :raises StoreError: the store cannot be read
        """
        try:
            return cast("bytes", self.fs.cat_file(self.path(key)))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._failed("read", key, error) from error

    def write_json(self, key: str, value: Any) -> None:
        """Write ``value`` as JSON to ``key``, and replace an existing file."""
        self.write_bytes(key, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode())

    def read_json(self, key: str) -> Any:
        """Read ``key`` and parse its content as JSON.

        :raises FileNotFoundError: ``key`` does not exist
        :raises StoreError: the store cannot be read, or the content is not JSON
        """
        data = self.read_bytes(key)
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(
                f"The file {key!r} in the artifact store {self.url} is not valid JSON ({error}). Restore the file, or "
                "delete it and clear the task that wrote it."
            ) from error

    def exists(self, key: str) -> bool:
        """Return whether ``key`` exists."""
        return bool(self.fs.exists(self.path(key)))

    def keys(self, prefix: str) -> list[str]:
        """List the keys directly in the folder ``prefix``, sorted. Files that are still being written are left out."""
        try:
            paths = self.fs.ls(self.path(prefix), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(f"{prefix}/{name}" for name in names if not name.startswith("."))

    def find(self, prefix: str) -> list[str]:
        """List the keys in the folder ``prefix`` and its subfolders, sorted.

        Files that are still being written are included.

        :raises StoreError: the store cannot be read
        """
        folder = self.path(prefix)
        try:
            self.fs.invalidate_cache(folder)
            paths = self.fs.find(folder)
        except OSError as error:
            raise self._failed("read", prefix, error) from error
        return sorted(str(path).removeprefix(self.path("")) for path in paths)

    def modified(self, key: str) -> datetime | None:
        """Return the time at which ``key`` was last written, in UTC.

        The result is ``None`` if ``key`` does not exist or the filesystem does not record times.

        :raises StoreError: the store cannot be read
        """
        try:
            found: datetime = self.fs.modified(self.path(key))
        except (FileNotFoundError, NotImplementedError):
            return None
        except OSError as error:
            raise self._failed("read", key, error) from error
        return found if found.tzinfo else found.replace(tzinfo=timezone.utc)

    def info(self, key: str) -> dict[str, Any] | None:
        """Return the filesystem's metadata of ``key``, such as its size, or ``None`` if ``key`` does not exist.

        On filesystems that record times or hashes, the metadata changes when the file is replaced.

        :raises StoreError: the store cannot be read
        """
        try:
            return dict(self.fs.info(self.path(key)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", key, error) from error

    def delete(self, key: str) -> None:
        """Delete ``key`` if it exists."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path(key))

    def sha256(self, key: str) -> str:
        """Compute the SHA-256 of the content of ``key``. The file is read in blocks of 1 MiB."""
        digest = hashlib.sha256()
        with self.fs.open(self.path(key), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
