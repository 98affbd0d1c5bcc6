"""Readers of file formats, one module per format. A reader streams the rows of a file, and records the file's hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from airflow_mlops.stages.ingest.sources.formats import csv, json, jsonl, parquet
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile

if TYPE_CHECKING:
    import pyarrow as pa

READERS: dict[str, Callable[[SourceFile], Iterator[pa.RecordBatch]]] = {
    "csv": csv.read,
    "json": json.read,
    "jsonl": jsonl.read,
    "parquet": parquet.read,
}
