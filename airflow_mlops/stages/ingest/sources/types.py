"""Column types, which are declared by the user, known from a neighbouring window, or guessed from the source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError, SpecError

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

    def convert(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Cast the columns of ``batch`` to the declared types.

        Extension types are replaced by their storage types, and metadata is removed.

        :raises SchemaError: a value cannot be converted to the declared type
        """
        arrays, fields = [], []
        for old, array in zip(batch.schema, batch.columns, strict=True):
            if isinstance(array, pa.ExtensionArray):
                array = array.storage
            # A column that contains only nulls has the type null, so the neighbouring window determines its type.
            wanted = self.get(old.name) if pa.types.is_null(array.type) else self.declared.get(old.name)
            if wanted is not None and array.type != wanted:
                try:
                    array = pc.cast(array, wanted)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise self.mismatch(old.name, wanted, f"{array.type}: {error}") from None
            arrays.append(array)
            fields.append(pa.field(old.name, array.type))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
