"""Readers of file formats, one module per format. A reader streams the rows of a file, and records the file's hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.ingest.sources.archives import ArchiveMember
from airflow_mlops.stages.ingest.sources.formats import csv, json, jsonl, parquet
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.sources.urls import file_url

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec.core import OpenFile

READERS: dict[str, Callable[[SourceFile], Iterator[pa.RecordBatch]]] = {
    "csv": csv.read,
    "json": json.read,
    "jsonl": jsonl.read,
    "parquet": parquet.read,
}

_SUFFIXES = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")


def format_of(file: OpenFile) -> str:
    """Return the format that the suffix of a file name implies. A compression suffix, such as ``.gz``, is ignored.

    :raises SpecError: the suffix is unknown
    """
    names = [str(file.path)]
    if isinstance(file, ArchiveMember):
        names = [*names, file.member] if file.is_alone else [file.member]
    for name in names:
        name = name.lower()
        for suffix in _COMPRESSED:
            name = name.removesuffix(suffix)
        for suffix, kind in _SUFFIXES.items():
            if name.endswith(suffix):
                return kind
    raise SpecError(
        f"The name of {file_url(file)} does not end with the suffix of a known format. Set `format` to 'csv', 'json', "
        "'jsonl' or 'parquet', or leave the file out with a glob pattern, such as *.csv."
    )
