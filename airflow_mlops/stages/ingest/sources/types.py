"""Column types: as declared, as an earlier window has them, as the source shows them."""

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
    """The Arrow type that prints as ``name``, if it is not a nested one."""
    if found := _TIMESTAMP.match(name):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.match(name):
        return pa.decimal128(int(found[1]), int(found[2]))
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return None


def declared_types(names: Mapping[str, str]) -> dict[str, pa.DataType]:
    """The types a user gave by name.

    :raises SpecError: naming one that is not an Arrow type
    """
    types = {}
    for column, name in names.items():
        found = find_type(name.strip())
        if found is None or pa.types.is_null(found):
            raise SpecError(
                f"types={{{column!r}: {name!r}}} does not name an Arrow type: write int64, float64, string, bool, "
                "date32, timestamp[us], timestamp[us, tz=UTC] or decimal128(10, 2)."
            )
        types[column] = found
    return types


@dataclass(frozen=True)
class Types:
    """What is known about the columns before the first row is read.

    :param declared: as the user says; rows are converted to these
    :param earlier: as another window of the same dataset has them; what has to be guessed is taken from these
    :param window: that other window, for messages
    """

    declared: Mapping[str, pa.DataType] = field(default_factory=dict)
    earlier: Mapping[str, pa.DataType] = field(default_factory=dict)
    window: str = ""

    def get(self, column: str) -> pa.DataType | None:
        """The type to expect, or ``None`` if the source shall say."""
        return self.declared.get(column, self.earlier.get(column))

    def conflict(self, column: str, expected: pa.DataType | str, found: str, hint: str = "") -> SchemaError:
        """The error for a column that turns out to hold something else than was expected of it.

        :param found: what it holds, as a noun phrase
        :param hint: another way out than to declare a type
        """
        if column in self.declared:
            return SchemaError(
                f"Column {column!r} is declared {expected} but holds {found}: correct types={{...}}{hint}."
            )
        way_out = f"say which type it has with types={{{column!r}: ...}}{hint}"
        if column in self.earlier:
            return SchemaError(
                f"Column {column!r} is {expected} in the window {self.window} but now holds {found}: "
                f"{way_out}, and ingest the other windows again if that is another type than theirs."
            )
        return SchemaError(f"Column {column!r} looked like {expected} at first but holds {found}: {way_out}.")

    def convert(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """``batch`` with its columns in the declared types, plain storage instead of extension types, no metadata.

        :raises SchemaError: a value does not fit its declared type
        """
        arrays, fields = [], []
        for old, array in zip(batch.schema, batch.columns, strict=True):
            if isinstance(array, pa.ExtensionArray):
                array = array.storage
            # A column of nulls only says nothing about its type.
            wanted = self.get(old.name) if pa.types.is_null(array.type) else self.declared.get(old.name)
            if wanted is not None and array.type != wanted:
                try:
                    array = pc.cast(array, wanted)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise self.conflict(old.name, wanted, f"{array.type}: {error}") from None
            arrays.append(array)
            fields.append(pa.field(old.name, array.type))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
