"""Reads files of the artifact store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, cast

from airflow_mlops.core import strict_json
from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store.files import ReadableFile
from airflow_mlops.data.store.location import Location

# Requests that read several files of an object store at the same time.
_READERS = 16


class Reading(Location):
    """Reads files and their metadata."""

    def read_bytes(self, key: str) -> bytes:
        """Read the content of ``key``.

        :raises FileNotFoundError: ``key`` does not exist
        :raises StoreError: the store cannot be read
        """
        with self._guard("read", key):
            content = cast("bytes", self.fs.cat_file(self.path(key), **self._one_request))
        self.traffic.count(read=len(content))
        return content

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Read the content of several keys at the same time. Keys that do not exist are left out.

        :raises StoreError: the store cannot be read
        """
        wanted = list(keys)
        if self._local or len(wanted) < 2:
            found = [self._read_if_exists(key) for key in wanted]
        else:
            with ThreadPoolExecutor(_READERS) as pool:
                found = list(pool.map(self._read_if_exists, wanted))
        return {key: content for key, content in zip(wanted, found, strict=True) if content is not None}

    def _read_if_exists(self, key: str) -> bytes | None:
        try:
            return self.read_bytes(key)
        except FileNotFoundError:
            return None

    def read_json(self, key: str) -> Any:
        """Read ``key`` and parse its content as JSON.

        :raises FileNotFoundError: ``key`` does not exist
        :raises StoreError: the store cannot be read, or the content is not JSON
        """
        return self._parse_json(key, self.read_bytes(key))

    def read_many_json(self, keys: Iterable[str]) -> dict[str, Any]:
        """Read several keys at the same time, and parse their contents as JSON. Keys that do not exist are left out.

        :raises StoreError: the store cannot be read, or a content is not JSON
        """
        return {key: self._parse_json(key, data) for key, data in self.read_many(keys).items()}

    def _parse_json(self, key: str, data: bytes) -> Any:
        try:
            return strict_json.loads(data)
        except ValueError as error:
            raise StoreError(
                f"The file {key!r} in the artifact store {self.url} is not valid JSON ({error}). Restore the file, or "
                "delete it and clear the task that wrote it."
            ) from error

    def exists(self, key: str) -> bool:
        """Return whether ``key`` exists.

        :raises StoreError: the store cannot be read
        """
        # exists() of most filesystems answers False if the store cannot be reached.
        return self.info(key) is not None

    def modified(self, key: str) -> datetime | None:
        """Return the time at which ``key`` was last written, in UTC.

        The result is ``None`` if ``key`` does not exist or the filesystem does not record times.

        :raises StoreError: the store cannot be read
        """
        with self._guard("read", key):
            try:
                found: datetime = self.fs.modified(self.path(key))
            except (FileNotFoundError, NotImplementedError):
                return None
            except NotADirectoryError:
                self._require_folder("read", key)
                return None
        return found if found.tzinfo else found.replace(tzinfo=timezone.utc)

    def info(self, key: str) -> dict[str, Any] | None:
        """Return the filesystem's metadata of ``key``, such as its size, or ``None`` if ``key`` does not exist.

        On filesystems that record times or hashes, the metadata changes when the file is replaced.

        :raises StoreError: the store cannot be read
        """
        with self._guard("read", key):
            try:
                return dict(self.fs.info(self.path(key)))
            except FileNotFoundError:
                return None
            except NotADirectoryError:
                self._require_folder("read", key)
                return None

    def open(self, key: str) -> ReadableFile:
        """Open ``key`` for reading, with random access.

        :raises FileNotFoundError: ``key`` does not exist
        :raises StoreError: the store cannot be read. The error may also occur while the file is read
        """
        with self._guard("read", key):
            return ReadableFile(self.fs.open(self.path(key), "rb"), lambda: self._guard("read", key), self.traffic)

    def sha256(self, key: str) -> str:
        """Compute the SHA-256 of the content of ``key``. The file is read in blocks of 1 MiB.

        :raises FileNotFoundError: ``key`` does not exist
        :raises StoreError: the store cannot be read
        """
        digest = hashlib.sha256()
        with self.open(key) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
