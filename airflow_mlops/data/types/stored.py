"""The types in which datasets store columns, and the common type of two types."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from airflow_mlops.data.moments import UTC, is_text, is_time

DECIMAL_DIGITS = 38
"""The maximum number of digits of a decimal128."""

_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=([^\]]+))?\]$")
_DECIMAL = re.compile(r"decimal(?:32|64|128|256)?\((\d+), ?(-?\d+)\)$")
_DICTIONARY = re.compile(r"dictionary<values=(.+), indices=\w+, ordered=[01]>$")
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
        return stored_type(pa.list_(entry_type(kind)))
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


def entry_type(kind: pa.DataType) -> pa.DataType:
    """Return the struct type of an entry of a map, with the fields ``key`` and ``value``."""
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
