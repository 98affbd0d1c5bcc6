"""Read rows from files, given as fsspec URLs of files, glob patterns, folders or zip archives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import MalformedFileError, MLOpsError, SchemaError, one_line
from airflow_mlops.data.incoming.inference import untyped
from airflow_mlops.data.window_rows import inside
from airflow_mlops.stages.ingest.sources.data_files import find_data_files
from airflow_mlops.stages.ingest.sources.formats import READERS
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.sources.listing import FoundFile
from airflow_mlops.stages.ingest.sources.suffixes import format_of
from airflow_mlops.stages.ingest.sources.urls import file_url, without_credentials

if TYPE_CHECKING:
    from fsspec.core import OpenFile

    from airflow_mlops.data.incoming.types import ColumnTypes
    from airflow_mlops.stages.ingest.spec import IngestSpec


class FileSource:
    """The rows of all files that match the URLs of the spec. The files of a URL are read in order of their names."""

    def __init__(self, spec: IngestSpec) -> None:
        self.spec = spec
        self.files_read: list[dict[str, Any]] = []
        self.rows_without_time = 0
        self.ignored: list[str] = []
        self.notes: list[str] = []
        self._settled = False

    def is_settled(self) -> bool:
        """Return whether the source is a single Parquet file, so that the column types are known from the file."""
        return self._settled

    def cancel(self) -> bool:
        """Return ``False``, because reading a file cannot be cancelled. The reading ends when the process ends."""
        return False

    def describe(self) -> dict[str, Any]:
        """Return the origin of the rows for the manifest: URLs, files, and notes.

        Each file that was read so far has its URL, SHA-256 and size in bytes.
        """
        urls = [without_credentials(url) for url in self.spec.files]
        description: dict[str, Any] = {"kind": "files", "files": urls, "read": self.files_read}
        if self.ignored:
            description["ignored"] = self.ignored
        notes = list(self.notes)
        if skipped := self.rows_without_time:
            description["rows_without_time"] = skipped
            rows = counted(skipped, "row")
            notes.append(f"Skipped {rows} in which the time column {self.spec.time_column!r} is null.")
        return {**description, "notes": notes} if notes else description

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        """Stream the rows of the window in batches. All files must have the columns of the first file.

        :raises SchemaError: the columns of a file differ from those of the first file
        """
        first: pa.Schema | None = None
        found_files = find_data_files(self.spec)
        files = found_files.files
        self.ignored += found_files.ignored
        self.notes += found_files.notes
        for found in files:
            form = self.spec.format or format_of(found.file)
            self._settled = form == "parquet" and len(files) == 1
            source = SourceFile(
                found.file, self.spec, types, first, self.files_read, partition=found.partition, notes=self.notes
            )
            row = 0
            for batch in read_file(form, source):
                batch = types.convert(_with_partition(batch, found), row, source.url)
                if first is None:
                    first = batch.schema
                else:
                    batch = _aligned(batch, first, found.file)
                yield self._in_window(batch, found.file, row)
                row += batch.num_rows

    def _in_window(self, batch: pa.RecordBatch, file: OpenFile, row: int) -> pa.RecordBatch:
        """Return the rows of a batch that have a time in the window.

        :param row: number of rows before ``batch`` in the file
        """
        column, window = self.spec.time_column, self.spec.window
        if column is None or window is None:
            return batch
        what = f"The time column {column!r} of {file_url(file)}"
        chosen = inside(batch.column(column), window, what, first_row=row)
        self.rows_without_time += chosen.null_count
        return batch.filter(chosen)


def _aligned(batch: pa.RecordBatch, first: pa.Schema, file: OpenFile) -> pa.RecordBatch:
    """Return a batch with the columns in the order of the first file. The column types can differ.

    :param first: schema of the first file
    :param file: file of the batch, for the error message
    :raises SchemaError: a column of the first file is absent, or the batch has a column that the first file lacks
    """
    if batch.schema.names == first.names:
        return batch
    own, others = dict.fromkeys(batch.schema.names), dict.fromkeys(first.names)
    if own.keys() == others.keys():
        return batch.select(first.names)
    absent = [name for name in others if name not in own]
    new = [name for name in own if name not in others]
    differences = [f"column {name!r} is absent" for name in absent] + [f"column {name!r} is new" for name in new]
    raise SchemaError(
        f"The columns of {file_url(file)} differ from those of the first file: {', '.join(differences)}. Set `columns` "
        "to the columns that exist in all files."
    )


def read_file(form: str, file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a file in batches.

    :param form: format of the file: ``csv``, ``json``, ``jsonl`` or ``parquet``
    :raises MalformedFileError: the content of the file does not match the format
    """
    try:
        yield from READERS[form](file)
    except MLOpsError:
        raise
    except Exception as error:  # noqa: BLE001 - libraries raise many types for malformed files
        reason = without_credentials(one_line(error, 300))
        raise MalformedFileError(
            f"{file.url} could not be read as {form}: {reason}. Check that the file is complete, and that `format` "
            "is the format of the file."
        ) from None


def _with_partition(batch: pa.RecordBatch, found: FoundFile) -> pa.RecordBatch:
    """Append the partition columns from the folder names, except columns that the file itself contains."""
    own = set(batch.schema.names)
    new = {name: value for name, value in found.partition.items() if name not in own}
    if not new:
        return batch
    arrays = [pa.repeat(pa.scalar(value, pa.string()), batch.num_rows) for value in new.values()]
    schema = pa.schema([*batch.schema, *map(untyped, new)])
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema)
