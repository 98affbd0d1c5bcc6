"""Convert the key columns of predictions and labels to types in which equal keys have equal values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.carried import carried_type
from airflow_mlops.data.moments import is_text
from airflow_mlops.data.types import as_doubles, common_type, decimal_text, double_text, without_final_zeros

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_BOOLEAN = r"^(true|false)$"

_Convert = Callable[[Any], Any]


class KeyColumn:
    """A key column of predictions and labels, which converts the values of both to a common form.

    Two keys are equal if their converted values are equal. Two numbers are compared as numbers. A number and a text are
    compared as text. A value that cannot equal any value of the other type becomes null, because null keys match no
    row. For example, 2.5 becomes null if the other column has integers, and so does the decimal 2**53 + 1 if the other
    column has doubles. The columns may be converted in batches.

    :param key: name of the column
    :param predictions: type of the column in the predictions, a stored type
    :param labels: type of the column in the dataset of labels
    :param name: name of the dataset of labels, for error messages
    :raises SchemaError: the types cannot be compared
    """

    def __init__(self, key: str, predictions: pa.DataType, labels: pa.DataType, name: str) -> None:
        self.name = key
        self._what = (key, predictions, labels, name)
        found = _conversions(predictions, labels)
        if found is None:
            raise self._incomparable()
        self._of_predictions, self._of_labels = found
        # Regular expression for the texts of the labels that can equal a value of the predictions.
        self._pattern = _form(predictions) if is_text(labels) else None
        self._has_values = self._has_form = False

    @property
    def kind(self) -> pa.DataType:
        """Return the type of the converted keys."""
        return self._of_predictions(pa.array([], self._what[1])).type

    @property
    def carried(self) -> pa.DataType:
        """Return the type in which DuckDB compares the converted keys."""
        return carried_type(self.kind)

    def of_predictions(self, column: Any) -> Any:
        """Convert values of the predictions.

        :raises SchemaError: the types cannot be compared
        """
        return self._converted(self._of_predictions, column)

    def of_labels(self, column: Any) -> Any:
        """Convert values of the labels.

        :raises SchemaError: the types cannot be compared
        """
        if self._pattern is not None and not self._has_form:
            self._has_values = self._has_values or column.null_count < len(column)
            self._has_form = bool(pc.any(pc.match_substring_regex(column, self._pattern)).as_py())
        return self._converted(self._of_labels, column)

    def check(self) -> None:
        """Check that at least one text of the labels can equal a value of the predictions.

        Call this method after all labels were converted.

        :raises SchemaError: the predictions have numbers or booleans, and no text of the labels can equal such a value
        """
        if self._has_values and not self._has_form:
            raise self._incomparable()

    def _converted(self, convert: _Convert, column: Any) -> Any:
        try:
            return convert(column)
        except pa.ArrowException:
            raise self._incomparable() from None

    def _incomparable(self) -> SchemaError:
        key, predictions, labels, name = self._what
        return SchemaError(
            f"The key column {key!r} is {predictions} in the predictions but {labels} in dataset {name!r}, and these "
            "types cannot be compared. Ingest both with the same type."
        )


def comparable(predictions: pa.Table, labels: pa.Table, name: str) -> tuple[pa.Table, pa.Table]:
    """Convert the key columns of two tables, so that two keys are equal if their converted values are equal.

    :param predictions: key columns of the predictions, in stored types
    :param labels: columns of the labels, with the same key columns
    :param name: name of the dataset of labels, for error messages
    :return: the key columns of the predictions and of the labels, see :class:`KeyColumn`
    :raises SchemaError: the types of a key column cannot be compared
    """
    left, right = {}, {}
    for key in predictions.column_names:
        column = KeyColumn(key, predictions[key].type, labels[key].type, name)
        left[key], right[key] = column.of_predictions(predictions[key]), column.of_labels(labels[key])
        column.check()
    return pa.table(left), pa.table(right)


def _conversions(one: pa.DataType, other: pa.DataType) -> tuple[_Convert, _Convert] | None:
    """Return the conversions of both types to a common form, or ``None`` if the types cannot be compared."""
    kinds = (one, other)
    if is_text(one) or is_text(other):
        as_text = partial(_as_text, decimal=any(map(pa.types.is_decimal, kinds)))
        return as_text, as_text
    if any(map(pa.types.is_boolean, kinds)) and any(map(_is_number, kinds)):
        found = _conversions(*(pa.int64() if pa.types.is_boolean(kind) else kind for kind in kinds))
        if found is None:
            return None
        left, right = found
        return (_of_booleans(left), right) if pa.types.is_boolean(one) else (left, _of_booleans(right))
    kind = common_type(one, other)
    if kind is None:
        return None
    if pa.types.is_null(kind):
        kind = pa.string()
    if pa.types.is_floating(kind):
        whole = next((kind for kind in kinds if pa.types.is_integer(kind)), None)
        if whole is None:
            return _as_doubles, _as_doubles
        # As doubles, integers beyond 2**53 would lose digits.
        as_integers = partial(_as_integers, kind=whole)
        return as_integers, as_integers
    if any(map(pa.types.is_decimal, kinds)) and one != other and not any(map(pa.types.is_null, kinds)):
        # For some pairs of types, no decimal with 38 digits holds the values of both.
        return decimal_text, decimal_text
    as_kind = partial(_cast, kind=kind)
    return as_kind, as_kind


def _of_booleans(convert: _Convert) -> _Convert:
    return lambda column: convert(pc.cast(column, pa.int64()))


def _cast(column: Any, kind: pa.DataType) -> Any:
    return pc.cast(column, kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _form(kind: pa.DataType) -> str | None:
    """Return a regular expression for the texts that can equal a value of the type ``kind``.

    Return ``None`` if any text can equal a value of this type.
    """
    return _NUMBER if _is_number(kind) else _BOOLEAN if pa.types.is_boolean(kind) else None


def _as_text(column: Any, decimal: bool) -> Any:
    """Convert a column to text. -0 becomes 0, and whole numbers have the text of integers.

    :param decimal: whether to remove trailing zeros after the decimal point
    """
    if pa.types.is_floating(column.type):
        column = double_text(_as_doubles(column))
    # Numbers are converted to text, and not text to numbers, because the texts 7 and 007 are different keys.
    if pa.types.is_decimal(column.type):
        return decimal_text(column)
    text = pc.cast(column, pa.string())
    return without_final_zeros(text) if decimal else text


def _as_doubles(column: Any) -> Any:
    """Convert numbers to doubles. NaN is a missing key and becomes null, as in :func:`_as_integers`.

    A decimal below 2**53 becomes its nearest double. A decimal beyond 2**53 becomes null if no double has the same value.
    """
    doubles = as_doubles(column)
    if pa.types.is_decimal(column.type):
        large = pc.greater_equal(pc.abs(doubles), 2.0**53)
        exact = pc.cast(pc.if_else(large, doubles, None), pa.decimal256(76, 0))
        wide = pa.decimal256(76, max(column.type.scale, 0))
        rounded = pc.and_kleene(large, pc.not_equal(pc.cast(exact, wide), pc.cast(column, wide)))
        return pc.if_else(rounded, None, doubles)
    # Adding 0.0 turns -0.0 into 0.0.
    return pc.add(pc.if_else(pc.is_nan(doubles), None, doubles), 0.0)


def _as_integers(column: Any, kind: pa.DataType) -> Any:
    """Convert integers or doubles to an integer type. Doubles that are not integers, or out of range, become null."""
    if not pa.types.is_floating(column.type):
        return pc.cast(column, kind)
    low, high = (0.0, 2.0**64) if pa.types.is_uint64(kind) else (-(2.0**63), 2.0**63)
    fits = pc.and_(pc.greater_equal(column, low), pc.less(column, high))
    return pc.cast(pc.if_else(pc.and_(fits, pc.equal(pc.floor(column), column)), column, None), kind)
