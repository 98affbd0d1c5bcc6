"""Creates files of the artifact store only if they do not exist."""

from __future__ import annotations

import errno
import os
import time
import uuid
from importlib import metadata
from typing import Any

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store.pauses import ATTEMPTS, pauses
from airflow_mlops.data.store.reading import Reading
from airflow_mlops.data.store.writing import Writing

_PROBES = ".mlops"
# The stores, and the client libraries, whose conditional writes this process has found to work.
_CHECKED: set[tuple[str, str]] = set()


class ExclusiveWriting(Reading, Writing):
    """Writes files that must not exist yet."""

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write the file ``key`` only if it does not exist.

        If several writers try to write different contents at the same time, exactly one writer succeeds. If the file
        already has the content of the writer, the write counts as successful, because a client library repeats a write
        whose response was lost. The first call for an object store checks that the store honours this condition.

        :param key: key of the file
        :param data: content of the file
        :return: ``True`` if the file was written, ``False`` if the file already existed with another content
        :raises StoreError: the store is full, cannot be written, or replaces existing files
        """
        if not self._local:
            self._require_conditional_writes()
        return self._create_exclusive(key, data)

    def _create_exclusive(self, key: str, data: bytes) -> bool:
        for pause in pauses():
            with self._guard("write", key):
                try:
                    if self._local:
                        self._link_exclusive(key, data)
                    else:
                        self.fs.pipe_file(self.path(key), data, mode="create")
                except FileExistsError:
                    return self._has(key, data)
                except OSError as error:
                    # S3 answers 409 while another writer creates the file. The next attempt shows whether that writer
                    # has succeeded.
                    if error.errno != errno.EBUSY:
                        raise
                else:
                    self.traffic.count(written=0 if self._local else len(data))
                    return True
            time.sleep(pause)
        raise self._failed(
            "write", key, TimeoutError(f"another writer changed the file during each of {ATTEMPTS} attempts")
        )

    def _has(self, key: str, data: bytes) -> bool:
        try:
            return self.read_bytes(key) == data
        except FileNotFoundError:
            # Another task has deleted the file in the meantime.
            return False

    def _require_conditional_writes(self) -> None:
        """Check once per store, and version of its client library, that existing files are not replaced.

        :raises StoreError: the store or its client library replaces existing files
        """
        key = f"{_PROBES}/conditional-writes-{_client_version(self.fs)}"
        if (self.url, key) in _CHECKED:
            return
        if not self.exists(key):
            probe = f"{_PROBES}/probe-{uuid.uuid4().hex}"
            honoured = [self._create_exclusive(probe, b"first"), self._create_exclusive(probe, b"second")] == [
                True,
                False,
            ]
            self.delete(probe)
            if not honoured:
                raise StoreError(
                    f"The artifact store {self.url} replaces files that should be created only if they do not exist, so "
                    "two tasks could overwrite each other's records. Use a store with conditional writes (If-None-Match), "
                    f"or a newer version of its client library (found: {_client_version(self.fs)})."
                )
            self.write_bytes(key, b"")
        _CHECKED.add((self.url, key))

    def _link_exclusive(self, key: str, data: bytes) -> None:
        # os.link fails if the target exists. Unlike O_EXCL, it never makes an incomplete file visible.
        whole = f"{key.rpartition('/')[0]}/.{uuid.uuid4().hex}.tmp"
        self.write_bytes(whole, data)
        try:
            os.link(self.path(whole), self.path(key))
        finally:
            self.delete(whole)


def _client_version(fs: Any) -> str:
    package = type(fs).__module__.partition(".")[0]
    try:
        return f"{package}-{metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package
