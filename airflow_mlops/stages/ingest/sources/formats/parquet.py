"""Reads Parquet files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fsspec.implementations.local import LocalFileSystem

from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 16_384


def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a Parquet file."""
    import pyarrow.parquet as pq

    # INT96 holds nanoseconds, but with dates that int64 nanoseconds cannot hold. Spark and Hive write it with microseconds.
    with _local_copy(file) as path, pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as parquet:
        wanted = file.wanted_columns(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=wanted):
            yield batch.select(wanted)


@contextmanager
def _local_copy(file: SourceFile) -> Iterator[str]:
    """Provide a path on this machine. A remote or compressed file is copied, because Parquet needs random access."""
    with tempfile.TemporaryDirectory(prefix="mlops-ingest-") as folder:
        local = isinstance(file.file.fs, LocalFileSystem) and file.file.compression is None
        path = Path(file.file.path) if local else Path(folder) / "copy.parquet"
        with file.hashed() as source:
            if not local:
                with path.open("wb") as copy:
                    while block := source.read(1 << 20):
                        copy.write(block)
        yield str(path)
