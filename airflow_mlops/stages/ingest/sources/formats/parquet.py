"""Read Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fsspec.implementations.local import LocalFileSystem

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.int96 import find_overflow
from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 16_384
BATCH_BYTES = 64 << 20
# The first bytes of Parquet files without and with an encrypted footer.
_MAGIC = (b"PAR1", b"PARE")


def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a Parquet file in batches.

    :raises MalformedFileError: the file is not a Parquet file, or its rows are larger than the limit of 64 MB
    :raises SchemaError: an INT96 timestamp is too far from 1970 for 64-bit microseconds
    """
    import pyarrow.parquet as pq

    with _local_copy(file) as path:
        # INT96 timestamps have nanoseconds, but may lie outside the range of int64 nanoseconds. Spark and Hive write
        # them with microsecond precision.
        options = {"coerce_int96_timestamp_unit": "us", "page_checksum_verification": True}
        with pq.ParquetFile(path, **options) as parquet:
            wanted = file.wanted_columns(parquet.schema_arrow.names)
            batch_rows = _batch_rows(file, parquet.metadata)
            _check_int96(file, path, parquet.metadata, wanted, batch_rows)
            for batch in parquet.iter_batches(batch_rows, columns=wanted):
                batch = batch.select(wanted)
                # Arrow does not check that text is UTF-8.
                batch.validate(full=True)
                yield batch


def _check_int96(file: SourceFile, path: str, metadata: pq.FileMetaData, columns: list[str], batch_rows: int) -> None:
    """Check that no INT96 timestamp overflows in microseconds.

    :raises SchemaError: a timestamp overflows
    """
    found = find_overflow(path, metadata, columns, batch_rows=batch_rows)
    if found is not None:
        raise SchemaError(
            f"Column {found.column!r} of {file.url} contains a time in row {found.row:,} that is outside the years 1 to "
            f"9999: {found.seconds} seconds since 1970. Correct it in the source."
        )


def _batch_rows(file: SourceFile, metadata: pq.FileMetaData) -> int:
    """Return the number of rows to read at once. The number is smaller for larger rows, to limit memory use.

    :raises MalformedFileError: a row group has rows of more than 64 MB on average
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    if largest > source_file.MAX_RECORD_BYTES:
        raise file.malformed(
            f"has rows of {largest >> 20:,} MB on average, and the limit is {source_file.MAX_RECORD_BYTES >> 20} MB",
            "Store the large values as files, and their paths in a column.",
        )
    return min(BATCH_ROWS, max(1, BATCH_BYTES // max(largest, 1)))


@contextmanager
def _local_copy(file: SourceFile) -> Iterator[str]:
    """Return the path of the file on this machine.

    A remote or compressed file is copied to a temporary folder first, because Parquet needs random access.
    """
    with temporary_folder("ingest") as folder:
        local = isinstance(file.file.fs, LocalFileSystem) and file.file.compression is None
        path = Path(file.file.path) if local else folder / "copy.parquet"
        with file.hashed() as source:
            if not local:
                with path.open("wb") as copy:
                    block = source.read(1 << 20)
                    if not block.startswith(_MAGIC):
                        raise file.malformed("is not a Parquet file", "Check the file, or correct `format`.")
                    while block:
                        copy.write(block)
                        block = source.read(1 << 20)
        yield str(path)
