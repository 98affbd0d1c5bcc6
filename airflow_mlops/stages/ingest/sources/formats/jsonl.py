"""Read JSON Lines files, which contain one JSON object per line.

Arrow parses one block of lines at a time. Arrow's streaming reader is not used, because it reads the Python file in a
separate thread. If the interpreter exits during such a read, the process aborts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import MalformedFileError, SchemaError
from airflow_mlops.data.types import cast, is_binary, is_list
from airflow_mlops.stages.ingest.sources.formats.json_records import Records
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile, read_as
from airflow_mlops.stages.ingest.sources.formats.text import Block, decode, whole_records


def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a JSON Lines file.

    :raises MalformedFileError: a line is not a JSON object
    :raises SchemaError: a value does not have the type of its column, or a later line has a new field
    """
    with file.hashed() as raw:
        yield from read_lines(file, decode(file, raw))


def read_lines(file: SourceFile, chunks: Iterator[bytes]) -> Iterator[pa.RecordBatch]:
    """Stream the rows of JSON lines.

    :param file: the file that contains the lines
    :param chunks: content of the file in UTF-8
    """
    blocks = whole_records(file, chunks, lambda text, _: text.rfind(b"\n") + 1)
    return read_blocks(file, blocks, "line")


def read_blocks(file: SourceFile, blocks: Iterator[Block], unit: str) -> Iterator[pa.RecordBatch]:
    """Stream the rows of blocks of JSON lines.

    :param file: the file that contains the rows
    :param blocks: blocks of JSON lines
    :param unit: unit of ``line`` of a block, for error messages: ``line`` or ``record``
    """
    reader = _Reader(file)
    for block in blocks:
        records = Records(file, block, unit)
        records.check()
        if not block.text.isspace():
            yield from reader.batches(records)


class _Reader:
    """Reads the blocks of one JSON file with the same column types.

    :param file: the file
    """

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        # Types of the columns as they appear in error messages, and as Arrow reads them.
        self._named: dict[str, pa.DataType] = {}
        self._kinds: dict[str, pa.DataType] = {}
        self._decimals: Mapping[str, pa.DataType] = {}
        # Columns that contain structs, and whose fields Arrow does not check.
        self._structs: Mapping[str, pa.DataType] = {}
        self._options: Any = None
        # Declared columns that are read as text, because Arrow refused a value.
        self._as_text: Mapping[str, pa.DataType] = {}

    def batches(self, records: Records) -> list[pa.RecordBatch]:
        """Return the rows of a block.

        If Arrow refuses a value, such as text in a column declared as a number, all declared columns except nested and
        binary ones are read as text from this block on. The text is then converted as in other sources.

        :raises MalformedFileError: a line is not JSON
        :raises SchemaError: a value does not have the type of its column, or a line has an unexpected field
        """
        if not self._as_text:
            try:
                return self._read(records)
            except (MalformedFileError, SchemaError):
                declared = self._file.types.declared
                self._as_text = {name: kind for name, kind in declared.items() if _can_be_text(kind)}
                if not self._as_text:
                    raise
            if self._options is not None:
                self._use(self._named)
        return self._read(records.with_text_values(self._as_text))

    def _read(self, records: Records) -> list[pa.RecordBatch]:
        if self._options is None:
            guessed = records.parse(None, {}).schema
            # Declared fields and fields of earlier files may be absent in the first block, and occur in later lines.
            expected = {**self._file.types.declared, **self._file.known_types()}
            known = {name: read_as(kind) for name, kind in expected.items()}
            self._use({**known, **self._file.column_types(guessed)}, guessed.names)
        batches = records.parse(self._options, self._named).to_batches()
        if self._structs:
            records.require_fields(self._structs)
        row, found = 0, []
        for batch in batches:
            records.require_exact(batch)
            found.append(self._converted(records, records.with_decimals(batch, self._decimals), row))
            row += batch.num_rows
        return found

    def _use(self, kinds: Mapping[str, pa.DataType], first: Sequence[str] = ()) -> None:
        """Set the types of the columns.

        :param kinds: type of each column
        :param first: names of the columns that come first
        """
        from pyarrow import json as arrow_json

        file = self._file
        present = list(dict.fromkeys([*first, *kinds]))
        if not present:
            raise SchemaError(f"{file.url} contains objects without any field. Correct the file.")
        wanted = file.wanted_columns(present)
        as_text = {name: pa.string() for name in self._as_text if name in kinds}
        self._named = {name: kinds[name] for name in present}
        # Arrow would read a number that is too large for decimal128 as a different number.
        self._kinds = {**kinds, **{name: _wide(kinds[name]) for name in wanted}, **as_text}
        self._decimals = {
            name: kinds[name] for name in wanted if name not in as_text and not kinds[name].equals(self._kinds[name])
        }
        # With ``columns``, Arrow ignores unexpected columns, and also unexpected fields of structs. The fields are
        # therefore checked separately.
        self._structs = {name: kinds[name] for name in wanted if file.spec.columns and _has_struct(kinds[name])}
        self._options = arrow_json.ParseOptions(
            explicit_schema=pa.schema([(name, self._kinds[name]) for name in wanted]),
            unexpected_field_behavior="ignore" if file.spec.columns is not None else "error",
        )

    def _converted(self, records: Records, batch: pa.RecordBatch, row: int) -> pa.RecordBatch:
        """Convert numbers and booleans that were read as text to their declared types.

        :param row: number of rows of the block before ``batch``
        """
        for name, kind in self._as_text.items():
            index = batch.schema.get_field_index(name)
            if index < 0 or not _is_number_or_bool(kind):
                continue
            text = batch.column(index)
            # As in CSV files, spaces around a number are not part of it.
            numbers = text if pa.types.is_boolean(kind) else pc.utf8_trim_whitespace(text)
            try:
                batch = batch.set_column(index, name, cast(numbers, kind, f"Column {name!r}"))
            except pa.ArrowException:
                raise records.misfit(name, numbers, kind, row) from None
        return batch


def _can_be_text(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or is_binary(kind))


def _has_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or (is_list(kind) and _has_struct(kind.value_type)))


def _is_number_or_bool(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    )


def _wide(kind: pa.DataType) -> pa.DataType:
    """Return a type with decimal256 instead of decimal128, also in lists and structs."""
    if is_list(kind):
        value = _wide(kind.value_type)
        return kind if value.equals(kind.value_type) else pa.list_(value)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_wide(field.type)) for field in kind])
    return pa.decimal256(76, kind.scale) if pa.types.is_decimal(kind) else kind
