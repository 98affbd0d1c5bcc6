"""Reads rows from files, given as fsspec URLs or glob patterns."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError, SourceError, SpecError
from airflow_mlops.data.moments import UTC, as_utc
from airflow_mlops.stages.ingest.sources.formats import READERS, format_of
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.sources.urls import file_url, without_credentials

if TYPE_CHECKING:
    from fsspec.core import OpenFile

    from airflow_mlops.stages.ingest.sources.types import ColumnTypes
    from airflow_mlops.stages.ingest.spec import IngestSpec


class FileSource:
    """The rows of the files that match the spec's URLs. The files of one URL are read in the order of their names."""

    def __init__(self, spec: IngestSpec) -> None:
        self.spec = spec
        self.files_read: list[dict[str, Any]] = []
        self.rows_without_time = 0
        self._settled = False

    def is_settled(self) -> bool:
        """Return whether the types are those of a single Parquet file."""
        return self._settled

    def cancel(self) -> bool:
        """Return ``False``, because reading a file cannot be interrupted. It ends with the process."""
        return False

    def describe(self) -> dict[str, Any]:
        """Return the URLs of the spec and, for each file read so far, its URL, SHA-256 and size in bytes."""
        urls = [without_credentials(url) for url in self.spec.files]
        description = {"kind": "files", "files": urls, "read": self.files_read}
        return {**description, "rows_without_time": self.rows_without_time} if self.rows_without_time else description

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        """Stream the rows in the window. All files must have the same columns as the first file."""
        first: pa.Schema | None = None
        files = list(self._open_files())
        for file in files:
            form = self.spec.format or format_of(file)
            self._settled = form == "parquet" and len(files) == 1
            read = READERS[form]
            row = 0
            with _read_errors(file):
                for batch in read(SourceFile(file, self.spec, types, first, self.files_read)):
                    batch = types.convert(batch, row, file_url(file))
                    if first is not None:
                        batch = _aligned(batch, first, file)
                    first = first or batch.schema
                    yield self._in_window(batch, file, row)
                    row += batch.num_rows

    def _open_files(self) -> Iterator[OpenFile]:
        for url in self.spec.files:
            public = without_credentials(url)
            try:
                found = fsspec.open_files(url, "rb", compression="infer")
            except ImportError as error:
                raise SpecError(
                    f"{public} cannot be opened where the step runs: {error}. Install the missing package there."
                ) from None
            except ValueError as error:
                raise SpecError(f"{public} is not a URL that fsspec can open: {error}. Correct `files`.") from None
            except (OSError, zipfile.BadZipFile) as error:
                raise SourceError(
                    f"{public} could not be opened: {without_credentials(str(error))}. Check that it exists and can be "
                    "read."
                ) from None
            if not found:
                raise SourceError(f"No file matches {public}. Check that the file has arrived, or correct `files`.")
            yield from sorted(found, key=lambda file: str(file.path))

    def _in_window(self, batch: pa.RecordBatch, file: OpenFile, row: int) -> pa.RecordBatch:
        """Select the rows with a time in the window.

        :param row: number of rows before ``batch`` in the file
        """
        column, window = self.spec.time_column, self.spec.window
        if column is None or window is None:
            return batch
        times = as_utc(batch.column(column), f"The time column {column!r} of {file_url(file)}", first_row=row)
        self.rows_without_time += times.null_count
        start, end = (pa.scalar(bound, UTC) for bound in (window.start, window.end))
        return batch.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))


def _aligned(batch: pa.RecordBatch, first: pa.Schema, file: OpenFile) -> pa.RecordBatch:
    """Reorder the columns of a batch as in the first file. Their types may differ.

    :param first: schema of the first file
    :raises SchemaError: columns are absent or new
    """
    if batch.schema.names == first.names:
        return batch
    if set(batch.schema.names) == set(first.names):
        return batch.select(first.names)
    absent = [name for name in first.names if name not in batch.schema.names]
    new = [name for name in batch.schema.names if name not in first.names]
    differences = [f"column {name!r} is absent" for name in absent] + [f"column {name!r} is new" for name in new]
    raise SchemaError(
        f"The columns of {file_url(file)} differ from those of the first file: {', '.join(differences)}. Set `columns` "
        "to the columns that exist in all files."
    )


@contextmanager
def _read_errors(file: OpenFile) -> Iterator[None]:
    """Convert exceptions raised while a file is read to a :class:`SourceError` that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(
            f"{file_url(file)} does not exist. Check that the file has arrived, or correct `files`."
        ) from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException, ValueError) as error:
        reason = without_credentials(" ".join(str(error).split())).rstrip(".")
        raise SourceError(
            f"{file_url(file)} could not be read: {reason}. Check that the file is complete, and that `format` is its "
            "format."
        ) from None
