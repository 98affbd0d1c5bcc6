"""The column types of datasets. Ingestion converts all columns of a source to these types, and all stages read them.

========================  ======================================================================================
stored as                 converted from
========================  ======================================================================================
``bool``                  bool
``int64``                 all signed integers, and unsigned integers of up to 32 bits
``uint64``                uint64
``double``                half, single and double precision, durations (in seconds)
``decimal128(p, s)``      all decimals of up to 38 digits
``string``                text of any kind, UUIDs, times of day (``10:30:00``), JSON
``binary``                bytes of any kind
``date32[day]``           dates
``timestamp[us, tz=UTC]``  timestamps of any unit and time zone. Those without a time zone are read as UTC
``list``, ``struct``      lists and arrays of any kind, maps (as lists of keys and values), structs
========================  ======================================================================================

Dictionaries (categoricals) are stored as their values. A struct without fields is stored as null. All conversions keep
the value, except that nanoseconds are rounded down to microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.moments import UTC, as_type, as_utc, from_integers, is_text, is_time

DECIMAL_DIGITS = 38
"""The maximum number of digits of a decimal128."""

_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=([^\]]+))?\]$")
_DECIMAL = re.compile(r"decimal(?:32|64|128|256)?\((\d+), ?(-?\d+)\)$")
_DICTIONARY = re.compile(r"dictionary<values=(.+), indices=\w+, ordered=[01]>$")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_LIST = re.compile(r"(?:large_)?list<\w+: (.+?)(?: not null)?>$")


def find_type(name: str) -> pa.DataType | None:
    """Return the Arrow type with a given name, as in a manifest or in the parameter ``types`` of IngestOperator.

    The result is ``None`` for unknown names.
    """
    name = name.strip()
    if found := _TIMESTAMP.match(name):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.match(name):
        precision, scale = int(found[1]), int(found[2])
        return pa.decimal128(precision, scale) if 0 < precision <= DECIMAL_DIGITS else None
    if found := _DICTIONARY.match(name):
        value = find_type(found[1])
        return pa.dictionary(pa.int32(), value) if value is not None else None
    if found := _LIST.match(name):
        value = find_type(found[1])
        return pa.list_(value) if value is not None else None
    if name.startswith("struct<") and name.endswith(">"):
        return _find_struct(name[len("struct<") : -1])
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return None


def _find_struct(text: str) -> pa.DataType | None:
    """Return the struct type whose fields ``text`` lists, such as ``x: int64, y: list<item: string>``.

    :return: ``None`` if a type is unknown or a name contains a character with which Arrow separates fields
    """
    fields, start, depth = [], 0, 0
    for at, character in enumerate(f"{text},"):
        depth += (character in "<([") - (character in ">)]")
        if character != "," or depth:
            continue
        name, _, kind = text[start:at].strip().partition(": ")
        found = find_type(kind.removesuffix(" not null"))
        if not name or found is None:
            return None
        fields.append((name, found))
        start = at + 1
    return pa.struct(fields) if depth == 0 else None


def is_binary(kind: pa.DataType) -> bool:
    """Return whether columns of the type ``kind`` hold bytes."""
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def is_list(kind: pa.DataType) -> bool:
    """Return whether columns of the type ``kind`` hold lists."""
    checks = (
        pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
        pa.types.is_large_list_view,
    )  # fmt: skip
    return any(check(kind) for check in checks)


def stored_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type in which datasets store values of the type ``kind``, or ``None`` if they cannot store them."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.string() if isinstance(kind, pa.UuidType) else stored_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return stored_type(kind.value_type)
    if is_list(kind):
        value = stored_type(kind.value_type)
        return pa.list_(value) if value is not None else None
    if pa.types.is_map(kind):
        return stored_type(pa.list_(_entry(kind)))
    if pa.types.is_struct(kind):
        fields = [(field.name, stored_type(field.type)) for field in kind]
        if not fields:
            return pa.null()
        return pa.struct(fields) if all(found is not None for _, found in fields) else None
    if pa.types.is_decimal(kind):
        return pa.decimal128(min(kind.precision, DECIMAL_DIGITS), kind.scale)
    for is_kind, stored in _STORED:
        if is_kind(kind):
            return stored
    return None


def _entry(kind: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)])


_STORED: tuple[tuple[Any, pa.DataType], ...] = (
    (pa.types.is_null, pa.null()),
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_uint64, pa.uint64()),
    (pa.types.is_integer, pa.int64()),
    (pa.types.is_floating, pa.float64()),
    (pa.types.is_duration, pa.float64()),
    (is_text, pa.string()),
    (pa.types.is_time, pa.string()),
    (is_binary, pa.binary()),
    (pa.types.is_date, pa.date32()),
    (pa.types.is_timestamp, UTC),
)


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
        return pc.cast(_without_final_zeros(pc.cast(values, pa.string())), kind)
    if pa.types.is_decimal(kind) and pa.types.is_floating(own):
        # The shortest text of a float is the number that is meant. Arrow would round it to the scale.
        return decimals_of_text(
            pc.cast(values.cast(pa.float32()) if pa.types.is_float16(own) else values, pa.string()), kind
        )
    if pa.types.is_decimal(kind) and is_text(own):
        return decimals_of_text(values, kind)
    if is_text(own) and pa.types.is_integer(kind):
        return _integers_of_text(values, kind)
    if is_text(own) and pa.types.is_floating(kind):
        values = doubles_of_text(values)
    if pa.types.is_decimal(own) and pa.types.is_floating(kind):
        values = _exact_doubles(values)
    if pa.types.is_float16(own):
        values = values.cast(pa.float32())
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return _narrowed(values, kind)
    if pa.types.is_boolean(kind) and (pa.types.is_integer(own) or pa.types.is_floating(own)):
        _require_zero_or_one(values)
    if is_time(kind) and pa.types.is_integer(own):
        return from_integers(values, kind, what, first_row=first_row)
    return pc.cast(values, kind)


def decimals_of_text(text: Any, kind: pa.DataType) -> Any:
    """Convert an array of text to decimals. Unlike Arrow's own conversion, numbers that are too large raise an error.

    :raises pyarrow.ArrowInvalid: a value is not a number, or ``kind`` cannot represent it exactly
    """
    whole = min(max(kind.precision - kind.scale, 0), DECIMAL_DIGITS)
    short = rf"^[+-]?[0-9]{{0,{whole}}}(\.[0-9]{{0,{DECIMAL_DIGITS - whole}}})?$"
    if pc.all(pc.match_substring_regex(text, short)).as_py() is not False:
        return pc.cast(text, kind)
    return pa.array([None if value is None else exact_decimal(value, kind) for value in text.to_pylist()], kind)


def exact_decimal(text: str, kind: pa.DataType) -> Decimal:
    """Convert text to a number with the scale of a decimal type.

    :raises pyarrow.ArrowInvalid: the text is not a number, or ``kind`` cannot represent it exactly
    """
    if not _NUMBER.fullmatch(text):
        raise pa.ArrowInvalid(f"{text[:80]!r} is not a number")
    number = Decimal(text)
    if number and number.adjusted() >= kind.precision - kind.scale:
        raise pa.ArrowInvalid(f"{text[:80]} has too many digits for {kind}")
    sign, digits, exponent = number.as_tuple()
    kept = len(digits) + int(exponent) + kind.scale
    if number and any(digits[max(kept, 0) :]):
        raise pa.ArrowInvalid(f"{text[:80]} has too many digits after the decimal point for {kind}")
    shifted = (*digits[: max(kept, 0)], *[0] * (kept - len(digits) if number else 0))
    return Decimal((sign, shifted or (0,), -kind.scale))


def _integers_of_text(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert text to integers. A whole number can have decimals that are zeros, such as ``12.0``.

    :raises pyarrow.ArrowInvalid: a value is not a whole number, or does not fit in ``kind``
    """
    try:
        return pc.cast(text, kind)
    except pa.ArrowInvalid:
        return pc.cast(pc.replace_substring_regex(text, r"^(\s*[+-]?\d+)\.0+(\s*)$", r"\1\2"), kind)


def doubles_of_text(text: pa.Array) -> pa.Array:
    """Convert text to doubles. Unlike Arrow's own conversion, numbers that are too large raise an error.

    :raises pyarrow.ArrowInvalid: a value is not a number, or is too large
    """
    found = pc.cast(text, pa.float64())
    infinite = pc.fill_null(pc.is_inf(found), False)
    if pc.any(infinite).as_py():
        texts = text.filter(infinite)
        lost = texts.filter(pc.match_substring_regex(texts, r"\d"))
        if len(lost):
            raise pa.ArrowInvalid(f"{lost[0].as_py()[:80]!r} is too large for double")
    return found


def _exact_doubles(values: pa.Array) -> pa.Array:
    """Convert decimals to doubles like :func:`as_doubles`, but refuse large numbers that would be rounded.

    :raises pyarrow.ArrowInvalid: a number of at least 2**53 would be rounded
    """
    doubles = as_doubles(values)
    large = pc.fill_null(pc.greater_equal(pc.abs(doubles), 2.0**53), False)
    if pc.any(large).as_py():
        for exact, double in zip(values.filter(large).to_pylist(), doubles.filter(large).to_pylist(), strict=True):
            if exact != double:
                raise pa.ArrowInvalid(f"double cannot represent {exact} exactly")
    return doubles


def _narrowed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert numbers or text to half or single precision.

    :raises pyarrow.ArrowInvalid: a number is too large and would become infinity
    """
    found = pc.cast(values, kind)
    before, after = (pc.is_inf(pc.cast(side, pa.float64(), safe=False)) for side in (values, found))
    lost = pc.fill_null(pc.and_not(after, before), False)
    if pc.any(lost).as_py():
        raise pa.ArrowInvalid(f"{values.filter(lost)[0]} is too large for {kind}")
    return found


def _require_zero_or_one(values: pa.Array) -> None:
    other = pc.fill_null(pc.and_(pc.not_equal(values, 0), pc.not_equal(values, 1)), False)
    if pc.any(other).as_py():
        raise pa.ArrowInvalid(f"{values.filter(other)[0]} is neither 0 nor 1")


_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def _cast_list(values: pa.Array, kind: pa.DataType, what: str, first_row: int) -> pa.Array:
    if pa.types.is_map(values.type):
        values = values.cast(pa.list_(_entry(values.type)))
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


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type in which datasets can store the values of both types, or ``None`` if there is no such type.

    Types that are stored as the same type have this common type. Two other types of numbers have the common type
    ``double`` if one of them is a float, and otherwise a decimal type. A date type and a timestamp type have the common
    type of timestamps. The null type has a common type with every other type. Two lists have a common type if their
    elements have one, and two structs if all fields with the same name have one.
    """
    left, right = stored_type(one), stored_type(other)
    if left is None or right is None:
        return None
    if left.equals(right) or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    if pa.types.is_list(left) and pa.types.is_list(right):
        value = common_type(left.value_type, right.value_type)
        return pa.list_(value) if value is not None else None
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return _common_struct(left, right)
    if is_time(left) and is_time(right):
        return UTC
    if not (_is_number(left) and _is_number(right)):
        return None
    if pa.types.is_floating(left) or pa.types.is_floating(right):
        return pa.float64()
    (whole, scale), (other_whole, other_scale) = _digits(left), _digits(right)
    scale = max(scale, other_scale)
    return pa.decimal128(min(max(whole, other_whole) + scale, DECIMAL_DIGITS), scale)


def is_same_kind(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether a column can have the two types in different windows of one dataset.

    This is the case if the stored types are equal, if both types are integers, if both are floats or decimals, or if
    one type is null. Lists and structs must have a common type, see :func:`common_type`.
    """
    left, right = stored_type(one), stored_type(other)
    if left is None or right is None:
        return False
    if left.equals(right) or pa.types.is_null(left) or pa.types.is_null(right):
        return True
    if pa.types.is_nested(left) and pa.types.is_nested(right):
        return common_type(left, right) is not None
    is_whole, is_other_whole = pa.types.is_integer(left), pa.types.is_integer(right)
    return _is_number(left) and _is_number(right) and bool(is_whole == is_other_whole)


def _common_struct(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    fields = {field.name: field.type for field in left}
    for field in right:
        found = common_type(fields[field.name], field.type) if field.name in fields else field.type
        if found is None:
            return None
        fields[field.name] = found
    return pa.struct(list(fields.items()))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _digits(kind: pa.DataType) -> tuple[int, int]:
    """Return the maximum number of digits of a type before and after the decimal point."""
    if pa.types.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    return (20 if pa.types.is_uint64(kind) else 19), 0


def concatenated(tables: Sequence[pa.Table], what: str, fix: str) -> pa.Table:
    """Concatenate tables, and convert columns of different types to their common type.

    If a table lacks a column of the other tables, the column is null in the rows of this table.

    :param tables: tables of different windows
    :param what: subject of the error message, such as ``The windows of dataset 'flights'``
    :param fix: last sentence of the error message
    :raises SchemaError: the types of a column have no common type
    """
    if len(tables) == 1:
        return tables[0]
    schema = common_schema((table.schema for table in tables), what, fix)
    return pa.concat_tables([conformed(table, schema, what) for table in tables])


def common_schema(schemas: Iterable[pa.Schema], what: str, fix: str) -> pa.Schema:
    """Return the schema with all columns of ``schemas``. Columns of different types get their common type.

    A type that is equal in all schemas stays unchanged.

    :param what: subject of the error message, such as ``The windows of dataset 'flights'``
    :param fix: last sentence of the error message
    :raises SchemaError: the types of a column have no common type
    """
    found: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            before = found.get(field.name, field.type)
            kind = before if before.equals(field.type) else common_type(before, field.type)
            if kind is None:
                raise SchemaError(
                    f"{what} have columns of different types: {field.name!r} is {before} and {field.type}. {fix}"
                )
            found[field.name] = kind
    return pa.schema(list(found.items()))


def conformed(data: Any, schema: pa.Schema, what: str) -> Any:
    """Convert a table or record batch to ``schema``. Columns that ``data`` does not have become null.

    :param data: the table or record batch
    :param schema: the columns of the result
    :param what: subject of the error message, such as ``The windows of dataset 'flights'``
    :raises SchemaError: a value cannot be converted
    """
    if data.schema.equals(schema):
        return data
    columns = [
        as_column(data.column(field.name), field.type, f"Column {field.name!r} of {what[0].lower() + what[1:]}")
        if field.name in data.schema.names
        else pa.nulls(data.num_rows, field.type)
        for field in schema
    ]
    return type(data).from_arrays(columns, schema=schema)


def as_numbers(values: Any) -> Any:
    """Convert a column of decimals to ``int64`` or ``double``.

    ``int64`` is used if the type has no decimal places and all values fit. ``double`` is used otherwise.

    Columns of other types are returned unchanged.
    """
    if not pa.types.is_decimal(values.type):
        return values
    if values.type.scale <= 0:
        try:
            return pc.cast(values, pa.int64())
        except pa.ArrowInvalid:
            pass
    return as_doubles(values)


def as_doubles(values: Any) -> Any:
    """Convert a column of numbers to ``double``. Decimals are converted to the nearest double.

    :raises pyarrow.ArrowInvalid: a double cannot represent an integer of the column exactly
    """
    if pa.types.is_decimal(values.type):
        # Arrow's own conversion is not exact: 106.85 would become 106.85000000000001.
        values = pc.cast(values, pa.string())
    return pc.cast(values, pa.float64())


def decimal_text(values: Any) -> Any:
    """Convert decimals to text without trailing zeros, so that equal decimals have the same text at any scale."""
    return _without_final_zeros(pc.cast(values, pa.string()))


def _without_final_zeros(text: Any) -> Any:
    return pc.replace_substring_regex(text, r"\.0+$|(\.\d*[1-9])0+$", r"\1")
