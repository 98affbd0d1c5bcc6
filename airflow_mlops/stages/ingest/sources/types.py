"""Column types: declared by the user, known from another window, or guessed from the source."""

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
    """The Arrow type with this name; ``None`` if there is none or it is a nested type."""
    if found := _TIMESTAMP.match(name):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.match(name):
        return pa.decimal128(int(found[1]), int(found[2]))
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return None


def declared_types(names: Mapping[str, str]) -> dict[str, pa.DataType]:
    """The types that a user declared by name.

    :raises SpecError: a name is not an Arrow type
    """
    types = {}
    for column, name in names.items():
        found = find_type(name.strip())
        if found is None or pa.types.is_null(found):
            raise SpecError(
                f"types={{{column!r}: {name!r}}} is not an Arrow type. Use int64, float64, string, bool, "
                "date32, timestamp[us], timestamp[us, tz=UTC] or decimal128(10, 2)."
            )
        types[column] = found
    return types


@dataclass(frozen=True)
class ColumnTypes:
    """The column types that are known before the first row is read.

    :param declared: types declared by the user; rows are converted to these
    :param earlier: types in another window of the same dataset; used where the source's own types must be guessed
    :param window: label of that other window, for messages
    """

    declared: Mapping[str, pa.DataType] = field(default_factory=dict)
    earlier: Mapping[str, pa.DataType] = field(default_factory=dict)
    window: str = ""

    def get(self, column: str) -> pa.DataType | None:
        """The expected type of a column; ``None`` if the source determines it."""
        return self.declared.get(column, self.earlier.get(column))

    def mismatch(self, column: str, expected: pa.DataType | str, found: str, hint: str = "") -> SchemaError:
        """The error for a column that does not have the expected type.

        :param found: what the column contains, as a noun phrase
        :param hint: another remedy than declaring a type, appended to the message
        """
        if column in self.declared:
            return SchemaError(
                f"Column {column!r} is declared {expected} but contains {found}. Correct types={{...}}{hint}."
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
        """``batch`` with its columns cast to the declared types, extension types as their storage type, and no metadata.

        :raises SchemaError: a value does not fit its declared type
        """
        arrays, fields = [], []
        for old, array in zip(batch.schema, batch.columns, strict=True):
            if isinstance(array, pa.ExtensionArray):
                array = array.storage
            # A column that contains only nulls has no type of its own.
            wanted = self.get(old.name) if pa.types.is_null(array.type) else self.declared.get(old.name)
            if wanted is not None and array.type != wanted:
                try:
                    array = pc.cast(array, wanted)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise self.mismatch(old.name, wanted, f"{array.type}: {error}") from None
            arrays.append(array)
            fields.append(pa.field(old.name, array.type))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
