"""Read JSON files. A file contains JSON Lines, or one JSON document with an array of records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from airflow_mlops.stages.ingest.sources.formats import jsonl
from airflow_mlops.stages.ingest.sources.formats.json_documents import records
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.sources.formats.text import decode

if TYPE_CHECKING:
    import pyarrow as pa


def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Stream the records of a JSON file in batches.

    :raises MalformedFileError: the file is not JSON
    :raises SchemaError: a value does not have the type of its column, or the user must set ``record_path``
    """
    path = file.spec.record_path
    path = [path] if isinstance(path, str) else path
    with file.hashed() as raw:
        chunks = decode(file, raw)
        start = next(chunks, b"")
        chunks = chain([start], chunks)
        if path is None and _is_lines(start):
            yield from jsonl.read_lines(file, chunks)
        else:
            yield from jsonl.read_blocks(file, records(file, chunks, path), "record")


def _is_lines(start: bytes) -> bool:
    """Return whether the first line is a JSON object and the second line begins with an object."""
    first, _, rest = start.lstrip().partition(b"\n")
    try:
        return isinstance(json.loads(first), dict) and rest.lstrip()[:1] == b"{"
    except (ValueError, RecursionError):
        return False
