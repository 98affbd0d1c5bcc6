"""The artifact store: files under an fsspec URL that are written atomically."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from airflow_mlops.core.errors import SpecError, StoreError, one_line
from airflow_mlops.core.secrets import url_credentials

# Filesystems of object stores. They keep listings in memory by default, so a process would not see the files of others.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
# s3fs asks for a file's size before it reads the file, unless it reads with one request.
_ONE_REQUEST = {"s3": {"max_concurrency": 1}, "s3a": {"max_concurrency": 1}}
# A file of at most this size is written to an object store, and read from it, with one request.
SMALL_BYTES = 8 << 20
# How often, and for how many seconds at most between two attempts, a write that lost a race is repeated.
ATTEMPTS, LONGEST_PAUSE = 60, 1.0
_PROBES = ".mlops"
# Requests that read several files of an object store at the same time.
_READERS = 16


class HashingFile:
    """A binary file opened for writing that computes the SHA-256 and the length in bytes of the written content."""

    def __init__(self, file: BinaryIO, failed: Callable[[Exception], StoreError]) -> None:
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

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class _Upload:
    """A file in an object store that is being written. Its upload begins when it is no longer small.

    :param start: function that begins the upload
    :param small_bytes: size until which the content is kept in memory
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
    # adlfs completes a file that is closed, also when Python frees the object. Files of other filesystems may not allow
    # the assignment.
    with suppress(AttributeError):
        file.closed = True


@dataclass(frozen=True)
class UnfinishedUpload:
    """A large file whose upload to S3 has begun and was neither completed nor aborted.

    :param key: key of the file
    :param id: id of the upload
    :param started: time at which the upload began, in UTC
    """

    key: str
    id: str
    started: datetime


class ReadableFile:
    """A binary file opened for reading. Exceptions of the filesystem become :class:`StoreError`."""

    def __init__(self, file: BinaryIO, guard: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._guard = guard

    def read(self, size: int = -1) -> bytes:
        with self._guard():
            return self._file.read(size)

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


class ArtifactStore:
    """Files under one fsspec URL (``file://``, ``s3://``, ``gs://``, ``abfs://``, ``memory://``), identified by keys.

    A key is a relative path with ``/`` as separator. fsspec takes credentials from the environment, from the workload
    identity of the machine, or from its configuration files. The URL contains none, because it is stored in manifests
    of pods and in Airflow's database.

    Exceptions of the filesystem and of its client library become a :class:`StoreError`, which can be retried. Only
    ``FileNotFoundError`` is raised unchanged when a file is read. It means that the key does not exist.

    :param url: URL of the folder that contains all keys

    :raises StoreError: fsspec does not know the URL's protocol, or the package for it is not installed
    :raises SpecError: the URL contains credentials
    """

    def __init__(self, url: str) -> None:
        if next(url_credentials(url), None) is not None:
            raise SpecError(
                f"The URL {url!r} of the artifact store contains credentials: remove them from the URL, and set them where "
                "steps run, for example in the environment variables FSSPEC_SFTP_USERNAME and FSSPEC_SFTP_PASSWORD."
            )
        self.url = url.rstrip("/")
        protocol = self.url.partition("://")[0]
        options = {"use_listings_cache": False} if protocol in _OBJECT_STORES else {}
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url, **options)
        # Some file systems connect to their server at once.
        except Exception as error:
            raise StoreError(
                f"The artifact store {self.url!r} cannot be opened: {one_line(error)}. Correct the setting [mlops] "
                "artifacts, or install the fsspec package for this protocol where the step runs."
            ) from error
        self._local = isinstance(self.fs, LocalFileSystem)
        self._one_request = _ONE_REQUEST.get(protocol, {})

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
            # Another writer may have completed the same file, so nothing is deleted but the parts of this upload.
            if file.upload is not None:
                _abandon(file.upload)
            raise

    @contextmanager
    def _guard(self, verb: str, key: str) -> Iterator[None]:
        """Convert the exceptions of the filesystem. A block may contain only calls of the filesystem.

        ``FileNotFoundError`` remains, except for a file that is written.
        """
        try:
            yield
        except StoreError:
            raise
        # The client libraries of object stores have their own exceptions: botocore, azure.core, gcsfs, aiohttp, ...
        except Exception as error:
            if isinstance(error, FileNotFoundError) and verb != "write":
                raise
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

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write ``data`` as the content of ``key``, and replace an existing file."""
        if self._local:
            with self.create(key) as file:
                file.write(data)
        else:
            with self._guard("write", key):
                self.fs.pipe_file(self.path(key), data)

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write the file ``key`` only if it does not exist.

        If several writers try to write the file at the same time, exactly one writer succeeds. The first call for an
        object store checks that the store honours this condition.

        :return: ``True`` if the file was written, ``False`` if the file already existed
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
                    return False
                except OSError as error:
                    # S3 answers 409 while another writer creates the file. The next attempt shows whether it did.
                    if error.errno != errno.EBUSY:
                        raise
                else:
                    return True
            time.sleep(pause)
        raise self._failed("write", key, TimeoutError(f"{ATTEMPTS} attempts met other writers of this file"))

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

    def read_bytes(self, key: str) -> bytes:
        """Read the content of ``key``.

        :raises FileNotFoundError: ``key`` does not exist
        :raises StoreError: the store cannot be read
        """
        with self._guard("read", key):
            return cast("bytes", self.fs.cat_file(self.path(key), **self._one_request))

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

    def write_json(self, key: str, value: Any) -> None:
        """Write ``value`` as JSON to ``key``, and replace an existing file."""
        self.write_bytes(key, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode())

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
            return json.loads(data)
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

    def keys(self, prefix: str) -> list[str]:
        """List the keys directly in the folder ``prefix``, sorted. Files that are still being written are left out.

        :raises StoreError: the store cannot be read
        """
        with self._guard("list", prefix):
            try:
                paths = self.fs.ls(self.path(prefix), detail=False)
            except FileNotFoundError:
                paths = []
            if not paths:
                self._require_bucket()
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(f"{prefix}/{name}" for name in names if not name.startswith("."))

    def _require_bucket(self) -> None:
        """Check that the bucket or container exists. In one that does not exist, every folder would be empty.

        :raises StoreError: the bucket does not exist
        """
        if self.url.partition("://")[0] not in _OBJECT_STORES:
            return
        bucket = self.root.strip("/").partition("/")[0]
        if (self.url, bucket) in _CHECKED:
            return
        try:
            self.fs.info(bucket)
            _CHECKED.add((self.url, bucket))
        except FileNotFoundError as error:
            raise StoreError(
                f"The bucket {bucket!r} of the artifact store {self.url} does not exist: create the bucket, or correct the "
                "setting [mlops] artifacts."
            ) from error
        except Exception:  # noqa: BLE001 - the step may be allowed to list only its own folder
            return

    def find(self, prefix: str) -> list[str]:
        """List the keys in the folder ``prefix`` and its subfolders, sorted.

        Files that are still being written are included.

        :raises StoreError: the store cannot be read
        """
        return sorted(self.find_info(prefix))

    def find_info(self, prefix: str) -> dict[str, dict[str, Any]]:
        """List the keys in the folder ``prefix`` and its subfolders, each with the filesystem's metadata of the file.

        Files that are still being written are included. On filesystems that record times or hashes, the metadata of a file
        changes when the file is replaced.

        :raises StoreError: the store cannot be read
        """
        with self._guard("list", prefix):
            try:
                found = self.fs.find(self.path(prefix), detail=True)
            except FileNotFoundError:
                found = {}
            if not found:
                self._require_bucket()
        return {str(path).removeprefix(self.path("")): info for path, info in found.items()}

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

    def delete(self, key: str) -> None:
        """Delete ``key`` if it exists.

        :raises StoreError: the file cannot be deleted
        """
        with self._guard("delete", key), suppress(FileNotFoundError):
            self.fs.rm_file(self.path(key))

    def unfinished_uploads(self) -> list[UnfinishedUpload]:
        """List the uploads under the store's URL that were neither completed nor aborted. Their parts take up space.

        Only S3 keeps such uploads until they are aborted. For other filesystems, the list is empty.

        :raises StoreError: the store cannot be read
        """
        if self.url.partition("://")[0] not in ("s3", "s3a"):
            return []
        bucket, folder, _ = self.fs.split_path(self.root)
        prefix = f"{folder}/" if folder else ""
        found: list[UnfinishedUpload] = []
        page: dict[str, str] = {}
        while True:
            with self._guard("list", "unfinished uploads"):
                answer = self.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **page)
            for upload in answer.get("Uploads", []):
                key = upload["Key"].removeprefix(prefix)
                found.append(UnfinishedUpload(key, upload["UploadId"], upload["Initiated"].astimezone(timezone.utc)))
            if not answer.get("IsTruncated"):
                return found
            page = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Abort an upload and discard its parts. An upload that was completed or aborted meanwhile is left as it is.

        :raises StoreError: the upload cannot be aborted
        """
        bucket, key, _ = self.fs.split_path(self.path(upload.key))
        with self._guard("delete", upload.key), suppress(FileNotFoundError):
            self.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.id)

    def open(self, key: str) -> ReadableFile:
        """Open ``key`` for reading, with random access.

        :raises FileNotFoundError: ``key`` does not exist
        :raises StoreError: the store cannot be read, also while the file is read
        """
        with self._guard("read", key):
            return ReadableFile(self.fs.open(self.path(key), "rb"), lambda: self._guard("read", key))

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


# Pairs of a store and a client library with conditional writes, or of a store and its bucket, that this process has found.
_CHECKED: set[tuple[str, str]] = set()


def _client_version(fs: Any) -> str:
    package = type(fs).__module__.partition(".")[0]
    try:
        return f"{package}-{metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def pauses() -> Iterator[float]:
    """Yield the seconds to wait after each attempt to win a race: longer and longer, and random within the limit.

    The number of attempts is limited to ``ATTEMPTS``.
    """
    for attempt in range(ATTEMPTS):
        yield random.uniform(0, min(LONGEST_PAUSE, 0.01 * 2**attempt))  # noqa: S311 - no secret
