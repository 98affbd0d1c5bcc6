"""Reads the rows of a dataset, and verifies its files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, DatasetPurgedError, SchemaError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets.manifest import FileEntry, Manifest
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    import pandas as pd


class Dataset:
    """A dataset opened for reading. The hash of each file is checked once, before the file is first read."""

    def __init__(self, store: ArtifactStore, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self._verified: set[str] = set()

    @property
    def ref(self) -> DatasetRef:
        """Return a reference to the dataset."""
        return self.manifest.ref

    @property
    def schema(self) -> pa.Schema:
        """Read the Arrow schema from the first file."""
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
        """Check that the content of each file has the SHA-256 that the manifest lists.

        :param part: name of a split part; by default all files are checked
        :raises DatasetCorruptError: a file does not exist or was changed
        """
        for file in self.files(part):
            if file.path in self._verified:
                continue
            name, dataset_id = self.manifest.name, self.manifest.id[:12]
            try:
                found = self.store.sha256(file.path)
            except FileNotFoundError as error:
                raise DatasetCorruptError(
                    f"File {self.store.url_of(file.path)} of dataset {name!r} ({dataset_id}) does not exist. "
                    "Restore the file, or clear the task that wrote the dataset."
                ) from error
            if found != file.sha256:
                raise DatasetCorruptError(
                    f"Dataset {name!r} ({dataset_id}) was changed after it was written. File "
                    f"{self.store.url_of(file.path)} has SHA-256 {found[:12]}…, but its manifest lists "
                    f"{file.sha256[:12]}…. Restore the file, or delete it and clear the task that wrote the dataset."
                )
            self._verified.add(file.path)

    def _open(self, file: FileEntry) -> Any:
        self.verify(file.part)
        return self.store.fs.open(self.store.path(file.path), "rb")

    def batches(
        self, part: str | None = None, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows in batches. Memory use does not depend on the size of the dataset.

        :param part: name of a split part; by default all rows are read
        :param columns: columns to read; all by default
        :param batch_rows: maximum number of rows in a batch
        :raises SchemaError: one of ``columns`` is absent
        """
        self.require_columns(columns or ())
        for file in self.files(part):
            with self._open(file) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
                yield from parquet.iter_batches(batch_rows, columns=list(columns) if columns is not None else None)

    def row_groups(self, part: str | None = None) -> list[tuple[FileEntry, int]]:
        """List the row groups of all files. Each is a pair of the file and the number of the row group in the file."""
        found = []
        for file in self.files(part):
            with self._open(file) as handle:
                found += [(file, number) for number in range(pq.read_metadata(handle).num_row_groups)]
        return found

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        """Read one row group.

        :param place: file and number of the row group, from :meth:`row_groups`
        """
        file, number = place
        with self._open(file) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
            table = parquet.read_row_group(number, columns=list(columns)).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def table(self, part: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows, or the rows of a split part, as one Arrow table."""
        self.require_columns(columns or ())
        tables = []
        for file in self.files(part):
            with self._open(file) as handle:
                tables.append(pq.read_table(handle, columns=list(columns) if columns is not None else None))
        return pa.concat_tables(tables)

    def to_pandas(self, part: str | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read all rows, or the rows of a split part, as a pandas DataFrame."""
        return self.table(part, columns).to_pandas()

    def require_columns(self, columns: Iterable[str]) -> None:
        """Check that the dataset has all of ``columns``.

        :raises SchemaError: a column is absent. The message lists all absent columns
        """
        present = self.manifest.column_names
        missing = [column for column in columns if column not in present]
        if missing:
            raise SchemaError(
                f"Dataset {self.manifest.name!r} has no column {', '.join(map(repr, missing))}. "
                f"Correct the name. The columns are: {', '.join(present)}."
            )
