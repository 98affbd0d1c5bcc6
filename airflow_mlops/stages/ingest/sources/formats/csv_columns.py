"""The columns of a CSV file, and the conversion of their values to the declared types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.incoming.inference import Notation, untyped
from airflow_mlops.data.types import can_cast, cast
from airflow_mlops.stages.ingest.csv_options import CsvOptions
from airflow_mlops.stages.ingest.sources.formats.csv_notes import ColumnNotes
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile, read_as

NULL_TEXT = re.compile(
    r"(?i)\s*(|[^\w\s]{1,3}|[#<(\\]?n[/.]?a\.?[>)]?|[#<(\\]?(nan|null|none|nil|missing|unknown)[>)]?|\\n)\s*\Z"
)
"""Texts that usually mean a missing value."""


class MisfitError(Exception):
    """A value does not have the declared type of its column.

    :ivar name: name of the column
    :ivar row: index of the row in the batch
    :ivar value: the value as it is in the file
    """

    def __init__(self, name: str, row: int, value: str) -> None:
        super().__init__(name)
        self.name = name
        self.row = row
        self.value = value


class Columns:
    """The columns of a CSV file, and the types with which Arrow reads them.

    Columns without a declared type are read as text. The types of these columns are inferred later, from all rows.

    :param file: the file, with the declared types
    :param options: options of the CSV format
    :param names: names of all columns of the file
    """

    def __init__(self, file: SourceFile, options: CsvOptions, names: Sequence[str]) -> None:
        self.names = list(names)
        self.wanted = file.wanted_columns(names)
        self._file = file
        self._options = options
        self._declared = {name: kind for name, kind in file.types.declared.items() if name in self.wanted}
        self._notation = Notation(options.decimal, options.thousands or "")
        self.kinds = {name: read_as(self._declared.get(name, pa.string())) for name in self.wanted}
        # Quoted values of columns declared as text are always text.
        self.quoted_nulls = {
            name: name in self._declared
            for name in self.wanted
            if name not in self._declared or not _is_text(self._declared[name])
        }
        # Arrow does not support groups of digits, and would return wrong values for decimals that are too large.
        self._numbers = [
            name
            for name, kind in self.kinds.items()
            if pa.types.is_decimal(kind) or (options.thousands and _is_number(kind))
        ]
        self.kinds.update(dict.fromkeys(self._numbers, pa.string()))
        self._notes = {name: ColumnNotes(name, self._notation) for name in self.wanted if file.types.get(name) is None}

    def read_as_text(self, name: str) -> None:
        """Read a declared column as text from now on. The text is converted to the declared type afterwards."""
        self._numbers.append(name)
        self.kinds[name] = pa.string()

    def read_integers_as_text(self) -> None:
        """Read all columns that are declared as integers as text from now on."""
        for name in [name for name, kind in self.kinds.items() if pa.types.is_integer(kind)]:
            self.read_as_text(name)

    def is_number_for_us(self, name: str, value: str) -> bool:
        """Return whether ``value`` may be a number of the declared type that Arrow does not read.

        Arrow reads neither ``12.0`` as an integer, nor numbers next to no-break spaces.
        """
        kind, point = self.kinds[name], re.escape(self._options.decimal)
        is_whole = pa.types.is_integer(kind) and re.fullmatch(rf"\s*[+-]?\d+{point}0+\s*", value)
        return bool(is_whole) or (_is_number(kind) and value.strip() != value.strip(" \t"))

    def with_infinity(self, table: pa.Table) -> list[str]:
        """Return the columns that contain infinity. Arrow reads numbers that are too large as infinity."""
        return [
            name
            for name, kind in self.kinds.items()
            if pa.types.is_floating(kind) and pc.any(pc.is_inf(table.column(name))).as_py()
        ]

    def converted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch with the declared types. Columns without a declared type are marked for type inference.

        :raises MisfitError: a value does not have the declared type of its column
        """
        for name, column in self._notes.items():
            column.update(batch.column(name))
        arrays, fields = [], []
        for name, array in zip(self.wanted, batch.columns, strict=True):
            if name in self._numbers:
                array = self._number(name, array)
            arrays.append(array)
            declared = name in self._declared
            fields.append(pa.field(name, array.type) if declared else untyped(name, self._notation))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _number(self, name: str, text: pa.Array) -> pa.Array:
        kind, numbers = self._declared[name], self._notation.normalised(text)
        try:
            return cast(numbers, kind, f"Column {name!r}")
        except pa.ArrowException:
            row = next(index for index in range(len(numbers)) if not can_cast(numbers.slice(index, 1), kind))
            raise MisfitError(name, row, text[row].as_py()) from None

    def mismatch(self, name: str, line: int, value: str | None, reason: str) -> SchemaError:
        """Create the error for a value that does not have the declared type of its column.

        :param line: line number of the value in the file
        :param value: the value; ``None`` if Arrow's message does not contain the value
        :param reason: the reason in Arrow's message, which is used if ``value`` is ``None``
        """
        where = f"in line {line} of {self._file.url}"
        found = f"a value {where} that does not fit ({reason.rstrip('.')})" if value is None else f"{value!r} {where}"
        if value is None and (quoted := re.search("'(.*)'", reason, re.DOTALL)):
            value = quoted[1]
        hint = "" if value is None else self._hint(name, value)
        return self._file.types.mismatch(name, self._declared[name], found, hint)

    def _hint(self, name: str, value: str) -> str:
        """Return further remedies for a value that does not have the declared type, as the end of a sentence."""
        kind = self._declared[name]
        if NULL_TEXT.match(value):
            return f", or read this text as null with null_values=[{value!r}]"
        if pa.types.is_boolean(kind):
            true, false = self._options.true_values or ["true", "1"], self._options.false_values or ["false", "0"]
            return (
                f", or name the texts for true and false, which are now {', '.join(map(repr, [*true, *false]))}, with "
                "csv={'true_values': [...], 'false_values': [...]}"
            )
        if _is_number(kind) and self._notation == Notation() and (options := _notations_of(value)):
            if pa.types.is_integer(kind):
                options = [option for option in options if "decimal" not in option]
            if options:
                return f", or set csv={' or csv='.join(map(repr, options))}"
        wider = "string"
        if number := re.fullmatch(r"\s*[+-]?\d{1,30}(?:[.,](\d{0,8}))?\s*", value):
            if pa.types.is_integer(kind) and number[1] is not None:
                wider = "float64"
            elif pa.types.is_decimal(kind):
                wider = f"decimal128(38, {max(kind.scale, len(number[1] or ''))})"
        return f", for example with types={{{name!r}: {wider!r}}}"

    def notes(self) -> Iterator[str]:
        """Return notes for the user about columns that look like numbers but are text."""
        for column in self._notes.values():
            if sentence := column.sentence():
                yield sentence


def _notations_of(value: str) -> list[dict[str, str]]:
    """Return the options with which ``value`` is a number, if the number is written with commas."""
    notations = [{"decimal": ","}, {"thousands": ","}, {"decimal": ",", "thousands": "."}]
    patterns = [r"-?\d*,\d+", r"-?\d{1,3}(,\d{3})+(\.\d+)?", r"-?\d{1,3}(\.\d{3})+,\d+"]
    return [option for option, form in zip(notations, patterns, strict=True) if re.fullmatch(form, value.strip())]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
