"""Converts the key columns of predictions and labels to types in which equal keys have equal values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.moments import is_text
from airflow_mlops.data.types import as_doubles, common_type, decimal_text

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_BOOLEAN = r"^(true|false)$"


def comparable(predictions: pa.Table, labels: pa.Table, name: str) -> tuple[pa.Table, pa.Table]:
    """Convert the key columns of two tables, so that two keys are equal if their converted values are equal.

    Numbers are compared as numbers, and numbers and text as text. A value that no value of the other type can equal,
    such as 2.5 beside integers, becomes null, because null keys match no row.

    :param predictions: key columns of the predictions, in stored types
    :param labels: columns of the labels, with the same key columns
    :param name: name of the dataset of labels, for error messages
    :return: the key columns of the predictions and of the labels
    :raises SchemaError: the types of a key column cannot be compared
    """
    converted = {}
    for key in predictions.column_names:
        one, other = predictions[key], labels[key]
        try:
            pair = _pair(one, other)
        except pa.ArrowException:
            pair = None
        if pair is None:
            raise SchemaError(
                f"The key column {key!r} is {one.type} in the predictions but {other.type} in dataset {name!r}, and these "
                "types cannot be compared. Ingest both with the same type."
            )
        converted[key] = pair
    left, right = zip(*converted.values(), strict=True)
    return pa.table(list(left), names=list(converted)), pa.table(list(right), names=list(converted))


def _pair(one: Any, other: Any) -> tuple[Any, Any] | None:
    """Return both columns in a common form, or ``None`` if their types cannot be compared."""
    kinds = (one.type, other.type)
    if is_text(one.type) or is_text(other.type):
        if is_text(other.type) and _is_never(one.type, other):
            return None
        decimal = any(map(pa.types.is_decimal, kinds))
        return _as_text(one, decimal), _as_text(other, decimal)
    if any(map(pa.types.is_boolean, kinds)) and any(map(_is_number, kinds)):
        one, other = (
            pc.cast(column, pa.int64()) if pa.types.is_boolean(column.type) else column for column in (one, other)
        )
        return _pair(one, other)
    kind = common_type(*kinds)
    if kind is None:
        return None
    if pa.types.is_null(kind):
        kind = pa.string()
    if pa.types.is_floating(kind):
        whole = next((kind for kind in kinds if pa.types.is_integer(kind)), None)
        if whole is None:
            return _as_doubles(one), _as_doubles(other)
        # As doubles, integers beyond 2**53 would lose digits.
        return _as_integers(one, whole), _as_integers(other, whole)
    if any(map(pa.types.is_decimal, kinds)) and kinds[0] != kinds[1] and not any(map(pa.types.is_null, kinds)):
        # A decimal of 38 digits cannot represent all pairs of types.
        return decimal_text(one), decimal_text(other)
    return pc.cast(one, kind), pc.cast(other, kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_never(kind: pa.DataType, text: Any) -> bool:
    """Return whether a column of text contains values, but none that a value of the type ``kind`` can equal."""
    pattern = _NUMBER if _is_number(kind) else _BOOLEAN if pa.types.is_boolean(kind) else None
    if pattern is None or text.null_count == len(text):
        return False
    return not pc.any(pc.match_substring_regex(text, pattern)).as_py()


def _as_text(column: Any, decimal: bool) -> Any:
    """Convert a column to text, without -0 and, if ``decimal``, without trailing zeros behind the decimal point."""
    if pa.types.is_floating(column.type):
        column = _as_doubles(column)
    # As integers, 7 and 007 would be the same key.
    return decimal_text(column) if decimal else pc.cast(column, pa.string())


def _as_doubles(column: Any) -> Any:
    # Adding 0.0 turns -0.0 into 0.0.
    return pc.add(as_doubles(column), 0.0)


def _as_integers(column: Any, kind: pa.DataType) -> Any:
    """Convert integers or doubles to an integer type. Doubles that are not integers, or out of range, become null."""
    if not pa.types.is_floating(column.type):
        return pc.cast(column, kind)
    low, high = (0.0, 2.0**64) if pa.types.is_uint64(kind) else (-(2.0**63), 2.0**63)
    fits = pc.and_(pc.greater_equal(column, low), pc.less(column, high))
    return pc.cast(pc.if_else(pc.and_(fits, pc.equal(pc.floor(column), column)), column, None), kind)
