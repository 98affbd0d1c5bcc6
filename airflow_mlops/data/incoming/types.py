"""Column types: declared by the user, known from a neighbouring window of the dataset, or determined by the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.data.incoming.inference import is_untyped
from airflow_mlops.data.moments import is_text, is_time
from airflow_mlops.data.types import as_stored, cast, find_type, is_list, one_sentence
from airflow_mlops.data.types.numbers import hexadecimal

_MOST_EXACT = 2.0**53
"""Doubles represent all integers up to this number exactly. A larger double may be a rounded integer."""


def declared_types(names: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Return the Arrow types that the user declared, by column.

    :param names: name of an Arrow type by column, for example ``{"dep_delay": "float64"}``
    :raises SpecError: a name is not the name of an Arrow type, or the scale of a decimal cannot be stored
    """
    types = {}
    for column, name in names.items():
        found = find_type(name)
        if found is None or pa.types.is_null(found):
            raise SpecError(
                f"types={{{column!r}: {name!r}}} does not name an Arrow type. Use int64, float64, string, bool, "
                "date32, timestamp[us], timestamp[us, tz=UTC] or decimal128(10, 2)."
            )
        if _has_odd_scale(found):
            raise SpecError(
                f"types={{{column!r}: {name!r}}} has a number of decimals below 0 or above the number of digits, which "
                "datasets cannot store. Use for example decimal128(10, 2)."
            )
        types[column] = found
    return types


def _has_odd_scale(kind: pa.DataType) -> bool:
    if is_list(kind) or pa.types.is_dictionary(kind):
        return _has_odd_scale(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_has_odd_scale(field.type) for field in kind)
    return bool(pa.types.is_decimal(kind) and not 0 <= kind.scale <= kind.precision)


@dataclass(frozen=True)
class ColumnTypes:
    """The column types that are known before the first row is read.

    :param declared: types that the user declared in ``types``, by column. Values are converted to these types
    :param earlier: types in a neighbouring window of the same dataset, by column. They are used if the source does not
        define the type of a column, as in a CSV file
    :param window: label of the neighbouring window, for error messages
    """

    declared: Mapping[str, pa.DataType] = field(default_factory=dict)
    earlier: Mapping[str, pa.DataType] = field(default_factory=dict)
    window: str = ""

    def get(self, column: str) -> pa.DataType | None:
        """Return the declared type of a column, otherwise its type in the neighbouring window, otherwise ``None``."""
        return self.declared.get(column, self.earlier.get(column))

    def mismatch(self, column: str, expected: pa.DataType | str, found: str, hint: str = "") -> SchemaError:
        """Create the error for a column whose values do not have the expected type.

        If the column is declared, the message names the declared type.

        :param column: name of the column
        :param expected: type of the column so far: the type in the neighbouring window, or the type of the first rows
        :param found: description of the value or values found, such as ``'abc'`` or ``string values``
        :param hint: a further remedy, as text that is appended to the last sentence of the message
        """
        if column in self.declared:
            return SchemaError(
                f"Column {column!r} is declared {self.declared[column]} but contains {found}. Correct its type in "
                f"`types`{hint}."
            )
        remedy = f"Declare its type with types={{{column!r}: ...}}"
        # The type in the first rows can differ from the type in the neighbouring window.
        if column in self.earlier and str(self.earlier[column]) == str(expected):
            return SchemaError(
                f"Column {column!r} is {expected} in the window {self.window} but now contains {found}. "
                f"{remedy}, and ingest the other windows again if their type differs{hint}."
            )
        return SchemaError(
            f"Column {column!r} is {expected} in the first rows, but then contains {found}. {remedy}{hint}."
        )

    def convert(self, batch: pa.RecordBatch, row: int = 0, origin: str = "") -> pa.RecordBatch:
        """Convert declared columns to the declared types, and other columns to types that can be stored.

        Text columns whose types are inferred later are not changed. A second conversion does not change the batch.

        :param row: number of rows before ``batch`` in the source, for the row numbers in error messages
        :param origin: URL of the file of the rows, for error messages; empty if the source is a query
        :raises SchemaError: a value cannot be converted to the declared type, or a type cannot be stored
        """
        arrays, fields = [], []
        for old, array in zip(batch.schema, batch.columns, strict=True):
            wanted = self._wanted(old.name, array.type)
            if wanted is not None:
                array = self._as(old.name, array, wanted, origin, row)
            elif not is_untyped(old):
                array = as_stored(array, _subject(old.name, origin), first_row=row)
            metadata = old.metadata if wanted is None and is_untyped(old) else None
            arrays.append(array)
            fields.append(pa.field(old.name, array.type, metadata=metadata))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _wanted(self, name: str, found: pa.DataType) -> pa.DataType | None:
        """Return the type to which a column must be converted; ``None`` if the values need no conversion.

        A column is converted to its declared type. Without a declared type, it is converted to its type in the
        neighbouring window in two cases:

        - The column is text in this window and a time in the neighbouring window.
        - The column is an integer in one window and a floating-point number in the other window.
        """
        expected = self.get(name)
        if name in self.declared or expected is None:
            return expected
        if (is_time(expected) and is_text(found)) or is_integer_and_float(expected, found):
            return expected
        return None

    def _as(self, name: str, array: pa.Array, wanted: pa.DataType, origin: str, row: int) -> pa.Array:
        which = f"is declared {wanted}" if name in self.declared else f"is {wanted} in the window {self.window}"
        what = f"{_subject(name, origin)} {which}, but"
        if pa.types.is_timestamp(wanted) and is_text(array.type):
            array = _as_integers(array)
        if name not in self.declared and is_integer_and_float(wanted, array.type):
            return self._as_other_window(name, array, wanted, row, origin)
        try:
            return cast(array, wanted, what, first_row=row)
        except pa.ArrowException as error:
            raise self.mismatch(name, wanted, f"{array.type} values: {one_sentence(error)}") from None

    def _as_other_window(self, name: str, array: pa.Array, kind: pa.DataType, row: int, origin: str) -> pa.Array:
        """Convert integers to ``double``, or whole floating-point numbers to integers, as in the neighbouring window.

        :raises SchemaError: an integer is beyond 2**53; or a floating-point number is not whole, may be a rounded
            integer, or does not fit in ``kind``
        """
        found = array.cast(kind, safe=False)
        doubles = array.cast(pa.float64(), safe=False)
        is_whole = pa.types.is_integer(array.type)
        small = (pc.less_equal if is_whole else pc.less)(pc.abs(doubles), _MOST_EXACT)
        exact = pc.and_(small, pc.equal(found.cast(array.type, safe=False), array))
        index = pc.index(exact, False).as_py()
        if index < 0:
            return found
        if is_whole:
            reason = ", which is beyond 2**53, so a double may not represent it exactly"
        elif not small[index].as_py() and pc.is_finite(doubles[index]).as_py():
            reason = ", which may be a rounded integer"
        else:
            reason = ""
        where = f"in row {row + index + 1}{f' of {origin}' if origin else ''}"
        hint = f", for example types={{{name!r}: '{'int64' if is_whole else 'float64'}'}}"
        raise self.mismatch(name, kind, f"{array[index].as_py()} {where}{reason}", hint)


def _subject(name: str, origin: str) -> str:
    return f"Column {name!r}{f' of {origin}' if origin else ''}"


def _as_integers(array: pa.Array) -> pa.Array:
    """Convert text to integers if all values are whole numbers; otherwise return the text unchanged."""
    if array.null_count == len(array) or pc.any(hexadecimal(array)).as_py():
        return array
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        return array


def is_integer_and_float(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether one type is an integer and the other is a floating-point number.

    pandas writes a column of integers as floating-point numbers if a value is missing.
    """
    kinds = (one, other)
    return any(map(pa.types.is_integer, kinds)) and any(map(pa.types.is_floating, kinds))
