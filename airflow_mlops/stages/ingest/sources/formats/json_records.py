"""Parse a block of JSON records with Arrow, and explain Arrow's errors."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from math import isinf
from typing import Any

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.types import can_cast, cast, is_list, one_sentence
from airflow_mlops.stages.ingest.sources.formats.json_numbers import (
    contains,
    has_large_doubles,
    inexact_double,
    misfit_decimal,
    other_field,
)
from airflow_mlops.stages.ingest.sources.formats.json_text import DECODER, kind_of, with_text_values
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.sources.formats.text import Block, check_utf8, native

# Arrow's parser crashes when values are nested tens of thousands of levels deep.
_MOST_LEVELS = 100
_KIND_CHANGED = re.compile(r"Column\(/([^/)]+)([^)]*)\) changed from (\w+) to (\w+)")
_VALUE_REFUSED = re.compile(r"Failed to convert JSON to (.+), couldn't parse:\s*(.*)", re.DOTALL)
_ROW = re.compile(r" in row (\d+)$")
# Numbers that Arrow might read as a different number, if their column is declared as a decimal.
_LONG_NUMBER = re.compile(rb"[0-9]{39}|[0-9.][eE][+-]?[0-9]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# Text that Arrow would read as a second record on the same line.
_RECORD_AFTER = re.compile(rb"\}[ \t\r]*(?:null|\{)")


class Records:
    """The records of a block, with one JSON object on each line.

    :param file: the file that contains the records
    :param block: the records
    :param unit: unit of ``block.line``: ``line`` or ``record``
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
        may_have_more = _RECORD_AFTER.search(self._block.text) is not None
        for number, line in enumerate(self._block.text.split(b"\n"), self._block.line):
            if line[:1] != b"{" and line.strip()[:1] not in (b"{", b""):
                raise self._malformed(number, "is not a JSON object")
            if line.count(b"{") + line.count(b"[") > _MOST_LEVELS and _is_deep(line):
                raise self._malformed(number, f"is nested more than {_MOST_LEVELS} levels deep")
            if may_have_more and _RECORD_AFTER.search(line) and _has_more_values(line):
                raise self._malformed(number, "has more than one value")

    def with_text_values(self, names: Collection[str]) -> Records:
        """Return the records with the values of the keys ``names`` converted to JSON strings, see :mod:`.json_text`."""
        lines = (with_text_values(line, names) for line in self._block.text.split(b"\n"))
        return Records(self._file, Block(b"\n".join(lines), self._block.line), self._unit)

    def parse(self, options: Any, kinds: Mapping[str, pa.DataType]) -> pa.Table:
        """Return the records of the block as a table.

        :param options: parse options of Arrow; ``None`` to infer the types
        :param kinds: types of the columns, for error messages; empty if they are not known yet
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
        """Check that Arrow did not round a number. Arrow reads whole numbers of more than 64 bits as doubles.

        :raises MalformedFileError: a line with large numbers is not JSON
        :raises SchemaError: a double cannot represent a whole number exactly, or a number is too large for a double
        """
        columns = zip(batch.schema, batch.columns, strict=True)
        kinds = {field.name: field.type for field, array in columns if has_large_doubles(array)}
        for number, line in self._lines() if kinds else ():
            try:
                record = DECODER.decode(line.decode())
            except json.JSONDecodeError as error:
                # Arrow reads `Inf`, for example.
                raise self._malformed(number, f"could not be read: {error.msg} in column {error.colno}") from None
            for name, kind in kinds.items():
                declared = self._file.types.declared.get(name)
                found = inexact_double(record.get(name), kind, rounds=declared is not None)
                if found is None:
                    continue
                if declared is not None:
                    raise self._mismatch(name, declared, f"{found[:80]!r}", number)
                raise SchemaError(
                    f"Column {name!r} of {self._file.url} contains the number {found[:80]} in {self._unit} {number}, which "
                    f"float64 cannot represent. {_remedy(name, kind, found)}"
                )

    def require_fields(self, kinds: Mapping[str, pa.DataType]) -> None:
        """Check that the objects in columns have no fields that the type of their column lacks.

        :param kinds: types of the columns
        :raises SchemaError: an object has another field
        """
        for number, record in self._values():
            for name, kind in kinds.items():
                if (field := other_field(record.get(name), kind)) is not None:
                    raise self._mismatch(name, kind, f"the field {field!r}", number)

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

    def misfit(self, name: str, text: pa.Array, kind: pa.DataType, row: int) -> SchemaError:
        """Create the error for a column of text that cannot be converted to its declared type.

        :param text: the values
        :param row: number of rows of the block before ``text``
        """
        index = next(index for index in range(len(text)) if not can_cast(text.slice(index, 1), kind))
        found = next(islice(self._lines(), row + index, None), None)
        return self._mismatch(name, kind, repr(text[index].as_py()[:80]), found[0] if found else self._block.line)

    def _mismatch(self, name: str, expected: pa.DataType | str, what: str, number: int, hint: str = "") -> SchemaError:
        where = f"in {self._unit} {number} of {self._file.url}"
        return self._file.types.mismatch(name, expected, f"{what} {where}", hint)

    def _require_decimals(self, kinds: Mapping[str, pa.DataType]) -> None:
        for number, record in self._values():
            for name, kind in kinds.items():
                if (value := misfit_decimal(record.get(name), kind)) is not None:
                    raise self._mismatch(name, kind, repr(value[:80]), number)

    def _explain(self, kinds: Mapping[str, pa.DataType], problem: str) -> None:
        """Raise an error that names the field, if Arrow's message contains the cause. Otherwise, return.

        :param kinds: types of the columns
        :param problem: Arrow's message
        :raises SchemaError: the type of a field changes, or a later line has a new field
        """
        declared = self._file.types.declared
        if "JSON to decimal" in problem:
            self._require_decimals({**kinds, **declared})
        if found := _KIND_CHANGED.search(problem):
            raise self._changed(found, kinds, self._row_number(problem)) from None
        if found := _VALUE_REFUSED.search(_ROW.sub("", problem)):
            name, number = self._field_with_value({**kinds, **declared}, found[1], found[2])
            raise self._mismatch(name, kinds.get(name, found[1]), repr(found[2][:80]), number) from None
        if "unexpected field" in problem:
            self.require_fields(kinds)
            name, number = self._field_not_in(set(kinds))
            raise SchemaError(
                f"{self._unit.capitalize()} {number} of {self._file.url} has the field {name!r}, which is absent in the "
                f"first {self._unit}s. Declare its type with types={{{name!r}: ...}}, or list the columns to ingest in "
                "`columns`."
            ) from None

    def _changed(self, found: re.Match[str], kinds: Mapping[str, pa.DataType], number: int) -> SchemaError:
        """Create the error for a field that has values of two kinds.

        :param found: match of Arrow's message
        :param number: number of the line or record with the second kind
        """
        name, inner, before, after = found.groups()
        declared = self._file.types.declared.get(name)
        if declared is None and inner:
            return SchemaError(
                f"Column {name!r} of {self._file.url} contains {_a(before)} and, in {self._unit} {number}, {_a(after)} at "
                f"{name}{inner}. Read the JSON text of the column with types={{{name!r}: 'string'}}, or correct the file."
            )
        if declared is None:
            hint = f", for example types={{{name!r}: 'string'}} for the JSON text of each value"
            return self._mismatch(name, kinds.get(name, _a(before)), _a(after), number, hint)
        if not inner and is_list(declared) and after == "array":
            # The later value is an array, as declared. The error names the first value of another kind.
            first = (number for number, record in self._values() if kind_of(record.get(name)) == before)
            return self._mismatch(name, declared, _a(before), next(first, self._block.line))
        return self._mismatch(name, declared, f"{_a(after)}{f' at {name}{inner}' if inner else ''}", number)

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
                yield number, DECODER.decode(line.decode())

    def _field_with_value(self, kinds: Mapping[str, pa.DataType], kind: str, value: str) -> tuple[str, int]:
        """Return the first field that contains ``value``, and the number of the line or record.

        Fields of the type ``kind`` are searched first, and then other fields, because a list or a struct may contain
        the value. If no field contains the value, the first searched field and the first line are returned.

        :param kinds: types of the columns
        """
        exact = [name for name, found in kinds.items() if str(found) == kind]
        names = [*exact, *(name for name in kinds if name not in exact)]
        found = (
            (name, number) for name in names for number, record in self._values() if contains(record.get(name), value)
        )
        return next(found, (names[0] if names else "?", self._block.line))

    def _field_not_in(self, known: set[str]) -> tuple[str, int]:
        found = ((name, number) for number, record in self._values() for name in record if name not in known)
        return next(found, ("?", self._block.line))

    def _malformed(self, number: int, problem: str) -> Exception:
        return self._file.malformed(
            f"is not valid JSON: {self._unit} {number} {problem}",
            "Correct the file, or set format='json' if it is one document.",
        )


def _remedy(name: str, kind: pa.DataType, number: str) -> str:
    if pa.types.is_float64(kind) and not isinf(float(number)):
        return f"Declare types={{{name!r}: 'decimal128(38, 0)'}}, 'string', or 'float64' to round it."
    return f"Read the JSON text of the column with types={{{name!r}: 'string'}}."


def _a(kind: str) -> str:
    return f"{'an' if kind[:1] in 'ao' else 'a'} {kind}"


def _is_deep(line: bytes) -> bool:
    """Return whether the JSON value in a line is nested more than :data:`_MOST_LEVELS` levels deep."""
    # Without escaped backslashes and escaped quotes, every second part between quotes is outside strings.
    outside = line.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    level = 0
    for bracket in b"".join(outside).translate(None, _NOT_BRACKETS):
        level += 1 if bracket in b"[{" else -1
        if level > _MOST_LEVELS:
            return True
    return False


def _has_more_values(line: bytes) -> bool:
    text = line.decode().strip()
    try:
        _, end = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return end < len(text)
