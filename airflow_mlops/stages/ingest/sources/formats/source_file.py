"""A file to ingest, with the expected columns and column types, and with the hash of the content."""

from __future__ import annotations

import errno
import hashlib
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from airflow_mlops.core.errors import (
    FilesNotReadyError,
    MalformedFileError,
    MLOpsError,
    SchemaError,
    SourceError,
    listed,
    named,
)
from airflow_mlops.data.moments import is_time
from airflow_mlops.data.types import common_type, is_list
from airflow_mlops.stages.ingest.sources.urls import file_url, without_credentials

if TYPE_CHECKING:
    from fsspec.core import OpenFile

    from airflow_mlops.data.incoming.types import ColumnTypes
    from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.sources.suffixes import ARROW_CODECS

# Size of the blocks in which a text file is parsed. Types that are not known are inferred from the first block.
BLOCK_BYTES = 4 << 20
# A longer row or record is an error. Otherwise a quote that is never closed would read a whole file into memory.
MAX_RECORD_BYTES = 64 << 20

# Exceptions of decompression. NotImplementedError means a method that the module zipfile does not know.
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)


@dataclass
class SourceFile:
    """A file to ingest.

    :param file: the file, which fsspec opens when it is read
    :param spec: parameters of the ingestion
    :param types: column types that are known before the file is read
    :param first: schema of the first file; ``None`` if this is the first file. All files must have the same columns
    :param files_read: list to which the URL, SHA-256 and size of the content are appended after all rows are read
    :param partition: value of each partition column by column name, from folder names such as ``year=2024``
    :param facts: further facts about the file for the manifest, such as the number of skipped rows
    :param notes: sentences for the user about the data
    """

    file: OpenFile
    spec: IngestSpec
    types: ColumnTypes
    first: pa.Schema | None
    files_read: list[dict[str, Any]]
    partition: Mapping[str, str | None] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return the URL of the file, without credentials."""
        return file_url(self.file)

    def known_types(self) -> dict[str, pa.DataType]:
        """Return the column types of the first file, by column; empty if this is the first file."""
        return dict(zip(self.first.names, self.first.types, strict=True)) if self.first else {}

    def column_types(self, guessed: pa.Schema) -> dict[str, pa.DataType]:
        """Return the type with which Arrow must read each column of a JSON file, by column.

        Columns that Arrow would parse as dates or times are read as text, so that the dataset contains the original
        values.

        :param guessed: schema that Arrow inferred from the first block of the file
        """
        known = {**self.types.earlier, **self.known_types()}
        kinds = {}
        for column in guessed:
            if declared := self.types.declared.get(column.name):
                counts_units = pa.types.is_timestamp(declared) and pa.types.is_integer(column.type)
                kinds[column.name] = column.type if counts_units else read_as(declared)
                continue
            kind = _times_as_text(column.type)
            # A wider type from another file or window can also represent these values.
            before = known.get(column.name)
            common = common_type(kind, read_as(before)) if before is not None else kind
            is_wanted = self.spec.columns is None or column.name in self.spec.columns
            if common is None and is_wanted and (pa.types.is_nested(kind) or pa.types.is_nested(before)):
                hint = f", for example types={{{column.name!r}: 'string'}} for the JSON text of each value"
                raise self.types.mismatch(column.name, before, f"{kind} values in {self.url}", hint)
            kinds[column.name] = common if common is not None else kind
        return kinds

    def wanted_columns(self, present: Sequence[str]) -> list[str]:
        """Return the names of the columns to read: the columns to ingest and the time column.

        If all of these columns come from folder names, the first column of the file is read, to count the rows.

        :param present: names of the columns of the file
        :raises SchemaError: a column to read is absent, or two columns have the same name
        """
        columns, time = self.spec.columns, self.spec.time_column
        wanted = list(present) if columns is None else list(columns)
        if time is not None and time not in wanted:
            wanted.append(time)
        counts = Counter(present)
        twice = sorted({name for name in wanted if counts[name] > 1})
        if twice:
            raise SchemaError(
                f"{self.url} has the {named('column', twice)} more than once. Rename columns until every name is unique."
            )
        known = {*present, *self.partition}
        missing = [name for name in wanted if name not in known]
        if missing:
            everything = dict.fromkeys([*present, *self.partition])
            raise SchemaError(
                f"{self.url} has no {named('column', missing)}. Correct `columns` or `time_column`. The "
                f"columns are: {listed(everything)}."
            )
        return [name for name in wanted if name in counts] or list(present[:1])

    @contextmanager
    def hashed(self) -> Iterator[HashingReader]:
        """Open the file for sequential reading, and record its hash in ``files_read``.

        If the block ends without an exception, the URL, SHA-256 and size in bytes are appended to ``files_read``. For a
        compressed file, SHA-256 and size refer to the decompressed content.

        :return: context manager that yields the opened file
        :raises SourceError: the file cannot be opened or read
        :raises MalformedFileError: the compressed data is damaged
        """
        with _read_errors(self.file):
            raw = self.file.__enter__()
        try:
            reader = HashingReader(self.file, _decompressed(self.file, raw))
            yield reader
            sha256 = reader.drain()
        finally:
            self.file.close()
        self.files_read.append({"file": self.url, "sha256": sha256, "bytes": reader.bytes, **self.facts})

    def malformed(self, problem: str, remedy: str) -> MalformedFileError:
        """Create the error for a file with content that cannot be read.

        :param problem: predicate of the first sentence, which starts with the URL of the file, such as ``is not JSON``
        :param remedy: one or several sentences that tell the user what to do
        """
        return MalformedFileError(f"{self.url} {problem}. {remedy}")


class HashingReader:
    """A binary file opened for reading, which counts and hashes the bytes that are read.

    :param file: the file, for error messages
    :param raw: the opened file
    """

    def __init__(self, file: OpenFile, raw: BinaryIO) -> None:
        self._file = file
        self._raw = raw
        self._hash = hashlib.sha256()
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        """Read and return the next bytes. The result is empty at the end of the file.

        :raises MalformedFileError: the compressed data is damaged
        :raises SourceError: the file cannot be read
        """
        with _read_errors(self._file):
            data = bytes(self._raw.read(size))
        self._hash.update(data)
        self.bytes += len(data)
        return data

    def drain(self) -> str:
        """Read the rest of the file, and return the SHA-256 of the whole content as hexadecimal text."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()


@contextmanager
def _read_errors(file: OpenFile) -> Iterator[None]:
    """Convert exceptions of fsspec and of decompression in the ``with`` block to an error that names the file.

    :raises MalformedFileError: the compressed data is damaged or encrypted
    :raises SourceError: the file does not exist or cannot be read
    """
    try:
        yield
    except MLOpsError:
        raise
    except FileNotFoundError:
        raise FilesNotReadyError(
            f"{file_url(file)} does not exist. Check that the file has arrived, or correct `files`."
        ) from None
    except Exception as error:  # noqa: BLE001 - file systems raise many types
        reason = without_credentials(" ".join(str(error).split())).rstrip(".") or type(error).__name__
        # The modules gzip and bz2, and Arrow, raise an OSError without a number for damaged data. A damaged zip archive
        # can lead to a position before the start of the file.
        compressed = file.compression is not None or file.path.endswith(tuple(ARROW_CODECS)) or _is_zip(file.fs)
        damaged = isinstance(error, OSError) and error.errno in (None, errno.EINVAL)
        encrypted = isinstance(error, RuntimeError) and "password" in reason
        if isinstance(error, _DAMAGED) or (compressed and damaged) or encrypted:
            raise MalformedFileError(
                f"{file_url(file)} could not be read: {reason}. Check that the file is complete, and that the suffix "
                "of its name matches the compression."
            ) from None
        raise SourceError(
            f"{file_url(file)} could not be read: {reason}. Check that the file exists and can be read."
        ) from None


def _is_zip(fs: Any) -> bool:
    return "zip" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _decompressed(file: OpenFile, raw: BinaryIO) -> BinaryIO:
    codec = next((codec for suffix, codec in ARROW_CODECS.items() if file.path.endswith(suffix)), None)
    if codec is None or file.compression is not None:
        return raw
    return pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec)


def read_as(kind: pa.DataType) -> pa.DataType:
    """Return the type with which a column of a text file is read. The values are converted to ``kind`` afterwards."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(read_as(field.type)) for field in kind])
    if is_list(kind):
        return pa.list_(read_as(kind.value_type))
    if is_time(kind) or pa.types.is_dictionary(kind):
        return pa.string()
    # Arrow's parsers would return infinity for numbers that are too large.
    return pa.float64() if pa.types.is_float16(kind) or pa.types.is_float32(kind) else kind


def _times_as_text(kind: pa.DataType) -> pa.DataType:
    """Return a type in which text replaces dates and times, also inside structs and lists."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_times_as_text(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_times_as_text(kind.value_type))
    return kind
