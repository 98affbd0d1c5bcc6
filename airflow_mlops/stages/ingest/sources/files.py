"""Files by fsspec URL and glob: CSV, JSON lines and Parquet, streamed and hashed on the way."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from airflow_mlops.core.errors import SchemaError, SourceError, SpecError

if TYPE_CHECKING:
    from fsspec.core import OpenFile

    from airflow_mlops.core.windows import Window
    from airflow_mlops.stages.ingest.sources.types import Types
    from airflow_mlops.stages.ingest.spec import IngestSpec

BLOCK_BYTES = 4 << 20
BATCH_ROWS = 16_384
_SUFFIXES = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
# A signed URL carries its signature in the query.
_QUERY = re.compile(r"(https?://[^?#\s]*)[?#]\S*")
_CSV_CELL = re.compile(r"In CSV column #(\d+): (?:.*)CSV conversion error to .+?: invalid value '(.*?)'", re.DOTALL)
_JSON_KIND = re.compile(r"Column\(/([^/)]+)[^)]*\) changed from (\w+) to (\w+)")
_JSON_VALUE = re.compile(r"Failed to convert JSON to (.+), couldn't parse:\s*(.*)", re.DOTALL)


class FileSource:
    """The rows of all files that the spec's URLs and globs name, in the order of their names."""

    def __init__(self, spec: IngestSpec) -> None:
        self.spec = spec
        self.read: list[dict[str, Any]] = []
        self.without_time = 0

    def describe(self) -> dict[str, Any]:
        description = {"kind": "files", "files": [_public(url) for url in self.spec.files], "read": self.read}
        return {**description, "rows_without_time": self.without_time} if self.without_time else description

    def batches(self, types: Types) -> Iterator[pa.RecordBatch]:
        first: pa.Schema | None = None
        for file in self._found():
            read = _READERS[self._format(file)]
            with _failures(file):
                for batch in read(_File(file, self.spec, types, first, self.read)):
                    batch = types.convert(batch if first is None else _ordered(batch, first, file))
                    first = first or batch.schema
                    yield self._in_window(batch, file)

    def _found(self) -> Iterator[OpenFile]:
        for url in self.spec.files:
            try:
                found = fsspec.open_files(url, "rb", compression="infer")
            except ImportError as error:
                raise SpecError(f"{_public(url)} cannot be opened where the step runs: {error}.") from None
            except ValueError as error:
                raise SpecError(f"{_public(url)} is not a URL that fsspec can open: {error}.") from None
            except (OSError, zipfile.BadZipFile) as error:
                raise SourceError(f"{_public(url)} could not be opened: {_public(str(error))}.") from None
            if not found:
                raise SourceError(f"No file matches {_public(url)}.")
            yield from sorted(found, key=lambda file: str(file.path))

    def _format(self, file: OpenFile) -> str:
        if self.spec.format:
            return self.spec.format
        path = str(file.path)
        for suffix in _COMPRESSED:
            path = path.removesuffix(suffix)
        for suffix, kind in _SUFFIXES.items():
            if path.endswith(suffix):
                return kind
        raise SpecError(
            f"The format of {_name(file)} does not show in its name: give format='csv', 'jsonl' or 'parquet'."
        )

    def _in_window(self, batch: pa.RecordBatch, file: OpenFile) -> pa.RecordBatch:
        column, window = self.spec.time_column, self.spec.window
        if column is None or window is None:
            return batch
        times = _instants(batch.column(column), column, file)
        self.without_time += times.null_count
        return batch.filter(_within(times, window))


def _within(times: pa.Array, window: Window) -> pa.Array:
    start, end = (pa.scalar(bound, times.type) for bound in (window.start, window.end))
    return pc.and_(pc.greater_equal(times, start), pc.less(times, end))


def _instants(values: pa.Array, column: str, file: OpenFile) -> pa.Array:
    """A column as UTC timestamps; text may be any ISO 8601 with or without a zone, and is UTC without one."""
    kind = values.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or _is_text(kind) or pa.types.is_null(kind)):
        raise SchemaError(
            f"The time column {column!r} of {_name(file)} holds {kind}: "
            f"say what it means, as in types={{{column!r}: 'timestamp[s, tz=UTC]'}} for seconds since 1970."
        )
    utc, naive = pa.timestamp("us", "UTC"), pa.timestamp("us")
    try:
        return pc.cast(values, utc, safe=False)
    except pa.ArrowInvalid:
        pass  # text without a zone
    try:
        return pc.cast(pc.cast(values, naive, safe=False), utc)
    except pa.ArrowInvalid as error:
        problem = str(error).partition(" as a scalar")[0]
        raise SchemaError(
            f"The time column {column!r} of {_name(file)} is not ISO 8601, or not all with or all without a zone: "
            f"{problem}. Convert it, or put the rows into windows by the files' names instead of time_column=."
        ) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


@dataclass
class _File:
    """One file to read.

    :param first: the schema of the files before it, which it has to follow
    :param done: where to note its hash once it is read
    """

    file: OpenFile
    spec: IngestSpec
    types: Types
    first: pa.Schema | None
    done: list[dict[str, Any]]

    def kinds(self, guessed: pa.Schema) -> dict[str, pa.DataType]:
        """The type to read each column as. What looks like a time stays text: raw data is kept as it is."""
        known = dict(zip(self.first.names, self.first.types, strict=True)) if self.first else {}
        kinds = {}
        for field in guessed:
            kind = known.get(field.name) or self.types.get(field.name) or _untimed(field.type)
            # Numbers are read as numbers and become times afterwards.
            counted = pa.types.is_temporal(kind) and pa.types.is_integer(field.type)
            kinds[field.name] = field.type if counted else kind
        return kinds

    def wanted(self, present: Sequence[str]) -> list[str]:
        """The columns to read, of those that are present.

        :raises SchemaError: one of them is missing, or there twice
        """
        columns, time = self.spec.columns, self.spec.time_column
        twice = sorted({name for name in present if present.count(name) > 1})
        if twice:
            raise SchemaError(f"{_name(self.file)} has the column {', '.join(map(repr, twice))} more than once.")
        wanted = list(present) if columns is None else list(columns)
        if time is not None and time not in wanted:
            wanted.append(time)
        missing = [name for name in wanted if name not in present]
        if missing:
            raise SchemaError(
                f"{_name(self.file)} has no column {', '.join(map(repr, missing))}: it has {', '.join(present)}."
            )
        return wanted

    @contextmanager
    def hashed(self) -> Iterator[_HashingReader]:
        """The file, opened to be read once from beginning to end."""
        with self.file as raw:
            reader = _HashingReader(raw)
            yield reader
            self.note(reader.drain(), reader.bytes)

    def note(self, sha256: str, size: int) -> None:
        self.done.append({"file": _name(self.file), "sha256": sha256, "bytes": size})


class _HashingReader:
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
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()


def _csv(file: _File) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv

    read = csv.ReadOptions(block_size=BLOCK_BYTES)
    parse = csv.ParseOptions(delimiter=file.spec.delimiter, newlines_in_values=True)
    # An empty cell is null, a quoted empty text is not. Nothing else is taken for null unasked: "NA" is a country.
    nulls = {
        "null_values": ["", *file.spec.null_values],
        "strings_can_be_null": True,
        "quoted_strings_can_be_null": False,
    }
    try:
        with file.file as raw, csv.open_csv(raw, read, parse, csv.ConvertOptions(**nulls)) as reader:
            guessed = reader.schema
    except pa.ArrowInvalid as error:
        if "Empty CSV file" not in str(error):
            raise
        with file.hashed():
            return
    wanted = file.wanted(guessed.names)
    kinds = file.kinds(guessed)
    for name in wanted:
        if pa.types.is_binary(kinds[name]) and name not in file.types.declared:
            raise SchemaError(
                f"Column {name!r} of {_name(file.file)} is not UTF-8: convert the file, "
                f"or keep the bytes with types={{{name!r}: 'binary'}}."
            )
    convert = csv.ConvertOptions(column_types=kinds, include_columns=wanted, **nulls)
    try:
        with file.hashed() as raw, csv.open_csv(raw, read, parse, convert) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        found = _CSV_CELL.search(str(error))
        if found is None:
            raise
        name = guessed.names[int(found[1])]
        hint = f", or, if that means a missing value, with null_values=[{found[2]!r}]"
        raise file.types.conflict(name, kinds[name], repr(found[2]), hint) from None


def _jsonl(file: _File) -> Iterator[pa.RecordBatch]:
    from pyarrow import json as arrow_json

    read = arrow_json.ReadOptions(block_size=BLOCK_BYTES)
    try:
        with file.file as raw, arrow_json.open_json(raw, read) as reader:
            guessed = reader.schema
    except pa.ArrowInvalid as error:
        if "Empty JSON" not in str(error):
            raise
        with file.hashed():
            return
    kinds = file.kinds(guessed)
    # A field that only later lines have can be declared.
    late = {**file.types.declared, **(dict(zip(file.first.names, file.first.types, strict=True)) if file.first else {})}
    kinds = {**kinds, **{name: kind for name, kind in late.items() if name not in kinds}}
    wanted = file.wanted(list(kinds))
    parse = arrow_json.ParseOptions(
        explicit_schema=pa.schema([(name, kinds[name]) for name in wanted]),
        unexpected_field_behavior="ignore" if file.spec.columns is not None else "error",
    )
    try:
        with file.hashed() as raw, arrow_json.open_json(raw, read, parse) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        _explain_json(file, kinds, str(error))
        raise


def _explain_json(file: _File, kinds: dict[str, pa.DataType], problem: str) -> None:
    """Raise what Arrow's report means, where it can be told."""
    if found := _JSON_KIND.search(problem):
        raise file.types.conflict(found[1], kinds.get(found[1], found[2]), f"a {found[3]}") from None
    if found := _JSON_VALUE.search(problem):
        names = [name for name, kind in kinds.items() if str(kind) == found[1]]
        name = names[0] if len(names) == 1 else _field_holding(file, names, found[2])
        raise file.types.conflict(name, found[1], repr(found[2])) from None
    if "unexpected field" in problem:
        name = _field_besides(file, set(kinds))
        raise SchemaError(
            f"{_name(file.file)} has the field {name!r}, which the lines before did not have: "
            f"say which type it has with types={{{name!r}: ...}}, or name the columns to keep with columns=[...]."
        ) from None


def _lines(file: _File) -> Iterator[dict[str, Any]]:
    with file.file as raw:
        for line in raw:
            if line.strip():
                yield json.loads(line, parse_float=str, parse_int=str)


def _field_holding(file: _File, names: Sequence[str], value: str) -> str:
    """Which of these fields holds ``value``; Arrow's report does not say."""
    return next((name for line in _lines(file) for name in names if line.get(name) == value), names[0])


def _field_besides(file: _File, known: set[str]) -> str:
    return next((name for line in _lines(file) for name in line if name not in known), "?")


def _parquet(file: _File) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with _local_copy(file) as path, pq.ParquetFile(path) as parquet:
        wanted = file.wanted(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=wanted):
            yield batch.select(wanted)


@contextmanager
def _local_copy(file: _File) -> Iterator[str]:
    """The path of the file on this machine: Parquet is not read from beginning to end."""
    with tempfile.TemporaryDirectory(prefix="mlops-ingest-") as folder:
        local = isinstance(file.file.fs, LocalFileSystem) and file.file.compression is None
        path = Path(file.file.path) if local else Path(folder) / "copy.parquet"
        with file.hashed() as source:
            if not local:
                with path.open("wb") as copy:
                    while block := source.read(1 << 20):
                        copy.write(block)
        yield str(path)


_READERS: dict[str, Callable[[_File], Iterator[pa.RecordBatch]]] = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}


def _untimed(kind: pa.DataType) -> pa.DataType:
    """The type with text in the place of every guessed date and time."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_untimed(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_untimed(kind.value_type))
    return kind


def _ordered(batch: pa.RecordBatch, first: pa.Schema, file: OpenFile) -> pa.RecordBatch:
    """The columns of a later file in the order of the first one's.

    :raises SchemaError: it has other columns, or other types
    """
    from airflow_mlops.data.datasets import schema_difference

    if set(batch.schema.names) == set(first.names):
        batch = batch.select(first.names)
    differs = [
        field.name
        for field in first
        if field.name not in batch.schema.names or batch.schema.field(field.name).type != field.type
    ]
    if differs or len(batch.schema) != len(first):
        raise SchemaError(
            f"{_name(file)} differs from the files before it: {schema_difference(first, batch.schema)}. "
            "Name the columns that all files have with columns=[...], or declare one type for all with types={...}."
        )
    return batch


@contextmanager
def _failures(file: OpenFile) -> Iterator[None]:
    """Name the file in what goes wrong with it."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{_name(file)} does not exist.") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException, ValueError) as error:
        raise SourceError(
            f"{_name(file)} could not be read: {_public(' '.join(str(error).split())).rstrip('.')}."
        ) from None


def _name(file: OpenFile) -> str:
    return _public(str(file.full_name))


def _public(url: str) -> str:
    """A URL, or what an error says of one, without the credentials that may stand in it."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("//", url))
