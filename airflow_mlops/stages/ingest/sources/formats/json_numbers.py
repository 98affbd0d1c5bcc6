"""Find numbers in JSON records that a column type cannot represent. Arrow would read them as different numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isinf
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.types import exact_decimal, is_list
from airflow_mlops.stages.ingest.sources.formats.json_text import JsonNumber

_WHOLE = re.compile(r"-?\d+$")


def has_large_doubles(array: pa.Array) -> bool:
    """Return whether a column contains floating-point numbers from 2**53 on, also in lists and structs."""
    kind = array.type
    if pa.types.is_float64(kind):
        return bool(pc.any(pc.greater_equal(pc.abs(array), 2.0**53)).as_py())
    if is_list(kind):
        return has_large_doubles(array.flatten())
    if pa.types.is_struct(kind):
        return any(map(has_large_doubles, array.flatten()))
    return False


def inexact_double(value: Any, kind: pa.DataType, *, rounds: bool = False) -> str | None:
    """Return the first number in a JSON value that Arrow has read as a different floating-point number.

    :param value: decoded value
    :param kind: Arrow type of the value
    :param rounds: whether whole numbers may be rounded. If true, only too large numbers are returned
    :return: a whole number that a double cannot represent, or a number that is too large for a double; otherwise
        ``None``
    """
    if pa.types.is_float64(kind):
        if not isinstance(value, JsonNumber):
            return None
        double = float(value)
        if isinf(double):
            return str(value)
        # Python refuses to parse integers of thousands of digits. As doubles, they would be infinite.
        return str(value) if not rounds and _WHOLE.match(value) and int(double) != int(value) else None
    found = (inexact_double(one, inner, rounds=rounds) for one, inner in _inner(value, kind))
    return next((number for number in found if number is not None), None)


def misfit_decimal(value: Any, kind: pa.DataType) -> str | None:
    """Return the first number in a JSON value that its decimal type cannot represent; ``None`` if there is none.

    Numbers in lists and structs are checked as well.
    """
    if pa.types.is_nested(kind):
        found = (misfit_decimal(one, inner) for one, inner in _inner(value, kind))
        return next((number for number in found if number is not None), None)
    if not (pa.types.is_decimal(kind) and isinstance(value, str)):
        return None
    try:
        exact_decimal(value, kind)
    except pa.ArrowInvalid:
        return str(value)
    return None


def other_field(value: Any, kind: pa.DataType) -> str | None:
    """Return the path of the first field in a JSON value that its struct type lacks; ``None`` if there is none."""
    if pa.types.is_struct(kind) and isinstance(value, dict):
        for name, inner in value.items():
            index = kind.get_field_index(name)
            if index < 0:
                return str(name)
            if (found := other_field(inner, kind.field(index).type)) is not None:
                return f"{name}/{found}"
    elif is_list(kind) and isinstance(value, list):
        found = next((path for one in value if (path := other_field(one, kind.value_type)) is not None), None)
        return f"[]/{found}" if found is not None else None
    return None


def contains(value: Any, text: str) -> bool:
    """Return whether a JSON value is the text or number ``text``, or contains it in an array or object."""
    if isinstance(value, str):
        return value == text
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return any(contains(one, text) for one in inner)


def _inner(value: Any, kind: pa.DataType) -> Iterator[tuple[Any, pa.DataType]]:
    """Yield the values in an array or object, and their types."""
    if is_list(kind) and isinstance(value, list):
        for one in value:
            yield one, kind.value_type
    elif pa.types.is_struct(kind) and isinstance(value, dict):
        for field in kind:
            if field.name in value:
                yield value[field.name], field.type
