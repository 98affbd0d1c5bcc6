"""Column types, which are declared by the user, known from a neighbouring window, or guessed from the source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.data.moments import as_type, from_integers, is_text, is_time

_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns), tz=([^\]]+)\]$")
_DECIMAL = re.compile(r"decimal128\((\d+), ?(-?\d+)\)$")


def find_type(name: str) -> pa.DataType | None:
    """Find an Arrow type by name. Return ``None`` for unknown names and nested types."""
    if found := _TIMESTAMP.match(name):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.match(name):
        return pa.decimal128(int(found[1]), int(found[2]))
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return None


def declared_types(names: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Convert the names of the declared types to Arrow types.

    :param names: name of an Arrow type by column
    :raises SpecError: a name is not the name of an Arrow type
    """
    types = {}
    for column, name in names.items():
        found = find_type(name.strip())
        if found is None or pa.types.is_null(found):
            raise SpecError(
                f"types={{{column!r}: {name!r}}} does not name an Arrow type. Use int64, float64, string, bool, "
                "date32, timestamp[us], timestamp[us, tz=UTC] or decimal128(10, 2)."
            )
        types[column] = found
    return types


@dataclass(frozen=True)
class ColumnTypes:
    """The column types that are known before the first row is read.

    :param declared: types that the user declared in ``types``. Rows are converted to them
    :param earlier: types in a neighbouring window of the same dataset. They are used if the types of the source would
        otherwise be guessed
    :param window: label of that neighbouring window, for messages
    """

    declared: Mapping[str, pa.DataType] = field(default_factory=dict)
    earlier: Mapping[str, pa.DataType] = field(default_factory=dict)
    window: str = ""

    def get(self, column: str) -> pa.DataType | None:
        """Return the expected type of a column, or ``None`` if the source determines it."""
        return self.declared.get(column, self.earlier.get(column))

    def mismatch(self, column: str, expected: pa.DataType | str, found: str, hint: str = "") -> SchemaError:
        """Create the error for a column whose values do not have the expected type.

        :param column: name of the column
        :param expected: expected type
        :param found: the contents of the column, as a noun phrase such as ``'abc'`` or ``string values``
        :param hint: a further remedy, which is appended to the error message
        """
        if column in self.declared:
            return SchemaError(
                f"Column {column!r} is declared {expected} but contains {found}. Correct its type in `types`{hint}."
            )
        remedy = f"Declare its type with types={{{column!r}: ...}}"
        if column in self.earlier:
            return SchemaError(
                f"Column {column!r} is {expected} in the window {self.window} but now contains {found}. "
                f"{remedy}, and ingest the other windows again if their type differs{hint}."
            )
        return SchemaError(
            f"Column {column!r} is {expected} in the first rows but contains {found} later. {remedy}{hint}."
        )

    def convert(self, batch: pa.RecordBatch, row: int = 0, origin: str = "") -> pa.RecordBatch:
        """Cast the columns of ``batch`` to the declared types.

        Extension types are replaced by their storage types, and metadata is removed.

        :param row: number of rows before ``batch`` in the source, for error messages
        :param origin: the file that the rows come from, for error messages
        :raises SchemaError: a value cannot be converted to the declared type
        """
        arrays, fields = [], []
        for old, array in zip(batch.schema, batch.columns, strict=True):
            if isinstance(array, pa.ExtensionArray):
                array = array.storage
            wanted = self._wanted(old.name, array.type)
            if wanted is not None and array.type != wanted:
                try:
                    array = self._cast(old.name, array, wanted, row, origin)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise self.mismatch(old.name, wanted, f"{array.type}: {error}") from None
            arrays.append(array)
            fields.append(pa.field(old.name, array.type))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _wanted(self, name: str, found: pa.DataType) -> pa.DataType | None:
        """Return the type to which a column is converted, or ``None`` if it keeps the type ``found``.

        A neighbouring window determines the type of a column that contains only nulls, and whether text is read as times.
        """
        expected = self.get(name)
        if name in self.declared or pa.types.is_null(found) or (expected and is_time(expected) and is_text(found)):
            return expected
        return None

    def _cast(self, name: str, array: pa.Array, wanted: pa.DataType, row: int, origin: str) -> pa.Array:
        found = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        which = f"is declared {wanted}" if name in self.declared else f"is {wanted} in the window {self.window}"
        what = f"Column {name!r}{f' of {origin}' if origin else ''} {which}, but"
        if is_time(wanted) and (is_time(found) or is_text(found)):
            return as_type(array, wanted, what, first_row=row)
        if pa.types.is_timestamp(wanted) and pa.types.is_integer(found):
            return from_integers(array, wanted, what, first_row=row)
        return pc.cast(array, wanted)
