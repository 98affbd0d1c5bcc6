"""The artifact store: files under any fsspec URL, written atomically."""

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
    """A binary file opened for writing that computes the SHA-256 and the length of its content."""

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
            # An unbuffered file may write only a part of the data.
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
        # The store closes the underlying file when it has decided whether to keep it.
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

    A key is a relative path with ``/`` as separator. fsspec finds the credentials: in the environment, by workload
    identity, or in its configuration files.

    :raises StoreError: fsspec does not know the URL's protocol, or the package for it is not installed
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise StoreError(
                f"The artifact store {self.url!r} cannot be opened: {error}. Check the setting [mlops] artifacts."
            ) from error
        self._local = isinstance(self.fs, LocalFileSystem)

    def __repr__(self) -> str:
        return f"ArtifactStore({self.url!r})"

    def path(self, key: str) -> str:
        """The key as a path of the underlying filesystem."""
        return f"{self.root.rstrip('/')}/{key}"

    def local_path(self, key: str) -> Path | None:
        """The key as a path of the operating system; ``None`` if the store is not a local folder."""
        return Path(self.path(key)) if self._local else None

    def url_of(self, key: str) -> str:
        """The key as a full URL that other tools can open."""
        return cast("str", self.fs.unstrip_protocol(self.path(key)))

    @contextmanager
    def create(self, key: str) -> Iterator[HashingFile]:
        """Write the file ``key``. It becomes visible when the block ends without an error.

        An existing file is replaced atomically. If two writers write one key, the file has the content of one of them.

        :raises StoreError: the store is full or cannot be written
        """
        with self._create_local(key) if self._local else self._create_remote(key) as file:
            yield HashingFile(file, lambda error: self._failed("write", key, error))

    @contextmanager
    def _create_local(self, key: str) -> Iterator[BinaryIO]:
        target = Path(self.path(key))
        # In the same folder as its target, so that both are on one filesystem and the rename is atomic.
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
            # On filesystems without transactions (memory://) the file is visible while it is written.
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
                f"The artifact store {self.url} is full. {key} was not written, and no partial file is left. "
                "Free some space, then clear the task."
            )
        return StoreError(f"Could not {verb} {key} in the artifact store {self.url}: {error}.")

    def write_bytes(self, key: str, data: bytes) -> None:
        with self.create(key) as file:
            file.write(data)

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write the file ``key`` if it does not exist. Of several concurrent writers exactly one succeeds.

        :return: whether this call wrote the file
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
        # Linking fails if the target exists. Unlike O_EXCL it never makes a partly written file visible.
        whole = f"{key.rpartition('/')[0]}/.{uuid.uuid4().hex}.tmp"
        self.write_bytes(whole, data)
        try:
            os.link(self.path(whole), self.path(key))
        finally:
            self.delete(whole)

    def read_bytes(self, key: str) -> bytes:
        """The whole content of ``key``.

        :raises FileNotFoundError: there is no such key
        """
        try:
            return cast("bytes", self.fs.cat_file(self.path(key)))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._failed("read", key, error) from error

    def write_json(self, key: str, value: Any) -> None:
        self.write_bytes(key, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode())

    def read_json(self, key: str) -> Any:
        data = self.read_bytes(key)
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(f"{key} in the artifact store {self.url} is not JSON: {error}.") from error

    def exists(self, key: str) -> bool:
        return bool(self.fs.exists(self.path(key)))

    def keys(self, prefix: str) -> list[str]:
        """All keys directly in the folder ``prefix``, sorted, without files that are still being written."""
        try:
            paths = self.fs.ls(self.path(prefix), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(f"{prefix}/{name}" for name in names if not name.startswith("."))

    def find(self, prefix: str) -> list[str]:
        """All keys in the folder ``prefix`` and its subfolders, sorted, including files that are still being written.

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
        """When ``key`` was last written; ``None`` if it does not exist or the filesystem does not record the time.

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
        """The filesystem's metadata of ``key``, such as its size; ``None`` if it does not exist.

        On filesystems that record times or hashes the metadata changes when the file is replaced.

        :raises StoreError: the store cannot be read
        """
        try:
            return dict(self.fs.info(self.path(key)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", key, error) from error

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path(key))

    def sha256(self, key: str) -> str:
        """SHA-256 of the content of ``key``. Reads the file in blocks."""
        digest = hashlib.sha256()
        with self.fs.open(self.path(key), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
