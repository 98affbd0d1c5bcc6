"""Open files of the artifact store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store.traffic import Traffic


class HashingFile:
    """A binary file opened for writing that computes the SHA-256 and the length in bytes of the written content."""

    def __init__(self, file: BinaryIO, failed: Callable[[Exception], StoreError], traffic: Traffic) -> None:
        self._file = file
        self._failed = failed
        self._traffic = traffic
        self._hash = hashlib.sha256()
        self._discarded = False
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._discarded:
            return view.nbytes
        self._hash.update(view)
        self.bytes += view.nbytes
        self._traffic.count(written=view.nbytes)
        written = 0
        try:
            # A single write to an unbuffered file may write only a part of the data.
            while written < view.nbytes:
                written += self._file.write(view[written:])
        except Exception as error:
            raise self._failed(error) from error
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        # ArtifactStore.create() closes the underlying file, and either publishes or discards it.
        self.closed = True

    def discard(self) -> None:
        """Ignore all later writes. Arrow writes the rest of a file when its writer is deleted, also after an error."""
        self._discarded = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class ReadableFile:
    """A binary file opened for reading. Exceptions of the filesystem become :class:`StoreError`."""

    def __init__(self, file: BinaryIO, guard: Callable[[], AbstractContextManager[None]], traffic: Traffic) -> None:
        self._file = file
        self._guard = guard
        self._traffic = traffic

    def read(self, size: int = -1) -> bytes:
        with self._guard():
            content = self._file.read(size)
        self._traffic.count(read=len(content))
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._guard():
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def __enter__(self) -> ReadableFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
