"""Writes files of the artifact store atomically, and deletes them."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.implementations.memory import MemoryFileSystem

from airflow_mlops.data.store.files import HashingFile
from airflow_mlops.data.store.location import Location

# A file of at most this size is written to an object store, and read from it, with one request.
SMALL_BYTES = 8 << 20


def as_json(value: Any) -> bytes:
    """Return a value as the content of a JSON file in the store, indented so that people can read it."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


class Writing(Location):
    """Writes whole files, and replaces existing ones."""

    @contextmanager
    def create(self, key: str) -> Iterator[HashingFile]:
        """Open the file ``key`` for writing. The file becomes visible when the block ends without an error.

        An existing file is replaced atomically. If two writers write the same key at the same time, the file has the
        complete content of one of the two writers.

        :raises StoreError: the store is full or cannot be written
        """
        with self._create_local(key) if self._local else self._create_remote(key) as opened:
            file = HashingFile(opened, lambda error: self._failed("write", key, error), self.traffic)
            try:
                yield file
            except BaseException:
                file.discard()
                raise

    @contextmanager
    def _create_local(self, key: str) -> Iterator[BinaryIO]:
        target = Path(self.path(key))
        # The temporary file is in the folder of its target, so both are on one filesystem and the rename is atomic.
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
        with self._guard("write", key):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb", buffering=0)
        try:
            yield cast("BinaryIO", file)
            with self._guard("write", key):
                os.fsync(file.fileno())
                file.close()
                temporary.replace(target)
        finally:
            file.close()
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _create_remote(self, key: str) -> Iterator[BinaryIO]:
        # Open files of a store in memory are visible while they are written.
        small = sys.maxsize if isinstance(self.fs, MemoryFileSystem) else SMALL_BYTES
        file = _Upload(lambda: cast("BinaryIO", self.fs.open(self.path(key), "wb", autocommit=False)), small)
        try:
            yield cast("BinaryIO", file)
            with self._guard("write", key):
                if file.upload is None:
                    self.fs.pipe_file(self.path(key), file.small.getvalue())
                else:
                    file.upload.close()
                    file.upload.commit()  # type: ignore[attr-defined]
        except BaseException:
            # Another writer may have completed the same file, so only the parts of this upload are deleted.
            if file.upload is not None:
                _abandon(file.upload)
            raise

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write ``data`` as the content of ``key``, and replace an existing file."""
        if self._local:
            with self.create(key) as file:
                file.write(data)
        else:
            with self._guard("write", key):
                self.fs.pipe_file(self.path(key), data)
            self.traffic.count(written=len(data))

    def write_json(self, key: str, value: Any) -> None:
        """Write ``value`` as JSON to ``key``, and replace an existing file."""
        self.write_bytes(key, as_json(value))

    def delete(self, key: str) -> None:
        """Delete ``key`` if it exists.

        :raises StoreError: the file cannot be deleted
        """
        with suppress(FileNotFoundError), self._guard("delete", key):
            self.fs.rm_file(self.path(key))


class _Upload:
    """A file that is being written to an object store. Its upload begins when the file exceeds ``small_bytes``.

    :param start: function that begins the upload
    :param small_bytes: size in bytes up to which the content is kept in memory
    """

    def __init__(self, start: Callable[[], BinaryIO], small_bytes: int) -> None:
        self._start = start
        self._small_bytes = small_bytes
        self.small = BytesIO()
        self.upload: BinaryIO | None = None

    def write(self, data: memoryview) -> int:
        if self.upload is None:
            if self.small.tell() + data.nbytes <= self._small_bytes:
                return self.small.write(data)
            self.upload = self._start()
            self.upload.write(self.small.getvalue())
            self.small = BytesIO()
        return self.upload.write(data)

    def flush(self) -> None:
        """Do nothing: the store decides when it sends a part."""


def _abandon(file: Any) -> None:
    """Discard the parts of an upload."""
    with suppress(Exception):
        file.discard()
    # adlfs completes a file that is closed, even when Python frees the object. Files of other filesystems may not allow
    # the assignment.
    with suppress(AttributeError):
        file.closed = True
