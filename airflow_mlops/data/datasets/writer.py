"""Writes the files and the manifest of a dataset."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from threading import Event, Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.cpus import wanted_threads
from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, DatasetPurgedError, SchemaError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.catalog import open_dataset, read_manifest
from airflow_mlops.data.datasets.manifest import ColumnEntry, FileEntry, Manifest, manifest_key
from airflow_mlops.data.datasets.pointers import point_slot, point_snapshot, point_window, slot_id
from airflow_mlops.data.prefetch import alongside, run_in_order
from airflow_mlops.data.store import ArtifactStore, pauses

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.data.datasets.data_file import DataFile

DATA = "data"
FILE_ROWS = 1 << 20
"""Number of rows in a file; the last file of a split part may have fewer. The id of a dataset depends on its files."""
# More files at once need more memory.
_FILES_AT_ONCE = 2


class WrittenFiles(Model):
    """Complete files of a dataset that has no manifest yet.

    :param columns: the columns of all files; empty if there are no files
    :param files: the files
    """

    columns: list[ColumnEntry]
    files: list[FileEntry]


class DatasetWriter:
    """A context manager that writes one dataset. Call :meth:`commit` at the end of the block.

    Leaving the block without a commit deletes the files that were written.

    :param store: the artifact store
    :param name: name of the dataset
    :param folder: subfolder of ``files`` for the Parquet files, such as ``window=2013-04``
    """

    def __init__(self, store: ArtifactStore, name: str, folder: str = "") -> None:
        self.store = store
        self.name = name
        self._folder = "/".join(filter(None, [f"datasets/{name}/files", folder]))
        self._open: dict[str, DataFile] = {}
        # The complete files of :meth:`write`, by split part.
        self._complete: dict[str, list[FileEntry]] = {}
        # Determined by the first rows of the file that is begun first.
        self._options: dict[str, Any] | None = None
        self._lock, self._stopped = Lock(), Event()
        # The files of :meth:`write_files` that are not complete.
        self._incomplete: set[DataFile] = set()
        self._schema: pa.Schema | None = None
        self._columns: list[ColumnEntry] = []
        self._included: list[FileEntry] = []
        self._written: list[str] = []
        self._committed = False

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.discard()
        if not self._committed:
            for key in self._written:
                self.store.delete(key)

    def write(self, data: pa.RecordBatch | pa.Table, part: str = DATA) -> None:
        """Append rows to a split part. Every :data:`FILE_ROWS` rows of the part, a new file begins.

        :param data: the rows
        :param part: name of the split part: ``train`` or ``test``, or ``data`` (default) if the dataset is not split
        :raises SchemaError: columns or types differ from those of the rows that were written earlier
        """
        if part in self._open:
            self._check(data)
        else:
            self._complete.setdefault(part, [])
            self._open[part] = self._new_file(part, data)
        while data.num_rows > (room := FILE_ROWS - self._open[part].rows):
            if room:
                self._open[part].write(data.slice(0, room))
            data = data.slice(room)
            self._complete[part].append(self._closed(self._open[part]))
            del self._open[part]
            self._open[part] = self._new_file(part, data)
        self._open[part].write(data)

    def write_files(self, files: Iterable[tuple[str, Iterable[pa.RecordBatch | pa.Table]]]) -> None:
        """Write complete files, two at the same time, because Parquet encodes a file in one thread.

        With one CPU or ``OMP_NUM_THREADS=1``, which Spark sets on executors, files are written one after the other.

        :param files: split part and rows of each file, in order. The rows are read in other threads. A file without a
            batch is not written
        :raises SchemaError: columns or types differ between rows
        """
        self.end_files()
        tasks = (partial(self._write_file, part, rows) for part, rows in files)
        entries = run_in_order(tasks, min(_FILES_AT_ONCE, wanted_threads()), self._stop)
        self._included += (entry for entry in entries if entry is not None)

    @contextmanager
    def writing_files(
        self, files: Iterable[tuple[str, Iterable[pa.RecordBatch | pa.Table]]]
    ) -> Iterator[Callable[[], None]]:
        """Write complete files in the background while the block runs, see :meth:`write_files`.

        Writing stops if the block ends before all files are written, for example because of an error.

        :return: function that returns when all files are written, and raises the error of writing
        """
        with alongside(partial(self.write_files, files), self._stop) as written:
            yield written

    def _stop(self) -> None:
        """Let the threads that write files end soon."""
        self._stopped.set()
        for file in self._incomplete.copy():
            file.stop()

    def _write_file(self, part: str, rows: Iterable[pa.RecordBatch | pa.Table]) -> FileEntry | None:
        file: DataFile | None = None
        try:
            for data in rows:
                if file is None:
                    file = self._new_file(part, data)
                    self._incomplete.add(file)
                else:
                    self._check(data)
                if self._stopped.is_set():
                    raise CancelledError
                file.write(data)
            if file is None:
                return None
            entry = self._closed(file)
            if self._stopped.is_set():
                # A slow store may complete the file after the block has deleted the files.
                self.store.delete(file.key)
                raise CancelledError
            return entry
        except BaseException:
            if file is not None:
                file.discard()
            raise
        finally:
            if file is not None:
                self._incomplete.discard(file)

    def _check(self, data: pa.RecordBatch | pa.Table) -> None:
        """Check that the rows have the columns of the first rows of the dataset."""
        with self._lock:
            if self._schema is None:
                self._schema = data.schema.remove_metadata()
                self._columns = [ColumnEntry(name=field.name, type=str(field.type)) for field in self._schema]
            elif not data.schema.equals(self._schema):
                raise self._differ(schema_difference(self._schema, data.schema))

    def _new_file(self, part: str, data: pa.RecordBatch | pa.Table) -> DataFile:
        """Begin a file.

        :param data: first rows of the file
        """
        # Importing Arrow would take longer than a look-up of datasets, and most look-ups write no rows.
        from airflow_mlops.data.datasets.data_file import DataFile
        from airflow_mlops.data.encoding import parquet_options

        self._check(data)
        with self._lock:
            if self._options is None:
                self._options = parquet_options(data)
        return DataFile(self.store, f"{self._folder}/{uuid.uuid4().hex}.parquet", part, self._schema, self._options)

    def end_files(self) -> None:
        """Complete the files of all split parts. Rows that are written later begin new files."""
        for part, file in self._open.items():
            self._complete[part].append(self._closed(file))
        for entries in self._complete.values():
            self._included += entries
        self._open, self._complete = {}, {}

    def finish(self) -> WrittenFiles:
        """Complete the files without a manifest. The files remain when the block ends.

        No reader of datasets sees the files until another writer commits them, see :meth:`include`. ``airflow mlops
        clean`` deletes old files that no writer has committed.
        """
        self.end_files()
        self._committed = True
        return WrittenFiles(columns=self._columns, files=self._included)

    def include(self, written: WrittenFiles) -> None:
        """Append files that other writers of this dataset have finished. The rows are neither read nor copied.

        This writer must not write rows itself.

        :param written: the result of :meth:`finish` of another writer
        :raises SchemaError: columns or types differ from those of the files that were included earlier
        """
        if self._columns and self._columns != written.columns:
            expected, found = (
                {item.name: item.type for item in columns} for columns in (self._columns, written.columns)
            )
            raise self._differ(_difference(expected, found))
        self._columns = written.columns
        self._included += written.files

    def _differ(self, difference: str) -> SchemaError:
        return SchemaError(
            f"The rows written to dataset {self.name!r} differ in their columns: {difference}. Write rows with the same "
            "columns and types only."
        )

    def commit(
        self,
        *,
        window: Window | None = None,
        owner: str = "",
        description: str = "",
        source: dict[str, Any] | None = None,
        parents: Iterable[DatasetRef] = (),
        details: dict[str, Any] | None = None,
        provenance: Provenance | None = None,
        slots: Iterable[str] = (),
        time_column: str | None = None,
        current: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[Manifest, bool]:
        """Write the manifest, and make the dataset the current dataset of its window and slots, or the newest snapshot.

        If an identical dataset already exists, the existing dataset becomes the current dataset. The files just written
        are then deleted when the block ends.

        :param window: time window of the rows; ``None`` for a snapshot
        :param owner: person or team that is responsible for the dataset
        :param description: description of the dataset for people
        :param source: origin of the rows, without credentials
        :param parents: datasets from which this dataset was computed
        :param details: facts for the manifest, such as label, features and split
        :param provenance: Airflow task that wrote the dataset
        :param slots: slots that will point at this dataset, see :mod:`airflow_mlops.data.datasets`
        :param time_column: column with the time of each row, for readers whose window contains only a part of the
            dataset
        :param current: whether the dataset becomes the current dataset; if not, call :func:`make_current` afterwards
        :param check: function that is called before the manifest is written. All files are then complete, which may have
            taken long. If the function raises an error, nothing is committed
        :return: the manifest, and whether an identical dataset already existed
        :raises SchemaError: nothing was written, not even a batch without rows
        """
        if not self._open and not self._included:
            raise SchemaError(
                f"Dataset {self.name!r} has neither rows nor columns. Write at least one batch, which may have no rows."
            )
        self.end_files()
        manifest = self._manifest(
            self._included,
            window,
            owner,
            description,
            source,
            parents,
            details,
            provenance,
            time_column,
        )
        existing = _intact(self.store, manifest)
        check()
        if existing is not None:
            manifest = existing
        else:
            self.store.write_json(manifest_key(self.name, manifest.id), manifest.model_dump(mode="json"))
            self._committed = True
        if current:
            make_current(self.store, manifest, slots)
        return manifest, existing is not None

    def _closed(self, file: DataFile) -> FileEntry:
        entry = file.close()
        self._written.append(file.key)
        return entry

    def _manifest(
        self,
        files: list[FileEntry],
        window: Window | None,
        owner: str,
        description: str,
        source: dict[str, Any] | None,
        parents: Iterable[DatasetRef],
        details: dict[str, Any] | None,
        provenance: Provenance | None,
        time_column: str | None,
    ) -> Manifest:
        manifest = Manifest(
            id="",
            name=self.name,
            owner=owner,
            description=description,
            source=source or {},
            window=window,
            columns=self._columns,
            rows=sum(file.rows for file in files),
            files=files,
            # If a newer dataset covers a time in the middle of an older one, the older one is read twice: for the time
            # before and for the time after. It is listed once as a parent.
            parents=list(dict.fromkeys(parent.id for parent in parents)),
            # The details are stored in the form in which they are read again: all keys of JSON objects are text.
            details=json.loads(json.dumps(details or {}, allow_nan=False)),
            provenance=provenance or Provenance(),
            created=datetime.now(timezone.utc),
            time_column=time_column,
        )
        return manifest.model_copy(update={"id": manifest.identity()})


def make_current(store: ArtifactStore, manifest: Manifest, slots: Iterable[str] = ()) -> None:
    """Make a dataset the current dataset of its window and slots. Without a window, it becomes the newest snapshot."""
    named = list(slots)
    for slot in named:
        point_slot(store, manifest, slot)
    if manifest.window is None:
        point_snapshot(store, manifest)
        return
    point_window(store, manifest)
    if named:
        _follow(store, named[0], manifest)


def _follow(store: ArtifactStore, slot: str, pointed: Manifest) -> None:
    """If another writer has pointed the slot at a different dataset, point the window at this dataset too.

    Two writers may write their slots and windows in different orders. The writer that writes the window last finds the
    dataset of the slot here, so slot and window always agree in the end.

    :param pointed: the dataset to which this writer has pointed the window
    """
    for pause in pauses():
        current = slot_id(store, pointed.name, slot)
        if current is None or current == pointed.id:
            return
        pointed = read_manifest(store, pointed.name, current)
        if pointed.window is None:
            return
        point_window(store, pointed)
        time.sleep(pause)


def schema_difference(expected: pa.Schema, found: pa.Schema) -> str:
    """Return a clause for an error message that describes how two schemas differ."""
    return _difference(*({field.name: str(field.type) for field in schema} for schema in (expected, found)))


def _difference(expected_types: dict[str, str], found_types: dict[str, str]) -> str:
    problems = [f"column {name!r} is absent" for name in expected_types if name not in found_types]
    problems += [f"column {name!r} is new" for name in found_types if name not in expected_types]
    problems += [
        f"column {name!r} was {expected_types[name]} and is now {found_types[name]}"
        for name in expected_types
        if name in found_types and expected_types[name] != found_types[name]
    ]
    return ", ".join(problems) or "the order of the columns changed"


def _intact(store: ArtifactStore, manifest: Manifest) -> Manifest | None:
    """Return the manifest of an identical dataset in the store.

    The result is ``None`` if there is no such dataset, or if its files were changed or purged.
    """
    try:
        dataset = open_dataset(store, manifest.ref)
        dataset.verify_bytes()
    except (DatasetNotFoundError, DatasetCorruptError, DatasetPurgedError):
        return None
    # Another version of Arrow may have written other bytes. The hashes of the values are then compared.
    for file, new in zip(dataset.manifest.files, manifest.files, strict=True):
        if file.sha256 != new.sha256 and not dataset.has_rows(file, new.content):
            return None
    return dataset.manifest
