"""Reading a dataset."""

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
        return self.manifest.ref

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, read from the first file."""
        with self._open(self.manifest.files[0]) as file:
            return pq.read_schema(file)

    def files(self, part: str | None = None) -> list[FileEntry]:
        """The files of ``part``; of all parts by default.

        :raises DatasetNotFoundError: the dataset has no such part
        :raises DatasetPurgedError: retention deleted the files
        """
        if self.manifest.purged is not None:
            window = f" of {self.manifest.window.label}" if self.manifest.window else ""
            raise DatasetPurgedError(
                f"Dataset {self.manifest.name} ({self.manifest.id[:12]}){window} was deleted by retention on "
                f"{self.manifest.purged:%Y-%m-%d}. Only its manifest remains; run the task that writes this dataset again "
                "if you need the rows."
            )
        files = [file for file in self.manifest.files if part is None or file.part == part]
        if not files:
            parts = ", ".join(sorted({file.part for file in self.manifest.files}))
            raise DatasetNotFoundError(f"Dataset {self.manifest.name} has no part {part!r}. Its parts are: {parts}.")
        return files

    def verify(self, part: str | None = None) -> None:
        """Compare every file with its hash in the manifest.

        :raises DatasetCorruptError: a file is missing or was changed
        """
        for file in self.files(part):
            if file.path in self._verified:
                continue
            name, dataset_id = self.manifest.name, self.manifest.id[:12]
            try:
                found = self.store.sha256(file.path)
            except FileNotFoundError as error:
                raise DatasetCorruptError(
                    f"File {self.store.url_of(file.path)} of dataset {name} ({dataset_id}) is missing. "
                    "Restore the file, or clear the task that wrote the dataset to write it again."
                ) from error
            if found != file.sha256:
                raise DatasetCorruptError(
                    f"Dataset {name} ({dataset_id}) was changed after it was written: {self.store.url_of(file.path)} "
                    f"has SHA-256 {found[:12]}…, but its manifest lists {file.sha256[:12]}…. "
                    "Restore the file, or delete it and clear the task that wrote the dataset."
                )
            self._verified.add(file.path)

    def _open(self, file: FileEntry) -> Any:
        self.verify(file.part)
        return self.store.fs.open(self.store.path(file.path), "rb")

    def batches(
        self, part: str | None = None, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows in batches of at most ``batch_rows``; memory use does not depend on the dataset's size.

        :raises SchemaError: one of ``columns`` does not exist
        """
        self.require_columns(columns or ())
        for file in self.files(part):
            with self._open(file) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
                yield from parquet.iter_batches(batch_rows, columns=list(columns) if columns is not None else None)

    def row_groups(self, part: str | None = None) -> list[tuple[FileEntry, int]]:
        """The row groups of all files, each as a file and the row group's number in it."""
        found = []
        for file in self.files(part):
            with self._open(file) as handle:
                found += [(file, number) for number in range(pq.read_metadata(handle).num_row_groups)]
        return found

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        """The rows of one row group, given as :meth:`row_groups` returns it."""
        file, number = place
        with self._open(file) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
            table = parquet.read_row_group(number, columns=list(columns)).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def table(self, part: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as one Arrow table."""
        self.require_columns(columns or ())
        tables = []
        for file in self.files(part):
            with self._open(file) as handle:
                tables.append(pq.read_table(handle, columns=list(columns) if columns is not None else None))
        return pa.concat_tables(tables)

    def to_pandas(self, part: str | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows as a pandas DataFrame."""
        return self.table(part, columns).to_pandas()

    def require_columns(self, columns: Iterable[str]) -> None:
        """Check that all of ``columns`` exist.

        :raises SchemaError: lists the missing columns
        """
        present = self.manifest.column_names
        missing = [column for column in columns if column not in present]
        if missing:
            raise SchemaError(
                f"Dataset {self.manifest.name} has no column {', '.join(map(repr, missing))}. "
                f"Its columns are: {', '.join(present)}."
            )
