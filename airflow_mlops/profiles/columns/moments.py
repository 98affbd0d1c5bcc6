"""Sums of numbers and of their squares without any rounding, so that no order of rows or parts can change them."""

from __future__ import annotations

import math

import numpy as np

from airflow_mlops.profiles.columns.base import Floats, finite

# Every finite double is a multiple of 2**-1074; some room is left for the digits below the last bit.
_UNIT = 1_100
# Digits of at most 2**19: products of two, summed over a block of 2**15 rows, are whole numbers up to 2**53.
_BITS = 19
_BLOCK = 1 << 15
# Between the first bit of the largest number and the last bit of a double that scaling leaves whole.
_SPAN = 1_040


class Moments:
    """Mean and standard deviation of numbers as they stream by, correct to the last digit.

    Each block of numbers is cut into digits of 20 bits: few, since its numbers are of similar size. Sums of the digits
    and of their products are whole numbers that doubles hold exactly, and matrix products compute. Python's integers,
    which have no limit, add them up.
    """

    def __init__(self) -> None:
        self.rows = self._total = self._squares = 0

    def update(self, values: Floats) -> None:
        """Count ``values``, all finite, shape (n,)."""
        self.rows += len(values)
        for start in range(0, len(values), _BLOCK):
            self._block(values[start : start + _BLOCK])

    def add(self, rows: int, total: str, squares: str) -> None:
        """Count ``rows`` numbers whose sums :meth:`texts` gave."""
        self.rows += rows
        self._total += _parsed(total, _UNIT)
        self._squares += _parsed(squares, 2 * _UNIT)

    def texts(self) -> tuple[str, str]:
        """The sum, and the sum of the squares: hexadecimal literals as in C, of as many digits as it takes."""
        return _text(self._total, _UNIT), _text(self._squares, 2 * _UNIT)

    @property
    def mean(self) -> float | None:
        """``None`` where there are no rows."""
        return self._total / (self.rows << _UNIT) if self.rows else None

    @property
    def std(self) -> float | None:
        """Of the sample (n - 1); ``None`` where there are fewer than two rows, or where no double is as large."""
        if self.rows < 2:
            return None
        apart = self.rows * self._squares - self._total * self._total
        return _root(apart, self.rows * (self.rows - 1) << (2 * _UNIT))

    def _block(self, values: Floats) -> None:
        top = math.frexp(max(values.max(), -values.min()))[1]
        small = np.abs(values) < math.ldexp(1.0, max(top - _SPAN, -1074))
        small &= values != 0
        if small.any():
            self._block(values[small])
            values = values[~small]
        rest, digits = np.ldexp(values, _BITS - top), []
        while True:
            digit = np.rint(rest)
            digits.append(digit)
            rest -= digit
            if not rest.any():
                break
            rest *= 2 << _BITS
        table = np.stack(digits)
        totals, squares = table.sum(axis=1).tolist(), (table @ table.T).tolist()
        # What the digit i places before the last one is worth, in bits.
        worth = [(_BITS + 1) * place for place in reversed(range(len(digits)))]
        last = top - _BITS - worth[0]
        total = sum(int(value) << bits for value, bits in zip(totals, worth, strict=True))
        self._total += total << (_UNIT + last)
        square = sum(
            int(value) << (first + second)
            for row, first in zip(squares, worth, strict=True)
            for value, second in zip(row, worth, strict=True)
        )
        self._squares += square << 2 * (_UNIT + last)


def _text(value: int, unit: int) -> str:
    """``value`` times 2 to the power of -``unit``, written in one way only."""
    zeros = (value & -value).bit_length() - 1 if value else unit
    return f"{value >> zeros:#x}p{zeros - unit:+d}"


def _parsed(text: str, unit: int) -> int:
    digits, _, exponent = text.partition("p")
    return int(digits, 16) << (int(exponent) + unit)


def _root(numerator: int, denominator: int) -> float | None:
    """The square root of a fraction, from its first 64 bits and more."""
    half = (130 - numerator.bit_length() + denominator.bit_length()) // 2
    whole = (numerator << max(0, 2 * half)) // (denominator << max(0, -2 * half))
    try:
        return finite(math.ldexp(math.isqrt(whole), -half))
    except OverflowError:
        return None
