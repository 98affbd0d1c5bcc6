"""A file of a source, with its expected columns and types and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.moments import is_time
from airflow_mlops.data.types import common_type
from airflow_mlops.stages.ingest.sources.urls import file_url

if TYPE_CHECKING:
    from fsspec.core import OpenFile

    from airflow_mlops.stages.ingest.sources.types import ColumnTypes
    from airflow_mlops.stages.ingest.spec import IngestSpec

# Size of the blocks in which Arrow parses a text file. Types that are not known are inferred from the first block.
BLOCK_BYTES = 4 << 20


@dataclass
class SourceFile:
    """A file of a source.

    :param file: opened lazily by fsspec
    :param spec: parameters of the ingestion
    :param types: column types that are known before the file is read
    :param first: schema of the first file, which all files must have; ``None`` for the first file
    :param files_read: list to which the file's URL, SHA-256 and size are appended after the file was read completely
    """

    file: OpenFile
    spec: IngestSpec
    types: ColumnTypes
    first: pa.Schema | None
    files_read: list[dict[str, Any]]

    @property
    def url(self) -> str:
        """Return the URL of the file, without credentials."""
        return file_url(self.file)

    def known_types(self) -> dict[str, pa.DataType]:
        """Return the types of the first file by column; empty if this is the first file."""
        return dict(zip(self.first.names, self.first.types, strict=True)) if self.first else {}

    def column_types(self, guessed: pa.Schema) -> dict[str, pa.DataType]:
        """Return the type by column with which Arrow reads a JSON file.

        Columns that Arrow would parse as dates or times are read as text, because raw data is archived unchanged.

        :param guessed: schema that Arrow inferred from the first block
        """
        known = {**self.types.earlier, **self.known_types()}
        kinds = {}
        for field in guessed:
            if declared := self.types.declared.get(field.name):
                counts_units = pa.types.is_timestamp(declared) and pa.types.is_integer(field.type)
                kinds[field.name] = field.type if counts_units else read_as(declared)
                continue
            kind = _times_as_text(field.type)
            # A wider type of another file or window holds these values as well.
            before = known.get(field.name)
            kinds[field.name] = (common_type(kind, read_as(before)) if before is not None else None) or kind
        return kinds

    def wanted_columns(self, present: Sequence[str]) -> list[str]:
        """Return the columns to read: those of ``columns`` (by default all) and the time column.

        :param present: columns of the file
        :raises SchemaError: a column to read is absent, or two columns have the same name
        """
        columns, time = self.spec.columns, self.spec.time_column
        twice = sorted({name for name in present if present.count(name) > 1})
        if twice:
            raise SchemaError(
                f"{self.url} has more than one column {', '.join(map(repr, twice))}. Rename all but one of them."
            )
        wanted = list(present) if columns is None else list(columns)
        if time is not None and time not in wanted:
            wanted.append(time)
        missing = [name for name in wanted if name not in present]
        if missing:
            raise SchemaError(
                f"{self.url} has no column {', '.join(map(repr, missing))}. Correct `columns` or `time_column`. The "
                f"columns are: {', '.join(present)}."
            )
        return wanted

    @contextmanager
    def hashed(self) -> Iterator[HashingReader]:
        """Open the file for sequential reading. Record its URL, SHA-256 and size when the block ends."""
        with self.file as raw:
            reader = HashingReader(raw)
            yield reader
            sha256 = reader.drain()
            self.files_read.append({"file": self.url, "sha256": sha256, "bytes": reader.bytes})


class HashingReader:
    """A binary file opened for reading, which computes the SHA-256 and the number of the bytes read."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self.bytes += len(data)
        return data

    def drain(self) -> str:
        """Read the rest of the file, and return the SHA-256 of all its bytes."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()


def read_as(kind: pa.DataType) -> pa.DataType:
    """Return the type as which a text file's column of the type ``kind`` is read, before it is converted to ``kind``."""
    if is_time(kind) or pa.types.is_dictionary(kind):
        return pa.string()
    return pa.float32() if pa.types.is_float16(kind) else kind


def _times_as_text(kind: pa.DataType) -> pa.DataType:
    """Replace dates and times by text in a type, also inside structs and lists."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_times_as_text(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_times_as_text(kind.value_type))
    return kind
