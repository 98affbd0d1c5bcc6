"""One file to read: its columns and types, and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.stages.ingest.sources.urls import file_url

if TYPE_CHECKING:
    from fsspec.core import OpenFile

    from airflow_mlops.stages.ingest.sources.types import ColumnTypes
    from airflow_mlops.stages.ingest.spec import IngestSpec

# How much of a text file Arrow parses at once. The first block decides the types of columns that are not known.
BLOCK_BYTES = 4 << 20


@dataclass
class SourceFile:
    """One file to read.

    :param first: the schema of the files before it, which it must have too; ``None`` for the first file
    :param files_read: receives the file's URL, SHA-256 and size after the file was read completely
    """

    file: OpenFile
    spec: IngestSpec
    types: ColumnTypes
    first: pa.Schema | None
    files_read: list[dict[str, Any]]

    @property
    def url(self) -> str:
        """The URL of the file, without credentials."""
        return file_url(self.file)

    def known_types(self) -> dict[str, pa.DataType]:
        """The types that earlier files of this source have, by column."""
        return dict(zip(self.first.names, self.first.types, strict=True)) if self.first else {}

    def column_types(self, guessed: pa.Schema) -> dict[str, pa.DataType]:
        """The type to read each column as.

        Columns for which Arrow guessed a date or time are read as text, since raw data is archived unchanged.
        """
        known = self.known_types()
        kinds = {}
        for field in guessed:
            kind = known.get(field.name) or self.types.get(field.name) or _times_as_text(field.type)
            # Integers that are declared as times are read as integers and converted afterwards.
            converted_later = pa.types.is_temporal(kind) and pa.types.is_integer(field.type)
            kinds[field.name] = field.type if converted_later else kind
        return kinds

    def wanted_columns(self, present: Sequence[str]) -> list[str]:
        """The columns to read, out of the columns that the file has.

        :raises SchemaError: a wanted column is missing, or two columns have the same name
        """
        columns, time = self.spec.columns, self.spec.time_column
        twice = sorted({name for name in present if present.count(name) > 1})
        if twice:
            raise SchemaError(f"{self.url} has more than one column {', '.join(map(repr, twice))}.")
        wanted = list(present) if columns is None else list(columns)
        if time is not None and time not in wanted:
            wanted.append(time)
        missing = [name for name in wanted if name not in present]
        if missing:
            raise SchemaError(
                f"{self.url} has no column {', '.join(map(repr, missing))}. Its columns are: {', '.join(present)}."
            )
        return wanted

    @contextmanager
    def hashed(self) -> Iterator[HashingReader]:
        """Open the file to be read once, from beginning to end, and record its hash when the block ends."""
        with self.file as raw:
            reader = HashingReader(raw)
            yield reader
            sha256 = reader.drain()
            self.files_read.append({"file": self.url, "sha256": sha256, "bytes": reader.bytes})


class HashingReader:
    """A binary file opened for reading that computes the SHA-256 and the length of the bytes read."""

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
        """Read the rest of the file and return the SHA-256 of all its bytes."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()


def _times_as_text(kind: pa.DataType) -> pa.DataType:
    """The type with every date and time, also inside structs and lists, replaced by text."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_times_as_text(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_times_as_text(kind.value_type))
    return kind
