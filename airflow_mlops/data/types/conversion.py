"""Conversion of columns from one type to another, without silently changing a value."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.moments import UTC, as_type, as_utc, from_integers, is_text, is_time
from airflow_mlops.data.types.numbers import (
    decimals_of_text,
    doubles_of_text,
    exact_doubles,
    integers_of_text,
    narrowed,
    require_zero_or_one,
    without_final_zeros,
)
from airflow_mlops.data.types.stored import entry_type, is_list, stored_type

_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def as_stored(values: Any, what: str, *, first_row: int = 0) -> Any:
    """Convert a column to the type in which it is stored.

    :param values: an Arrow array or chunked array
    :param what: subject of error messages: the column and its origin, such as ``Column 'time'``
    :param first_row: number of rows before ``values``, for the row numbers in error messages
    :raises SchemaError: the type cannot be stored, or a value cannot be converted
    """
    wanted = stored_type(values.type)
    if wanted is None:
        raise SchemaError(
            f"{what} has the type {values.type}, which datasets cannot store. Convert it in the source, for example to "
            "text or to a number."
        )
    return as_column(values, wanted, what, first_row=first_row)


def as_column(values: Any, kind: pa.DataType, what: str, *, first_row: int = 0) -> Any:
    """Convert a column to the type ``kind``.

    :param values: an Arrow array or chunked array
    :param kind: Arrow type to which the column is converted
    :param what: subject of error messages: the column and its origin
    :param first_row: number of rows before ``values``, for the row numbers in error messages
    :raises SchemaError: a value cannot be converted
    """
    try:
        return cast(values, kind, what, first_row=first_row)
    except pa.ArrowException as error:
        raise SchemaError(
            f"{what} contains {values.type} values that cannot be converted to {kind}: {one_sentence(error)}. Correct "
            "the values in the source, or declare another type at ingestion, such as string (types=)."
        ) from None


def cast(values: Any, kind: pa.DataType, what: str, *, first_row: int = 0) -> Any:
    """Convert a column like :func:`as_column`, but let Arrow's own errors pass.

    :raises SchemaError: a value cannot be converted to a point in time
    :raises pyarrow.ArrowException: a value cannot be converted to a type other than a time
    """
    if isinstance(values, pa.ChunkedArray):
        chunks, row = [], first_row
        for chunk in values.chunks:
            chunks.append(cast(chunk, kind, what, first_row=row))
            row += len(chunk)
        return pa.chunked_array(chunks, kind)
    values = _plain(values)
    own = values.type
    if (is_text(own) or is_time(own)) and is_time(kind):
        if kind.equals(UTC):
            return as_utc(values, what, first_row=first_row)
        return as_type(values, kind, what, first_row=first_row)
    # Drivers add metadata to the fields of lists and structs, which would be part of the dataset's identity.
    if own.equals(kind, check_metadata=True) and not _has_nested_times(kind):
        return values
    return _cast(values, kind, what, first_row)


def _has_nested_times(kind: pa.DataType) -> bool:
    """Return whether a type has nested times, whose range must be checked."""
    children = [kind.field(place).type for place in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    return any(is_time(child) or _has_nested_times(child) for child in children)


def can_cast(values: pa.Array, kind: pa.DataType) -> bool:
    """Return whether :func:`cast` can convert all values."""
    try:
        cast(values, kind, "A value")
    except (SchemaError, pa.ArrowException):
        return False
    return True


def one_sentence(error: BaseException) -> str:
    """Return the first sentence of an Arrow error, on one line and without a full stop."""
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".")


def _plain(values: pa.Array) -> pa.Array:
    """Decode an extension, dictionary or run-end encoded array to a plain array of its values."""
    if isinstance(values, pa.ExtensionArray):
        return _uuid_text(values.storage) if isinstance(values.type, pa.UuidType) else _plain(values.storage)
    if pa.types.is_dictionary(values.type):
        return _plain(values.dictionary).take(values.indices)
    if pa.types.is_run_end_encoded(values.type):
        return _plain(pc.run_end_decode(values))
    return values


def _uuid_text(values: pa.Array) -> pa.Array:
    from uuid import UUID

    return pa.array([None if value is None else str(UUID(bytes=value)) for value in values.to_pylist()], pa.string())


def _cast(values: pa.Array, kind: pa.DataType, what: str, first_row: int) -> pa.Array:
    own = values.type
    if pa.types.is_list(kind) and (is_list(own) or pa.types.is_map(own)):
        return _cast_list(values, kind, what, first_row)
    if pa.types.is_struct(kind) and pa.types.is_struct(own):
        return _cast_struct(values, kind, what, first_row)
    has_no_values = values.null_count == len(values) or (pa.types.is_struct(own) and not own.num_fields)
    if has_no_values and (pa.types.is_null(kind) or pa.types.is_nested(own)):
        return pa.nulls(len(values), kind)
    if pa.types.is_duration(own) and pa.types.is_floating(kind):
        seconds = pc.divide(values.cast(pa.int64()).cast(pa.float64()), _PER_SECOND[own.unit])
        return pc.cast(seconds, kind)
    if pa.types.is_duration(own) and pa.types.is_integer(kind):
        return pc.cast(values.cast(pa.int64()), kind)
    if pa.types.is_time(own) and is_text(kind):
        return pc.cast(without_final_zeros(pc.cast(values, pa.string())), kind)
    if pa.types.is_decimal(kind) and pa.types.is_floating(own):
        # The shortest text of a float is the intended number. Arrow would round the float to the scale.
        return decimals_of_text(
            pc.cast(values.cast(pa.float32()) if pa.types.is_float16(own) else values, pa.string()), kind
        )
    if pa.types.is_decimal(kind) and is_text(own):
        return decimals_of_text(values, kind)
    if is_text(own) and pa.types.is_integer(kind):
        return integers_of_text(values, kind)
    if is_text(own) and pa.types.is_floating(kind):
        values = doubles_of_text(values)
    if pa.types.is_decimal(own) and pa.types.is_floating(kind):
        values = exact_doubles(values)
    if pa.types.is_float16(own):
        values = values.cast(pa.float32())
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return narrowed(values, kind)
    if pa.types.is_boolean(kind) and (pa.types.is_integer(own) or pa.types.is_floating(own)):
        require_zero_or_one(values)
    if is_time(kind) and pa.types.is_integer(own):
        return from_integers(values, kind, what, first_row=first_row)
    return pc.cast(values, kind)


def _cast_list(values: pa.Array, kind: pa.DataType, what: str, first_row: int) -> pa.Array:
    if pa.types.is_map(values.type):
        values = values.cast(pa.list_(entry_type(values.type)))
    elif not pa.types.is_list(values.type):
        values = values.cast(pa.list_(values.type.value_type))
    inner = _cast_elements(values, kind.value_type, what, first_row)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(_lengths(values))])
    # flatten() leaves out the elements of null lists.
    found = pa.ListArray.from_arrays(offsets, inner, mask=values.is_null()) if len(values) else pa.array([], kind)
    return found.cast(kind)


def _lengths(values: pa.Array) -> pa.Array:
    return pc.fill_null(pc.list_value_length(values), 0).cast(pa.int32())


def _cast_elements(values: pa.Array, kind: pa.DataType, what: str, first_row: int) -> pa.Array:
    """Convert the elements of lists.

    :raises SchemaError: an element cannot be converted. The message contains the row number of the list
    """
    elements = values.flatten()
    try:
        return as_column(elements, kind, what)
    except SchemaError:
        # The first element with an error lies between these numbers.
        low, high = 0, len(elements)
        while low < high - 1:
            middle = (low + high) // 2
            low, high = (low, middle) if not can_cast(elements.slice(low, middle - low), kind) else (middle, high)
        row = pc.index(pc.greater(pc.cumulative_sum(_lengths(values)), low), True).as_py()
        as_column(elements.slice(low, 1), kind, what, first_row=first_row + row)
        raise


def _cast_struct(values: pa.Array, kind: pa.DataType, what: str, first_row: int) -> pa.Array:
    own = values.type
    for field in own:
        if kind.get_field_index(field.name) < 0 and pc.struct_field(values, field.name).null_count < len(values):
            raise pa.ArrowInvalid(f"the type has no field {field.name!r}")
    children = [
        as_column(
            pc.struct_field(values, field.name),
            field.type,
            f"Field {field.name!r} of {what[0].lower()}{what[1:]}",
            first_row=first_row,
        )
        if own.get_field_index(field.name) >= 0
        else pa.nulls(len(values), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=values.is_null())
