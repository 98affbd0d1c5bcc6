"""Convert columns to types that DuckDB returns bit for bit, and convert the results back.

DuckDB compares floating-point numbers by value, has fewer types of times than Arrow, and has no dictionaries. If a
query only returns values, or compares them for exact equality, floating-point numbers and times are therefore converted
to integers of the same width, and dictionaries to their values.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_INTEGERS = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def carried(values: Any) -> Any:
    """Convert an Arrow array, or chunked array, to a type that DuckDB returns unchanged, see :func:`carried_type`.

    :param values: the array
    :raises pyarrow.ArrowNotImplementedError: DuckDB has no such type. This is the case for nested types and intervals
    """
    if isinstance(values, pa.ChunkedArray):
        return pa.chunked_array([carried(chunk) for chunk in values.chunks], carried_type(values.type))
    if isinstance(values, pa.ExtensionArray):
        return carried(values.storage)
    if pa.types.is_dictionary(values.type):
        return carried(values.dictionary_decode())
    wanted = carried_type(values.type)
    if values.type.equals(wanted):
        return values
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), wanted)
    return values.view(wanted) if pa.types.is_integer(wanted) else pc.cast(values, wanted)


def carried_type(kind: pa.DataType) -> pa.DataType:
    """Return the type to which :func:`carried` converts values of the type ``kind``.

    :raises pyarrow.ArrowNotImplementedError: there is no such type
    """
    if isinstance(kind, pa.BaseExtensionType):
        return carried_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return carried_type(kind.value_type)
    if pa.types.is_null(kind):
        return pa.int8()
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal128(kind):
        return kind
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if not pa.types.is_nested(kind) and pa.types.is_primitive(kind) and kind.bit_width in _INTEGERS:
        return _INTEGERS[kind.bit_width]
    raise pa.ArrowNotImplementedError(f"DuckDB cannot return values of the type {kind} unchanged")


def restored(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert an array that DuckDB returned back to ``kind``, the type of the array that :func:`carried` converted."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, restored(values, kind.storage_type))
    if pa.types.is_dictionary(kind):
        return restored(values, kind.value_type).dictionary_encode().cast(kind)
    if pa.types.is_null(kind):
        return pa.nulls(len(values), kind)
    wanted = carried_type(kind)
    if not values.type.equals(wanted):
        values = pc.cast(values, wanted)
    if values.type.equals(kind):
        return values
    return values.view(kind) if pa.types.is_integer(wanted) else pc.cast(values, kind)
