"""The location of the artifact store, and its errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from airflow_mlops.core.errors import SpecError, StoreError, one_line
from airflow_mlops.core.mounts import unmounted
from airflow_mlops.core.secrets import url_credentials
from airflow_mlops.data.store.traffic import Traffic

# Filesystems of object stores. They keep listings in memory by default, so a process would not see the files of others.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
# s3fs requests the size of a file before it reads the file, unless it may read the file with one request.
_ONE_REQUEST = {"s3": {"max_concurrency": 1}, "s3a": {"max_concurrency": 1}}


class Location:
    """The filesystem of a store, and the paths of its keys. Exceptions of the filesystem become errors of the store."""

    def __init__(self, url: str) -> None:
        if next(url_credentials(url), None) is not None:
            raise SpecError(
                f"The URL {url!r} of the artifact store contains credentials: remove them from the URL, and set them where "
                "steps run, for example in the environment variables FSSPEC_SFTP_USERNAME and FSSPEC_SFTP_PASSWORD."
            )
        self.url = url.rstrip("/")
        protocol = self.url.partition("://")[0]
        options = {"use_listings_cache": False} if protocol in OBJECT_STORES else {}
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url, **options)
        # Some file systems connect to their server immediately.
        except Exception as error:
            raise StoreError(
                f"The artifact store {self.url!r} cannot be opened: {one_line(error)}. Correct the setting [mlops] "
                "artifacts, or install the fsspec package for this protocol where the step runs."
            ) from error
        self.traffic = Traffic()
        self._local = isinstance(self.fs, LocalFileSystem)
        if self._local and (place := unmounted(Path(self.root))) is not None:
            raise StoreError(
                f"The artifact store {self.url} is on the file system {place} of /etc/fstab, which is not mounted. Mount it, or correct "
                "the setting [mlops] artifacts."
            )
        self._one_request = _ONE_REQUEST.get(protocol, {})

    def __repr__(self) -> str:
        return f"ArtifactStore({self.url!r})"

    @property
    def is_object_store(self) -> bool:
        """Return whether the store is in a bucket or container, and not in a folder of a file system."""
        return self.url.partition("://")[0] in OBJECT_STORES

    def path(self, key: str) -> str:
        """Return the path of ``key`` in the fsspec filesystem ``self.fs``."""
        return f"{self.root.rstrip('/')}/{key}"

    def local_path(self, key: str) -> Path | None:
        """Return the path of ``key`` on this machine, or ``None`` if the store is not a local folder."""
        return Path(self.path(key)) if self._local else None

    def url_of(self, key: str) -> str:
        """Return the full URL of ``key``, which other tools can open."""
        return cast("str", self.fs.unstrip_protocol(self.path(key)))

    def key_of(self, url: str) -> str | None:
        """Return the key of a file from its full URL, or ``None`` if the URL is not in this store."""
        root = self.url_of("")
        return url.removeprefix(root) if url.startswith(root) else None

    @contextmanager
    def _guard(self, verb: str, key: str) -> Iterator[None]:
        """Convert exceptions of the filesystem to ``StoreError``. A block may contain only calls of the filesystem.

        ``FileNotFoundError`` is converted only if ``verb`` is ``write``. A key below a file counts as absent, as in an
        object store, which has no folders.
        """
        try:
            yield
        except StoreError:
            raise
        except NotADirectoryError as error:
            if verb == "write":
                raise self._failed(verb, key, error) from error
            self._require_folder(verb, key)
            raise FileNotFoundError(error.errno, error.strerror, error.filename) from error
        # The client libraries of object stores have their own exceptions: botocore, azure.core, gcsfs, aiohttp, ...
        except Exception as error:
            if isinstance(error, FileNotFoundError) and verb != "write":
                raise
            raise self._failed(verb, key, error) from error

    def _require_folder(self, verb: str, key: str) -> None:
        """Check that the root of a local store is neither a file nor inside a file.

        :raises StoreError: the root is a file, or a part of its path is one
        """
        with suppress(FileNotFoundError):
            try:
                if not self._local or Path(self.root).is_dir():
                    return
                os.stat(f"{self.root}/")
            except NotADirectoryError as error:
                raise self._failed(verb, key, error) from error

    def _failed(self, verb: str, key: str, error: Exception) -> StoreError:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(
                f"The artifact store {self.url} is full. {key!r} was not written, and no partial file is left. "
                "Free some space, then clear the task."
            )
        return StoreError(
            f"Could not {verb} {key!r} in the artifact store {self.url}: {one_line(error)}. Check that the store can be "
            "reached and its credentials are valid where the step runs."
        )
