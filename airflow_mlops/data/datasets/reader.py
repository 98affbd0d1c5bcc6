"""Reads the rows of a dataset, and verifies its files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError, named
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.files import Files, require_unpurged
from airflow_mlops.data.datasets.manifest import FileEntry, Manifest
from airflow_mlops.data.datasets.spans import batches_at
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TIMESTAMP_IS_DATE = "timestamp_is_date"
"""Key in the details of a manifest. It marks event times that are dates, converted to midnight in UTC."""


class Dataset:
    """A dataset opened for reading. The hash of each file is checked once, before the file is first read.

    :ivar sample_weight: name of the column with the weights of the rows in a training; ``None`` if the training has no
        such column
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self.sample_weight: str | None = None
        self._files = Files(store, manifest)

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

    @property
    def schema(self) -> pa.Schema:
        """Read the Arrow schema from the first file."""
        import pyarrow.parquet as pq

        with self._files.open(self.manifest.files[0]) as file:
            return pq.read_schema(file)

    def files(self, part: str | None = None) -> list[FileEntry]:
        """Return the files of a split part.

        :param part: name of the split part, such as ``train`` or ``test``; by default all files
        :raises DatasetNotFoundError: the dataset has no such split part
        :raises DatasetPurgedError: the files were deleted by a purge of old predictions
        """
        require_unpurged(self.manifest)
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
            if file.content and not self._files.has_rows(file, file.content):
                raise self._files.foreign(file)

    def verify_bytes(self, part: str | None = None) -> None:
        """Check that the content of each file has the SHA-256 that the manifest lists.

        :param part: name of a split part; by default all files are checked
        :raises DatasetCorruptError: a file does not exist or was changed
        """
        for file in self.files(part):
            self._files.verify(file)

    def has_rows(self, file: FileEntry, content: str) -> bool:
        """Return whether a file has the columns of the manifest, and values with the hash ``content``.

        :param file: the file
        :param content: hash of the values, see :attr:`FileEntry.content`
        :raises DatasetCorruptError: the file does not exist or was changed
        """
        return self._files.has_rows(file, content)

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
            with self._files.parquet(file) as parquet:
                if wanted is None:
                    yield from parquet.iter_batches(batch_rows, columns=names)
                else:
                    yield from batches_at(parquet, wanted, batch_rows, names)

    def row_groups(self, part: str | None = None) -> list[tuple[FileEntry, int]]:
        """List the row groups of the files, as pairs of a file and the number of the row group in this file.

        :param part: name of a split part; by default all files
        """
        import pyarrow.parquet as pq

        found = []
        for file in self.files(part):
            with self._files.open(file) as handle:
                found += [(file, number) for number in range(pq.read_metadata(handle).num_row_groups)]
        return found

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        """Read some columns of one row group.

        :param place: file and number of the row group, from :meth:`row_groups`
        :param columns: columns to read
        """
        import pyarrow as pa

        file, number = place
        with self._files.parquet(file) as parquet:
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
            with self._files.parquet(file) as parquet:
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
