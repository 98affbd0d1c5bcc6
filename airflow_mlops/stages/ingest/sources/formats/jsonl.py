"""Reads JSON Lines files, which contain one JSON object per line.

Arrow parses one block of lines at a time. Arrow's streaming reader is not used, because it reads the Python file in a
separate thread. If the interpreter exits at this time, the process aborts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.types import cast, exact_decimal, is_list, one_sentence
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile, read_as
from airflow_mlops.stages.ingest.sources.formats.text import Block, check_utf8, decode, native, whole_records

# Arrow's parser crashes when values are nested by the ten thousand.
_MOST_LEVELS = 100
_WHOLE = re.compile(r"-?\d+$")
_KIND_CHANGED = re.compile(r"Column\(/([^/)]+)[^)]*\) changed from (\w+) to (\w+)")
_VALUE_REFUSED = re.compile(r"Failed to convert JSON to (.+), couldn't parse:\s*(.*)", re.DOTALL)
_ROW = re.compile(r" in row (\d+)$")
# Numbers that Arrow might read as a different number, if their column is declared as a decimal.
_LONG_NUMBER = re.compile(rb"[0-9]{39}|[0-9.][eE][+-]?[0-9]")
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_NULL_AFTER = re.compile(rb"\}[ \t\r]*null")


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
    :param unit: what ``line`` of a block counts, for error messages: ``line`` or ``record``
    """
    from pyarrow import json as arrow_json

    parse = None
    kinds: dict[str, pa.DataType] = {}
    decimals: dict[str, pa.DataType] = {}
    for block in blocks:
        records = _Records(file, block, unit)
        records.check()
        if block.text.isspace():
            continue
        if parse is None:
            guessed = records.parse(None, kinds).schema
            # Fields that are declared or occur in earlier files may be absent in the first block and occur in later lines.
            expected = {**file.types.declared, **file.known_types()}
            kinds = {**{name: read_as(kind) for name, kind in expected.items()}, **file.column_types(guessed)}
            present = [*guessed.names, *(name for name in kinds if name not in guessed.names)]
            if not present:
                raise SchemaError(f"{file.url} contains objects without any field. Correct the file.")
            wanted = file.wanted_columns(present)
            # Arrow would read a number that is too large for decimal128 as a different number.
            wide = {name: _wide(kinds[name]) for name in wanted}
            decimals = {name: kinds[name] for name in wanted if not kinds[name].equals(wide[name])}
            kinds.update(wide)
            parse = arrow_json.ParseOptions(
                explicit_schema=pa.schema([(name, kinds[name]) for name in wanted]),
                unexpected_field_behavior="ignore" if file.spec.columns is not None else "error",
            )
        for batch in records.parse(parse, kinds).to_batches():
            records.require_exact(batch)
            yield records.with_decimals(batch, decimals)


class _Records:
    """The records of a block, with one JSON object on each line.

    :param unit: what ``block.line`` counts: ``line`` or ``record``
    """

    def __init__(self, file: SourceFile, block: Block, unit: str) -> None:
        self._file = file
        self._block = block
        self._unit = unit

    def check(self) -> None:
        """Check the lines for problems that Arrow does not detect or that crash Arrow.

        :raises MalformedFileError: a line is not UTF-8, is not an object, has more than one value, or is nested too
            deeply
        """
        check_utf8(self._file, self._block)
        for number, line in enumerate(self._block.text.split(b"\n"), self._block.line):
            if line[:1] != b"{" and line.strip()[:1] not in (b"{", b""):
                raise self._malformed(number, "is not a JSON object")
            if line.count(b"{") + line.count(b"[") > _MOST_LEVELS and _levels(line) > _MOST_LEVELS:
                raise self._malformed(number, f"is nested more than {_MOST_LEVELS} levels deep")
            if b"null" in line and _NULL_AFTER.search(line) and _has_more_values(line):
                raise self._malformed(number, "has more than one value")

    def parse(self, options: Any, kinds: dict[str, pa.DataType]) -> pa.Table:
        """Return the records of the block as a table.

        :param options: parse options of Arrow; ``None`` to infer the types
        :param kinds: types of the columns; empty if they are not known yet
        :raises MalformedFileError: a line is not JSON
        :raises SchemaError: a value does not have the type of its column, or a line has an unexpected field
        """
        from pyarrow import json as arrow_json

        read = arrow_json.ReadOptions(use_threads=False, block_size=len(self._block.text) + 1)
        try:
            return arrow_json.read_json(native(self._block.text), read, options)
        except pa.ArrowInvalid as error:
            problem = str(error)
            self._explain(kinds, problem)
            reason = _ROW.sub("", problem).rstrip(".")
            raise self._malformed(self._row_number(problem), f"could not be read: {reason}") from None

    def require_exact(self, batch: pa.RecordBatch) -> None:
        """Check that no number is rounded. Arrow reads whole numbers of more than 64 bits as floating-point numbers.

        :raises SchemaError: a column contains whole numbers that float64 cannot represent
        """
        for field, array in zip(batch.schema, batch.columns, strict=True):
            if not pa.types.is_float64(field.type) or field.name in self._file.types.declared:
                continue
            if pc.any(pc.greater_equal(pc.abs(array), 2.0**53)).as_py():
                value = self._rounded_integer(field.name)
                if value is not None:
                    raise SchemaError(
                        f"Column {field.name!r} of {self._file.url} contains the whole number {value}, which float64 "
                        f"cannot represent exactly. Declare types={{{field.name!r}: 'decimal128(38, 0)'}}, or 'float64' "
                        "to round it."
                    )

    def with_decimals(self, batch: pa.RecordBatch, kinds: Mapping[str, pa.DataType]) -> pa.RecordBatch:
        """Convert the columns that Arrow has read as decimal256 to decimal128.

        :param kinds: types of the columns
        :raises SchemaError: a type cannot represent a value
        """
        if not kinds:
            return batch
        if _LONG_NUMBER.search(self._block.text):
            self._require_decimals(kinds)
        for name, kind in kinds.items():
            index = batch.schema.get_field_index(name)
            try:
                batch = batch.set_column(index, name, cast(batch.column(index), kind, f"Column {name!r}"))
            except (SchemaError, pa.ArrowInvalid) as error:
                self._require_decimals({name: kind})
                found = f"a value of {self._file.url} that does not fit: {one_sentence(error)}"
                raise self._file.types.mismatch(name, kind, found) from None
        return batch

    def _require_decimals(self, kinds: Mapping[str, pa.DataType]) -> None:
        for number, record in self._values():
            for name, kind in kinds.items():
                if (value := _misfit(record.get(name), kind)) is not None:
                    found = f"{value[:80]!r} in {self._unit} {number} of {self._file.url}"
                    raise self._file.types.mismatch(name, kind, found)

    def _rounded_integer(self, name: str) -> str | None:
        values = (record.get(name) for _, record in self._values())
        whole = (value for value in values if isinstance(value, str) and _WHOLE.match(value))
        return next((value for value in whole if int(float(value)) != int(value)), None)

    def _explain(self, kinds: dict[str, pa.DataType], problem: str) -> None:
        """Raise an error that names the field, if Arrow's message tells the cause. Otherwise, return.

        :param kinds: types of the columns
        :param problem: Arrow's message
        :raises SchemaError: the type of a field changes, or a later line has a new field
        """
        file = self._file
        if "JSON to decimal" in problem:
            self._require_decimals({name: file.types.declared.get(name, kind) for name, kind in kinds.items()})
        if found := _KIND_CHANGED.search(problem):
            where = f"in {self._unit} {self._row_number(problem)} of {file.url}"
            expected = file.types.declared.get(found[1], kinds.get(found[1], found[2]))
            raise file.types.mismatch(found[1], expected, f"a {found[3]} {where}") from None
        if found := _VALUE_REFUSED.search(_ROW.sub("", problem)):
            names = [name for name, kind in kinds.items() if str(kind) == found[1]]
            name, number = self._field_with_value(names, found[2])
            expected = file.types.declared.get(name, found[1])
            raise file.types.mismatch(name, expected, f"{found[2]!r} in {self._unit} {number} of {file.url}") from None
        if "unexpected field" in problem:
            name, number = self._field_not_in(set(kinds))
            raise SchemaError(
                f"{self._unit.capitalize()} {number} of {file.url} has the field {name!r}, which is absent in the "
                f"first {self._unit}s. Declare its type with types={{{name!r}: ...}}, or list the columns to ingest in "
                "`columns`."
            ) from None

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        lines = enumerate(self._block.text.split(b"\n"), self._block.line)
        return ((number, line) for number, line in lines if line.strip())

    def _row_number(self, problem: str) -> int:
        """Return the number of the line or record that Arrow's message names. Arrow counts from 0 in each block."""
        found = _ROW.search(problem)
        row = int(found[1]) if found else 0
        return next((number for number, _ in islice(self._lines(), row, None)), self._block.line)

    def _values(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in self._lines():
            with suppress(ValueError):
                yield number, json.loads(line, parse_float=str, parse_int=str)

    def _field_with_value(self, names: Sequence[str], value: str) -> tuple[str, int]:
        """Return the first of the fields ``names`` that contains ``value``, and the number of the line or record."""
        found = ((name, number) for number, record in self._values() for name in names if record.get(name) == value)
        return next(found, (names[0] if names else "?", self._block.line))

    def _field_not_in(self, known: set[str]) -> tuple[str, int]:
        found = ((name, number) for number, record in self._values() for name in record if name not in known)
        return next(found, ("?", self._block.line))

    def _malformed(self, number: int, problem: str) -> Exception:
        return self._file.malformed(
            f"is not valid JSON: {self._unit} {number} {problem}",
            "Correct the file, or set format='json' if it is one document.",
        )


def _wide(kind: pa.DataType) -> pa.DataType:
    """Return a type with decimal256 instead of decimal128, also in lists."""
    if is_list(kind):
        value = _wide(kind.value_type)
        return kind if value.equals(kind.value_type) else pa.list_(value)
    return pa.decimal256(76, kind.scale) if pa.types.is_decimal(kind) else kind


def _misfit(value: Any, kind: pa.DataType) -> str | None:
    """Return the first number in a JSON value that a decimal type, or the decimal type of a list, cannot represent."""
    if is_list(kind) and isinstance(value, list):
        return next((found for one in value if (found := _misfit(one, kind.value_type)) is not None), None)
    if not (pa.types.is_decimal(kind) and isinstance(value, str)):
        return None
    try:
        exact_decimal(value, kind)
    except pa.ArrowInvalid:
        return value
    return None


def _levels(line: bytes) -> int:
    """Return the nesting depth of the JSON value in a line."""
    level = most = 0
    for found in _BRACKET.finditer(line):
        level += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(found[0], 0)
        most = max(most, level)
    return most


def _has_more_values(line: bytes) -> bool:
    text = line.decode().strip()
    try:
        _, end = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return end < len(text)
