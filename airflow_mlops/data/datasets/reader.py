"""Reads the rows of a dataset, and verifies its files."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, DatasetPurgedError, SchemaError, named
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.manifest import FileEntry, Manifest, manifest_key, parse_manifest
from airflow_mlops.data.store import SMALL_BYTES, ArtifactStore

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

_Rows = TypeVar("_Rows", "pa.RecordBatch", "pa.Table")


TIMESTAMP_IS_DATE = "timestamp_is_date"
"""Key in the details of a manifest. It marks event times that are dates, converted to midnight in UTC."""


class _Recent:
    """A cache of the small files that were read last, by URL and hash.

    Steps read the same files several times, and files never change.

    :param limit: maximum size of all files together, in bytes
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            content = self._contents.get(key)
            if content is not None:
                self._contents.move_to_end(key)
            return content

    def keep(self, key: str, content: bytes) -> None:
        with self._lock:
            self._bytes += len(content) - len(self._contents.pop(key, b""))
            self._contents[key] = content
            while self._bytes > self._limit:
                self._bytes -= len(self._contents.popitem(last=False)[1])


_RECENT = _Recent(4 * SMALL_BYTES)


class Dataset:
    """A dataset opened for reading. The hash of each file is checked once, before the file is first read.

    :ivar sample_weight: name of the column with the weights of the rows in a training; ``None`` if the training has no
        such column
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self.sample_weight: str | None = None
        self._verified: set[str] = set()

    def weighted(self, column: str | None) -> Dataset:
        """Return a copy of this dataset with a different :attr:`sample_weight`.

        :class:`airflow_mlops.data.row_weights.RowWeights` reads the weights in this column.

        :param column: name of the column of weights; ``None`` if the training has no such column
        """
        found = copy(self)
        found.sample_weight = column
        return found

    @property
    def ref(self) -> DatasetRef:
        """Return a reference to the dataset."""
        return self.manifest.ref

    @property
    def window(self) -> Window | None:
        """Return the time window of the rows; ``None`` for a snapshot."""
        return self.manifest.window

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return self.manifest.rows

    @property
    def time_column(self) -> str | None:
        """Return the name of the column with the time of each row, or ``None`` if the dataset does not record one."""
        return self.manifest.time_column or self.manifest.details.get("timestamp")

    def has_dates(self, time_column: str) -> bool:
        """Return whether the timestamps of a column are dates that were converted to midnight in UTC.

        :param time_column: name of the column
        """
        details = self.manifest.details
        return bool(details.get(TIMESTAMP_IS_DATE) and details.get("timestamp") == time_column)

    def within(self, window: Window, time_column: str) -> Dataset:
        """Return a dataset with only the rows of this dataset whose time lies in ``window``.

        :param time_column: name of the column with the time of each row
        :raises SchemaError: the dataset has no such column
        """
        return DatasetSlice(self.store, self.manifest, window, time_column)

    def chosen(self, part: str | None, rows: NDArray[np.bool_]) -> Dataset:
        """Return a dataset with only some rows of a split part of this dataset.

        :param part: name of the split part; ``None`` for all rows
        :param rows: whether each row of the split part is kept, shape (n,)
        """
        return DatasetRows(self.store, self.manifest, part, rows).weighted(self.sample_weight)

    @property
    def schema(self) -> pa.Schema:
        """Read the Arrow schema from the first file."""
        import pyarrow.parquet as pq

        with self._open(self.manifest.files[0]) as file:
            return pq.read_schema(file)

    def files(self, part: str | None = None) -> list[FileEntry]:
        """Return the files of a split part.

        :param part: name of the split part, such as ``train`` or ``test``; by default all files
        :raises DatasetNotFoundError: the dataset has no such split part
        :raises DatasetPurgedError: the files were deleted by a purge of old predictions
        """
        if self.manifest.purged is not None:
            window = f" of the window {self.manifest.window.label}" if self.manifest.window else ""
            raise DatasetPurgedError(
                f"The rows of dataset {self.manifest.name!r} ({self.manifest.id[:12]}){window} were deleted on "
                f"{self.manifest.purged:%Y-%m-%d} by PurgePredictionsOperator or `airflow mlops purge`; only the "
                "manifest remains. If you need the rows, run the task that writes this dataset once more."
            )
        files = [file for file in self.manifest.files if part is None or file.part == part]
        if not files:
            parts = ", ".join(sorted({file.part for file in self.manifest.files}))
            raise DatasetNotFoundError(
                f"Dataset {self.manifest.name!r} has no split part {part!r}. Choose one of: {parts}."
            )
        return files

    def verify(self, part: str | None = None) -> None:
        """Check all rows against the id of the dataset.

        Reading a file checks only its bytes, against the SHA-256 in the manifest. The id depends on columns, numbers of
        rows and hashes of values, and not on the bytes. This method therefore also finds rows that were changed
        together with the SHA-256. In manifests of format 1, the id depends on the SHA-256.

        :param part: name of a split part; by default all files are checked
        :raises DatasetCorruptError: a file does not exist or was changed
        """
        self.verify_bytes(part)
        for file in self.files(part):
            if file.content and not self.has_rows(file, file.content):
                raise self._not_of_this_dataset(file)

    def verify_bytes(self, part: str | None = None) -> None:
        """Check that the content of each file has the SHA-256 that the manifest lists.

        :param part: name of a split part; by default all files are checked
        :raises DatasetCorruptError: a file does not exist or was changed
        """
        for file in self.files(part):
            self._verify(file)

    def _verify(self, file: FileEntry) -> None:
        if file.path not in self._verified:
            with self._required(file):
                self._check(file, self.store.sha256(file.path))

    @contextmanager
    def _required(self, file: FileEntry) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._require_unpurged()
            raise DatasetCorruptError(
                f"File {self.store.url_of(file.path)} of dataset {self.manifest.name!r} ({self.manifest.id[:12]}) does not "
                "exist. Restore the file, or clear the task that wrote the dataset."
            ) from error

    def _require_unpurged(self) -> None:
        """Check that the files were not purged after the dataset was opened.

        :raises DatasetPurgedError: the files were purged
        """
        name, dataset_id = self.manifest.name, self.manifest.id
        key = manifest_key(name, dataset_id)
        with suppress(FileNotFoundError):
            Dataset(
                self.store, parse_manifest(self.store.read_bytes(key), name, dataset_id, self.store.url_of(key))
            ).files()

    def _check(self, file: FileEntry, found: str) -> None:
        if found != file.sha256:
            raise DatasetCorruptError(
                f"Dataset {self.manifest.name!r} ({self.manifest.id[:12]}) was changed after it was written. File "
                f"{self.store.url_of(file.path)} has SHA-256 {found[:12]}…, but its manifest lists "
                f"{file.sha256[:12]}…. Restore the file, or delete it and clear the task that wrote the dataset."
            )
        self._verified.add(file.path)

    @contextmanager
    def _open(self, file: FileEntry) -> Iterator[Any]:
        with self._required(file):
            if self.store.local_path(file.path) is None and file.bytes <= SMALL_BYTES:
                yield BytesIO(self._small(file))
                return
            self._verify(file)
            with self.store.open(file.path) as opened:
                yield opened

    @contextmanager
    def _parquet(self, file: FileEntry) -> Iterator[pq.ParquetFile]:
        # Arrow is imported here. Most look-ups of datasets read no rows, and take less time than this import.
        import pyarrow.parquet as pq

        with self._open(file) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
            yield parquet

    def _small(self, file: FileEntry) -> bytes:
        """Read a small file of an object store with one request."""
        # A changed manifest may list another hash for the same file.
        key = f"{self.store.url_of(file.path)}#{file.sha256}"
        if (content := _RECENT.get(key)) is None:
            content = self.store.read_bytes(file.path)
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
            with self._parquet(file) as parquet:
                if _columns(parquet.schema_arrow) != [(item.name, _type(item.type)) for item in self.manifest.columns]:
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

    def _not_of_this_dataset(self, file: FileEntry) -> DatasetCorruptError:
        return DatasetCorruptError(
            f"The rows in file {self.store.url_of(file.path)} are not those of dataset {self.manifest.name!r} "
            f"({self.manifest.id[:12]}): the file and its SHA-256 in the manifest were changed after the dataset was "
            "written. Restore both, or delete the file and clear the task that wrote the dataset."
        )

    def batches(
        self,
        part: str | None = None,
        columns: Sequence[str] | None = None,
        batch_rows: int = 65_536,
        span: range | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows in batches. Memory use does not depend on the size of the dataset.

        :param part: name of a split part; by default all rows are read
        :param columns: columns to read; all by default
        :param batch_rows: maximum number of rows in a batch
        :param span: positions of the rows to read, counted from 0 in the files of the split part; all by default. Only
            the files and row groups with these rows are read
        :raises SchemaError: one of ``columns`` is absent
        """
        self.require_columns(columns or ())
        names = list(columns) if columns is not None else None
        first = 0
        for file in self.files(part):
            wanted = None if span is None else range(max(0, span.start - first), min(file.rows, span.stop - first))
            first += file.rows
            if wanted is not None and not wanted:
                continue
            with self._parquet(file) as parquet:
                if wanted is None:
                    yield from parquet.iter_batches(batch_rows, columns=names)
                else:
                    yield from _batches_of(parquet, wanted, batch_rows, names)

    def row_groups(self, part: str | None = None) -> list[tuple[FileEntry, int]]:
        """List the row groups of the files, as pairs of a file and the number of the row group in this file.

        :param part: name of a split part; by default all files
        """
        import pyarrow.parquet as pq

        found = []
        for file in self.files(part):
            with self._open(file) as handle:
                found += [(file, number) for number in range(pq.read_metadata(handle).num_row_groups)]
        return found

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        """Read some columns of one row group.

        :param place: file and number of the row group, from :meth:`row_groups`
        :param columns: columns to read
        """
        import pyarrow as pa

        file, number = place
        with self._parquet(file) as parquet:
            table = parquet.read_row_group(number, columns=list(columns)).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def table(self, part: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows, or the rows of a split part, as one Arrow table.

        :param part: name of a split part; by default all rows are read
        :param columns: columns to read; all by default
        :raises SchemaError: one of ``columns`` is absent
        """
        import pyarrow as pa

        self.require_columns(columns or ())
        names = list(columns) if columns is not None else None
        tables = []
        for file in self.files(part):
            # Threads of Arrow may still hold objects of Python when the process ends. This aborts the process.
            with self._parquet(file) as parquet:
                rows = parquet.read(columns=names, use_threads=False)
            tables.append(rows if names is None else rows.select(names))
        return pa.concat_tables(tables)

    def to_pandas(self, part: str | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read all rows, or the rows of a split part, as a pandas DataFrame.

        :param part: name of a split part; by default all rows are read
        :param columns: columns to read; all by default
        :raises SchemaError: one of ``columns`` is absent
        """
        return self.table(part, columns).to_pandas()

    def require_columns(self, columns: Iterable[str]) -> None:
        """Check that the dataset has all of ``columns``.

        :raises SchemaError: a column is absent. The message lists all absent columns
        """
        present = self.manifest.column_names
        missing = [column for column in columns if column not in present]
        if missing:
            raise SchemaError(
                f"Dataset {self.manifest.name!r} has no {named('column', missing)}. "
                f"Correct the name. The columns are: {', '.join(present)}."
            )


def _batches_of(
    parquet: pq.ParquetFile, wanted: range, batch_rows: int, columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    """Stream the rows at the positions ``wanted`` of a file in batches of ``batch_rows``; the last may be smaller."""
    import pyarrow as pa

    groups, skipped, first = [], 0, 0
    for number in range(parquet.num_row_groups):
        end = first + parquet.metadata.row_group(number).num_rows
        if end <= wanted.start:
            skipped = end
        elif first < wanted.stop:
            groups.append(number)
        first = end
    skipped, left = wanted.start - skipped, len(wanted)
    held: list[pa.RecordBatch] = []
    for batch in parquet.iter_batches(batch_rows, row_groups=groups, columns=columns):
        kept = batch.slice(min(skipped, batch.num_rows), left)
        skipped, left = max(0, skipped - batch.num_rows), left - kept.num_rows
        while kept.num_rows:
            held.append(kept.slice(0, batch_rows - sum(item.num_rows for item in held)))
            kept = kept.slice(held[-1].num_rows)
            if left + kept.num_rows == 0 or sum(item.num_rows for item in held) == batch_rows:
                yield held[0] if len(held) == 1 else pa.Table.from_batches(held).combine_chunks().to_batches()[0]
                held = []
        if not left:
            return


def _columns(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, _type(str(field.type))) for field in schema]


def _type(text: str) -> str:
    # Parquet does not keep the name of the items of a list.
    return re.sub(r"(list(?:_view)?)<[^:<>]*: ", r"\1<", text)


class DatasetSlice(Dataset):
    """The rows of a dataset whose time lies in a window.

    :param store: the artifact store
    :param manifest: manifest of the dataset
    :param window: time window of the rows
    :param time_column: name of the column with the time of each row
    :raises SchemaError: the dataset has no such column
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest, window: Window, time_column: str) -> None:
        super().__init__(store, manifest)
        self._window = window
        self._time_column = time_column
        self.require_columns([time_column])

    @property
    def window(self) -> Window | None:
        return self._window

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches(columns=[self._time_column]))

    @property
    def time_column(self) -> str | None:
        return self._time_column

    def batches(
        self,
        part: str | None = None,
        columns: Sequence[str] | None = None,
        batch_rows: int = 65_536,
        span: range | None = None,
    ) -> Iterator[pa.RecordBatch]:
        for batch in super().batches(part, self._read(columns), batch_rows, span):
            yield self._chosen(batch, columns)

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        return self._chosen(super().read_row_group(place, self._read(columns) or []), columns)

    def table(self, part: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        return self._chosen(super().table(part, self._read(columns)), columns)

    def _read(self, columns: Sequence[str] | None) -> list[str] | None:
        return None if columns is None else list(dict.fromkeys([*columns, self._time_column]))

    def _chosen(self, rows: _Rows, columns: Sequence[str] | None) -> _Rows:
        chosen = rows.filter(self._inside(rows[self._time_column]))
        return chosen if columns is None else chosen.select(list(columns))

    def _inside(self, times: Any) -> Any:
        from airflow_mlops.data.window_rows import inside

        what = f"The time column {self._time_column!r} of dataset {self.manifest.name!r}"
        if times.null_count:
            raise SchemaError(
                f"{what} is null in {counted(times.null_count, 'row')}, so it is not known whether these rows lie in the window "
                f"{self._window.label}. Choose a window that contains the whole dataset."
            )
        return inside(times, self._window, what, dates=self.has_dates(self._time_column))


class DatasetRows(Dataset):
    """Some rows of a split part of a dataset. The other split parts cannot be read.

    :param store: the artifact store
    :param manifest: manifest of the dataset
    :param part: name of the split part; ``None`` for all rows
    :param rows: whether each row of the split part is kept, shape (n,)
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest, part: str | None, rows: NDArray[np.bool_]) -> None:
        super().__init__(store, manifest)
        self._part = part
        self._kept = rows
        # Position of the first row of each row group, by file and number of the row group.
        self._first: dict[tuple[str, int], int] = {}

    @property
    def rows(self) -> int:
        return int(self._kept.sum())

    def files(self, part: str | None = None) -> list[FileEntry]:
        if part != self._part:
            raise DatasetNotFoundError(
                f"Only rows of split part {self._part!r} of dataset {self.manifest.name!r} are chosen. Read this split part."
            )
        return super().files(part)

    def batches(
        self,
        part: str | None = None,
        columns: Sequence[str] | None = None,
        batch_rows: int = 65_536,
        span: range | None = None,
    ) -> Iterator[pa.RecordBatch]:
        first = span.start if span is not None else 0
        for batch in super().batches(part, columns, batch_rows, span):
            yield batch.filter(self._mask(first, batch.num_rows))
            first += batch.num_rows

    def row_groups(self, part: str | None = None) -> list[tuple[FileEntry, int]]:
        import pyarrow.parquet as pq

        found, first = [], 0
        for file in self.files(part):
            with self._open(file) as handle:
                metadata = pq.read_metadata(handle)
            for number in range(metadata.num_row_groups):
                rows = metadata.row_group(number).num_rows
                self._first[file.path, number] = first
                if self._kept[first : first + rows].any():
                    found.append((file, number))
                first += rows
        return found

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        file, number = place
        rows = super().read_row_group(place, columns)
        if not self._first:
            self.row_groups(self._part)
        return rows.filter(self._mask(self._first[file.path, number], rows.num_rows))

    def table(self, part: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        return super().table(part, columns).filter(self._mask(0, len(self._kept)))

    def _mask(self, first: int, rows: int) -> pa.BooleanArray:
        import pyarrow as pa

        return pa.array(self._kept[first : first + rows])
