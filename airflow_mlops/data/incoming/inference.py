"""Infer the types of text columns, such as the columns of CSV files, from all values of a column.

Text becomes a number only if the number can be written back as the same text. Ids therefore keep leading zeros and all
digits:

==========================================  ======================  =================================================
all values are                              type                    for example
==========================================  ======================  =================================================
``true`` and ``false`` in one spelling      ``bool``                ``true``, ``True``, ``TRUE``
whole numbers without leading zeros         ``int64``               ``7``, ``-12``
numbers of up to 17 significant digits      ``double``              ``1.5``, ``1e-05``, ``nan``; also ``2`` in such a
                                                                    column
numbers with the same number of decimals,   ``decimal128(38, n)``   ``1.10``, ``12.50``
some of which end with zeros
anything else                               ``string``              ``007``, ``0x1F``, 20 digits, ``1.10`` with
                                                                    ``1.5``, ``1E5`` without ``1.5``
==========================================  ======================  =================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.moments import is_time
from airflow_mlops.data.types import DECIMAL_DIGITS, as_column

_UNTYPED = b"mlops.untyped"
_DECIMAL, _THOUSANDS = b"mlops.decimal", b"mlops.thousands"

_BOOLEANS = (("true", "false"), ("True", "False"), ("TRUE", "FALSE"))
_NOT_FINITE = ("nan", "NaN", "NAN", "-nan", "inf", "-inf", "Inf", "-Inf", "INF", "-INF", "Infinity", "-Infinity")
# Whole numbers as pandas writes them if a value of the column is missing. A double holds 15 digits exactly.
_INTEGRAL = r"^-?(0|[1-9]\d{0,14})(\.0)?$"
_FIXED = r"^-?(0|[1-9]\d*)\.\d+$"
# Numbers in general, and numbers whose decimals do not end with zeros.
_NUMBER = r"^-?((0|[1-9]\d*)?\.\d+|0|[1-9]\d*)([eE][+-]?\d+)?$"
_CANONICAL = r"^-?((0|[1-9]\d*)?\.(\d*[1-9]|0)|0|[1-9]\d*)([eE][+-]?\d+)?$"
# Notations of numbers. `1E5` may be an id. If other numbers have decimals, it is a number, because R writes such
# columns in this form.
_NOTATIONS = {
    "2": r"^-?\d+$",
    "2.0": r"\.0$",
    ".5": r"^-?\.\d",
    "0.5": r"^-?0\.\d",
    "1e5": r"^-?\d+[eE]\d",
    "1.5": r"\.\d",
}
_DOUBLE_DIGITS = 15
"""Number of significant digits up to which a number that is read as a double can be written back unchanged."""


@dataclass(frozen=True)
class Notation:
    """The notation of numbers in text.

    :param decimal: character of the decimal point
    :param thousands: character between groups of three digits; empty if there is none
    """

    decimal: str = "."
    thousands: str = ""

    def normalised(self, values: pa.Array) -> pa.Array:
        """Rewrite numbers with the decimal point ``.`` and without digit groups.

        Any other text never becomes a number.
        """
        values = pc.utf8_trim_whitespace(values)
        if self.thousands:
            group, point = re.escape(self.thousands), re.escape(self.decimal)
            grouped = pc.match_substring_regex(values, rf"^-?[1-9]\d{{0,2}}({group}\d{{3}})+({point}\d+)?$")
            values = pc.if_else(grouped, pc.replace_substring(values, self.thousands, ""), values)
        if self.decimal == ".":
            return values
        foreign = pc.match_substring(values, ".")
        return pc.if_else(
            foreign, pc.binary_join_element_wise("?", values, ""), pc.replace_substring(values, self.decimal, ".")
        )


def untyped(name: str, notation: Notation = Notation()) -> pa.Field:
    """Return an Arrow field for a text column whose type must be inferred from all values. Its metadata marks it."""
    metadata = {_UNTYPED: b"", _DECIMAL: notation.decimal.encode(), _THOUSANDS: notation.thousands.encode()}
    return pa.field(name, pa.string(), metadata=metadata)


def is_untyped(field: pa.Field) -> bool:
    """Return whether ``field`` is marked by :func:`untyped`."""
    return bool(field.metadata and _UNTYPED in field.metadata)


class TextColumn:
    """Infers the type of one text column, whose values are added batch by batch.

    :param field: Arrow field of the column, from :func:`untyped`
    :ivar kept_as_text: an example of a number that would change if it was read as a double and written back; ``None``
        if no number would change
    :ivar not_integral: the first value that is not a whole number; ``None`` if there is no such value. ``12`` and
        ``12.0`` are whole numbers
    :ivar not_number: the first value that is not a number; ``None`` if all values are numbers
    """

    def __init__(self, field: pa.Field) -> None:
        self._notation = Notation(field.metadata[_DECIMAL].decode(), field.metadata[_THOUSANDS].decode())
        self.kept_as_text: str | None = None
        self.not_integral: str | None = None
        self.not_number: str | None = None
        self._empty = self._whole = self._double = self._number = self._exact = self._bool = True
        self._spelling: tuple[str, str] | None = None
        self._scale: int | None = None
        self._fixed = True
        self._notations: set[str] = set()
        self._power: str | None = None

    def update(self, values: pa.Array) -> None:
        """Take further values into account."""
        if not (self._number or self._bool):
            self._empty = self._empty and values.null_count == len(values)
            return
        values = pc.unique(values).drop_null()
        if not len(values):
            return
        self._empty = False
        if self._bool:
            self._update_bool(values)
        values = self._notation.normalised(values)
        if _are_plain(values):
            self._update_plain(values)
            return
        whole = _whole(values) if self._whole or self.not_integral is None else None
        if self._whole:
            if _all(whole):
                bounds = pc.min_max(values.cast(pa.int64())).as_py()
                self._exact = self._exact and bounds["min"] >= -(2**53) and bounds["max"] <= 2**53
                self._fixed = False
                self._notations.add("2")
                return
            self._whole = False
        if self.not_integral is None:
            other = pc.invert(pc.or_(pc.match_substring_regex(values, _INTEGRAL), whole))
            self.not_integral = next(iter(values.filter(other).slice(0, 1).to_pylist()), None)
        finite, number = values, pc.match_substring_regex(values, _NUMBER)
        if not _all(number):
            finite = values.filter(pc.invert(pc.is_in(values, value_set=pa.array(_NOT_FINITE, values.type))))
            number = pc.match_substring_regex(finite, _NUMBER)
        if not _all(number):
            self._number, self.not_number = False, finite.filter(pc.invert(number))[0].as_py()
            return
        if self._fixed:
            self._update_fixed(values)
        self._update_double(finite)

    def _update_bool(self, values: pa.Array) -> None:
        first = values[0].as_py()
        candidates = [self._spelling] if self._spelling else [one for one in _BOOLEANS if first in one]
        self._spelling = next(
            (one for one in candidates if _all(pc.is_in(values, value_set=pa.array(one, values.type)))), None
        )
        self._bool = self._spelling is not None

    def _update_plain(self, values: pa.Array) -> None:
        """Take plain decimals into account (:func:`_are_plain`), with fewer regular expressions than other numbers."""
        self._whole = False
        if self.not_integral is None:
            other = pc.invert(pc.match_substring_regex(values, _INTEGRAL))
            self.not_integral = next(iter(values.filter(other).slice(0, 1).to_pylist()), None)
        if self._fixed:
            self._update_scale(values)
        self._notations.add("1.5")
        ends_in_zero = pc.ends_with(values, ".0")
        if "2.0" not in self._notations and pc.any(ends_in_zero).as_py():
            self._notations.add("2.0")
        if "0.5" not in self._notations and any(pc.any(pc.starts_with(values, at)).as_py() for at in ("0.", "-0.")):
            self._notations.add("0.5")
        canonical = pc.or_(pc.invert(pc.ends_with(values, "0")), ends_in_zero)
        self._decide_double(values, canonical, canonical)

    def _update_fixed(self, values: pa.Array) -> None:
        self._fixed = _all(pc.match_substring_regex(values, _FIXED))
        if self._fixed:
            self._update_scale(values)

    def _update_scale(self, values: pa.Array) -> None:
        lengths = pc.utf8_length(values)
        scales = pc.subtract(pc.subtract(lengths, pc.find_substring(values, ".")), 1)
        bounds, longest = pc.min_max(scales).as_py(), pc.max(lengths).as_py()
        self._scale = bounds["max"] if self._scale is None else self._scale
        self._fixed = bounds["min"] == bounds["max"] == self._scale and longest <= DECIMAL_DIGITS

    def _update_double(self, values: pa.Array) -> None:
        exact = _survive(values)
        self._exact = self._exact and _all(exact)
        for name, form in _NOTATIONS.items():
            if name in self._notations:
                continue
            matches = pc.match_substring_regex(values, form)
            if pc.any(matches).as_py():
                self._notations.add(name)
                if name == "1e5":
                    self._power = values.filter(matches)[0].as_py()
        canonical = pc.match_substring_regex(values, _CANONICAL)
        self._decide_double(values, canonical, pc.and_(canonical, exact))

    def _decide_double(self, values: pa.Array, canonical: pa.Array, kept: pa.Array) -> None:
        """Decide whether a double keeps all numbers so far.

        :param canonical: whether each number is written without further zeros
        :param kept: whether a double keeps each number
        """
        mixed = {"2", "2.0"} <= self._notations or {".5", "0.5"} <= self._notations
        self._double = self._double and not mixed and self._exact and _all(canonical)
        if not self._double and self.kept_as_text is None:
            lost = values.filter(pc.invert(kept))
            self.kept_as_text = (lost if len(lost) else values)[0].as_py().replace(".", self._notation.decimal)

    def result(self) -> pa.DataType:
        """Return the type of all values so far. The type is ``null`` if all values are null."""
        if self._empty:
            return pa.null()
        if self._bool:
            return pa.bool_()
        if self._whole:
            return pa.int64()
        if self._number and self._double and not self._may_be_powers:
            return pa.float64()
        if self._number and self._fixed and self._scale is not None:
            return pa.decimal128(DECIMAL_DIGITS, self._scale)
        return pa.string()

    @property
    def _may_be_powers(self) -> bool:
        """Return whether values such as ``1E5`` may be ids, because no other number has decimals."""
        return "1e5" in self._notations and "1.5" not in self._notations

    @property
    def lost(self) -> str | None:
        """Return the first value that looks like a number, but would change if it was read as a number and written.

        The value is ``None`` if the column contains other text, or if its type is not text.
        """
        if self.not_number is not None or not pa.types.is_string(self.result()):
            return None
        return self.kept_as_text or self._power

    def fits(self, kind: pa.DataType) -> bool:
        """Return whether all values so far can be read as ``kind``, the type of the column in a neighbouring window."""
        found = self.result()
        if pa.types.is_string(kind) or pa.types.is_null(found) or found.equals(kind):
            return True
        if pa.types.is_floating(kind):
            return self._number and self._exact and not self._may_be_powers
        if pa.types.is_int64(kind) and self._number and self.not_integral is None:
            return True
        if pa.types.is_decimal(kind):
            return self._whole or (pa.types.is_decimal(found) and found.scale <= kind.scale)
        # For other types, such as timestamps, only the conversion shows whether all values fit.
        return not (pa.types.is_integer(kind) or pa.types.is_boolean(kind))

    def misfit(self, kind: pa.DataType) -> str | None:
        """Return the first value that cannot be read as ``kind``; ``None`` if no such value is known."""
        if pa.types.is_integer(kind):
            return self.not_integral
        return self.not_number or self.kept_as_text or self._power

    def read(self, values: pa.Array, kind: pa.DataType, what: str) -> pa.Array:
        """Convert values of the column to ``kind``.

        :param what: description of the column, as the subject of error messages
        :raises SchemaError: a value cannot be converted
        """
        if not (pa.types.is_string(kind) or is_time(kind)):
            values = self._notation.normalised(values)
        return as_column(values, kind, what)


def _all(mask: pa.Array) -> bool:
    return pc.all(mask, min_count=0).as_py() is not False


def _are_plain(values: pa.Array) -> bool:
    """Return whether all values are decimals without an exponent, such as ``-12.5``, with digits that a double keeps."""
    # The length without the decimal point is an upper bound of the number of digits.
    longest = pc.max(pc.utf8_length(values)).as_py()
    return longest <= _DOUBLE_DIGITS + 1 and _all(pc.match_substring_regex(values, _FIXED))


def _whole(values: pa.Array) -> pa.Array:
    """Return for each value whether it is a 64-bit integer without leading zeros or a plus sign."""
    try:
        return pc.equal(values.cast(pa.int64()).cast(values.type), values)
    except pa.ArrowInvalid:
        pass
    # Integers of at most 18 digits always fit. Longer integers are compared in Python.
    whole = pc.match_substring_regex(values, r"^(0|-?[1-9]\d{0,17})$")
    long = values.filter(pc.match_substring_regex(values, r"^-?[1-9]\d{18}$")).to_pylist()
    fitting = [text for text in long if -(2**63) <= int(text) < 2**63]
    return pc.or_(whole, pc.is_in(values, value_set=pa.array(fitting, values.type)))


def _survive(values: pa.Array) -> pa.Array:
    """Return for each number whether it can be read as a double without losing digits."""
    digits = pc.utf8_ltrim(pc.replace_substring_regex(values, r"[eE].*$|[-.]", ""), "0")
    few = pc.less_equal(pc.utf8_length(digits), _DOUBLE_DIGITS)
    # Only numbers with an exponent, or with very many zeros, may be too large or too small.
    exact = pc.and_(few, pc.match_substring_regex(values, r"^[-.\d]{1,99}$"))
    if not _all(exact):
        exact = pc.or_(exact, pc.equal(values.cast(pa.float64()).cast(values.type), values))
    if not _all(exact):
        # Other programs write more digits than necessary, or exponents in another form.
        others = {text for text in values.filter(pc.invert(exact)).to_pylist() if _is_double(text)}
        exact = pc.or_(exact, pc.is_in(values, value_set=pa.array(sorted(others), values.type)))
    return exact


def _is_double(text: str) -> bool:
    try:
        number = Decimal(text)
    except InvalidOperation:
        # The exponent has more than 18 digits.
        return False
    digits = len(number.as_tuple().digits)
    double = float(text)
    return digits <= 17 and isfinite(double) and Decimal(f"{double:.{digits - 1}e}") == number
