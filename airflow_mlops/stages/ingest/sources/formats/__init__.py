"""File formats: one module each. A reader streams the rows of one file and adds the file's hash to the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.ingest.sources.formats import csv, jsonl, parquet
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.sources.urls import file_url

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec.core import OpenFile

READERS: dict[str, Callable[[SourceFile], Iterator[pa.RecordBatch]]] = {
    "csv": csv.read,
    "jsonl": jsonl.read,
    "parquet": parquet.read,
}

_SUFFIXES = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def format_of(file: OpenFile) -> str:
    """The format that the suffix of a file's name implies.

    :raises SpecError: the suffix is unknown
    """
    path = str(file.path)
    for suffix in _COMPRESSED:
        path = path.removesuffix(suffix)
    for suffix, kind in _SUFFIXES.items():
        if path.endswith(suffix):
            return kind
    raise SpecError(
        f"The format of {file_url(file)} is not clear from its name. Set format='csv', 'jsonl' or 'parquet'."
    )
