"""Conversion of numbers without rounding: text, decimals and floating-point numbers."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.types.stored import DECIMAL_DIGITS

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")


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


def hexadecimal(text: pa.Array) -> pa.Array:
    """Return which texts Arrow would convert to an integer as a hexadecimal number, such as ``0x10``, shape (n,)."""
    return pc.fill_null(pc.match_substring_regex(text, r"(?i)^\s*[+-]?0x"), False)


def integers_of_text(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert text to integers. A whole number can have decimals that are zeros, such as ``12.0``.

    :raises pyarrow.ArrowInvalid: a value is not a whole number in decimal notation, or does not fit in ``kind``
    """
    # Without a declared type, such a value is text. As a float or a decimal, it is an error.
    if pc.any(found := hexadecimal(text)).as_py():
        raise pa.ArrowInvalid(f"{text.filter(found)[0].as_py()[:80]!r} is not in decimal notation")
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


def exact_doubles(values: pa.Array) -> pa.Array:
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


def narrowed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert numbers or text to half or single precision.

    :raises pyarrow.ArrowInvalid: a number is too large and would become infinity
    """
    found = pc.cast(values, kind)
    before, after = (pc.is_inf(pc.cast(side, pa.float64(), safe=False)) for side in (values, found))
    lost = pc.fill_null(pc.and_not(after, before), False)
    if pc.any(lost).as_py():
        raise pa.ArrowInvalid(f"{values.filter(lost)[0]} is too large for {kind}")
    return found


def require_zero_or_one(values: pa.Array) -> None:
    """Check that numbers can be booleans.

    :raises pyarrow.ArrowInvalid: a number is neither 0 nor 1
    """
    other = pc.fill_null(pc.and_(pc.not_equal(values, 0), pc.not_equal(values, 1)), False)
    if pc.any(other).as_py():
        raise pa.ArrowInvalid(f"{values.filter(other)[0]} is neither 0 nor 1")


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
    # Arrow writes decimals below 0.000001 with an exponent that depends on the scale: 0 is 0E-10 with ten decimals.
    text = pc.replace_substring_regex(pc.cast(values, pa.string()), r"^-?0E[+-]\d+$", "0")
    if pc.any(pc.match_substring(text, "E")).as_py():
        found = pc.unique(text.filter(pc.match_substring(text, "E")))
        plain = pa.array([f"{Decimal(value):f}" for value in found.to_pylist()], pa.string())
        text = pc.coalesce(plain.take(pc.index_in(text, value_set=found)), text)
    return without_final_zeros(text)


def double_text(values: Any) -> Any:
    """Convert floating-point numbers to text. A whole number of up to 64 bits has the text of the equal integer.

    Arrow would write whole numbers from 10,000,000,000 on with an exponent, such as 1e+10, and -0.0 as -0.
    """
    values = pc.cast(values, pa.float64())
    is_whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63))
    whole = pc.cast(pc.if_else(is_whole, values, None), pa.int64())
    return pc.coalesce(pc.cast(whole, pa.string()), pc.cast(values, pa.string()))


def without_final_zeros(text: Any) -> Any:
    """Remove the trailing zeros after the decimal point, and a decimal point that would then come last."""
    return pc.replace_substring_regex(text, r"\.0+$|(\.\d*[1-9])0+$", r"\1")
