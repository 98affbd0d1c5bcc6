"""The files of a dataset, whose hashes are checked before they are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import DatasetCorruptError, DatasetPurgedError
from airflow_mlops.data.datasets.manifest import FileEntry, Manifest, manifest_key, parse_manifest
from airflow_mlops.data.datasets.recent import Recent
from airflow_mlops.data.store import SMALL_BYTES, ArtifactStore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Steps read the same small files several times.
_RECENT = Recent(4 * SMALL_BYTES)


class Files:
    """Opens the files of a dataset. The hash of each file is checked once, before the file is first read.

    :param store: the artifact store
    :param manifest: manifest of the dataset
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self._verified: set[str] = set()
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Trainers send datasets to other processes, and a lock cannot be pickled.
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()

    def verify(self, file: FileEntry) -> None:
        """Check that the content of a file has the SHA-256 that the manifest lists, unless it was checked before.

        :raises DatasetCorruptError: the file does not exist or was changed
        :raises DatasetPurgedError: the files were deleted by a purge of old predictions
        """
        # Threads that read the same file must not hash it twice.
        with self._lock:
            if file.path not in self._verified:
                with self._required(file):
                    self._check(file, self._store.sha256(file.path))

    @contextmanager
    def _required(self, file: FileEntry) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._require_unpurged()
            raise DatasetCorruptError(
                f"File {self._store.url_of(file.path)} of dataset {self._manifest.name!r} ({self._manifest.id[:12]}) does not "
                "exist. Restore the file, or clear the task that wrote the dataset."
            ) from error

    def _require_unpurged(self) -> None:
        """Check that the files were not purged after the dataset was opened.

        :raises DatasetPurgedError: the files were purged
        """
        name, dataset_id = self._manifest.name, self._manifest.id
        key = manifest_key(name, dataset_id)
        with suppress(FileNotFoundError):
            require_unpurged(parse_manifest(self._store.read_bytes(key), name, dataset_id, self._store.url_of(key)))

    def _check(self, file: FileEntry, found: str) -> None:
        if found != file.sha256:
            raise DatasetCorruptError(
                f"Dataset {self._manifest.name!r} ({self._manifest.id[:12]}) was changed after it was written. File "
                f"{self._store.url_of(file.path)} has SHA-256 {found[:12]}…, but its manifest lists "
                f"{file.sha256[:12]}…. Restore the file, or delete it and clear the task that wrote the dataset."
            )
        self._verified.add(file.path)

    @contextmanager
    def open(self, file: FileEntry) -> Iterator[Any]:
        """Open a file for reading, after its hash was checked.

        :raises DatasetCorruptError: the file does not exist or was changed
        :raises DatasetPurgedError: the files were deleted by a purge of old predictions
        """
        with self._required(file):
            if self._store.local_path(file.path) is None and file.bytes <= SMALL_BYTES:
                yield BytesIO(self._small(file))
                return
            self.verify(file)
            with self._store.open(file.path) as opened:
                yield opened

    @contextmanager
    def parquet(self, file: FileEntry) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file for reading, after its hash was checked. See :meth:`open`."""
        # Arrow is imported here. Most look-ups of datasets read no rows, and take less time than this import.
        import pyarrow.parquet as pq

        with self.open(file) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
            yield parquet

    def _small(self, file: FileEntry) -> bytes:
        """Read a small file of an object store with one request."""
        # A changed manifest may list another hash for the same file.
        key = f"{self._store.url_of(file.path)}#{file.sha256}"
        if (content := _RECENT.get(key)) is None:
            content = self._store.read_bytes(file.path)
            self._check(file, hashlib.sha256(content).hexdigest())
            _RECENT.keep(key, content)
        return content

    def has_rows(self, file: FileEntry, content: str) -> bool:
        """Return whether a file has the columns of the manifest, and values with the hash ``content``.

        :param file: the file
        :param content: hash of the values, see :attr:`FileEntry.content`
        :raises DatasetCorruptError: the file does not exist or was changed
        """
        import pyarrow as pa

        from airflow_mlops.data.datasets.content import ContentHash

        try:
            with self.parquet(file) as parquet:
                if _columns(parquet.schema_arrow) != [(item.name, _type(item.type)) for item in self._manifest.columns]:
                    return False
                found = ContentHash(parquet.schema_arrow)
                for batch in parquet.iter_batches():
                    found.update(batch)
        except pa.ArrowMemoryError:
            raise
        except (pa.ArrowException, OSError):
            # The file is not Parquet.
            return False
        return found.hexdigest() == content

    def foreign(self, file: FileEntry) -> DatasetCorruptError:
        """Return the error for a file whose rows differ from those of the dataset."""
        return DatasetCorruptError(
            f"The rows in file {self._store.url_of(file.path)} are not those of dataset {self._manifest.name!r} "
            f"({self._manifest.id[:12]}): the file and its SHA-256 in the manifest were changed after the dataset was "
            "written. Restore both, or delete the file and clear the task that wrote the dataset."
        )


def require_unpurged(manifest: Manifest) -> None:
    """Check that the files of a dataset were not purged.

    :raises DatasetPurgedError: the files were deleted by a purge of old predictions
    """
    if manifest.purged is not None:
        window = f" of the window {manifest.window.label}" if manifest.window else ""
        raise DatasetPurgedError(
            f"The rows of dataset {manifest.name!r} ({manifest.id[:12]}){window} were deleted on "
            f"{manifest.purged:%Y-%m-%d} by PurgePredictionsOperator or `airflow mlops purge`; only the "
            "manifest remains. If you need the rows, run the task that writes this dataset once more."
        )


def _columns(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, _type(str(field.type))) for field in schema]


def _type(text: str) -> str:
    # Parquet does not keep the name of the items of a list.
    return re.sub(r"(list(?:_view)?)<[^:<>]*: ", r"\1<", text)
