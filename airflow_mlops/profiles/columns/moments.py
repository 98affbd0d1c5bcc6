"""Exact sums of numbers and of squared numbers. Because nothing is rounded, the order of rows does not matter."""

from __future__ import annotations

import math

import numpy as np

from airflow_mlops.profiles.columns.base import Floats, finite

# Sums are kept in units of 2**-1100. Every finite double is a multiple of 2**-1074, and digits may reach below that.
_UNIT = 1_100
# The absolute value of a digit is at most 2**19. The sum of the products of two digits over a block of 2**15 rows is an
# integer with an absolute value of at most 2**53, which a double holds exactly.
_BITS = 19
_BLOCK = 1 << 15
# Numbers that are smaller than the largest number of their block by a factor of at least 2**_SPAN are summed in a
# separate block, so that scaling a block never underflows.
_SPAN = 1_040


class Moments:
    """Computes the mean and the standard deviation of a stream of numbers, correct to the last digit.

    Each number of a block is split into digits of 20 bits (19 bits and a sign). Sums of digits, and sums of their
    products, are integers that doubles hold exactly, so matrix products compute these sums without rounding. The sums
    of all blocks are added as Python integers, which are unbounded.
    """

    def __init__(self) -> None:
        self.rows = self._total = self._squares = 0

    def update(self, values: Floats) -> None:
        """Add finite values, shape (n,)."""
        self.rows += len(values)
        for start in range(0, len(values), _BLOCK):
            self._block(values[start : start + _BLOCK])

    def add(self, rows: int, total: str, squares: str) -> None:
        """Add numbers by their sums.

        :param rows: number of numbers that are added
        :param total: sum of the numbers, as a hexadecimal literal from :meth:`texts`
        :param squares: sum of the squared numbers, as a hexadecimal literal from :meth:`texts`
        """
        self.rows += rows
        self._total += _parsed(total, _UNIT)
        self._squares += _parsed(squares, 2 * _UNIT)

    def texts(self) -> tuple[str, str]:
        """Return the exact sum and the exact sum of squares as hexadecimal literals, such as ``0x1ap-3``."""
        return _text(self._total, _UNIT), _text(self._squares, 2 * _UNIT)

    @property
    def mean(self) -> float | None:
        """Return the mean; ``None`` without rows."""
        return self._total / (self.rows << _UNIT) if self.rows else None

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation (n - 1).

        It is ``None`` with fewer than two rows, or if it exceeds the range of doubles.
        """
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
        # The position of each digit relative to the last digit, in bits.
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
    """Return ``value * 2**-unit`` as a hexadecimal literal without trailing zero bits. Equal values give equal text."""
    zeros = (value & -value).bit_length() - 1 if value else unit
    return f"{value >> zeros:#x}p{zeros - unit:+d}"


def _parsed(text: str, unit: int) -> int:
    digits, _, exponent = text.partition("p")
    return int(digits, 16) << (int(exponent) + unit)


def _root(numerator: int, denominator: int) -> float | None:
    """Return the square root of a fraction, computed from at least its first 64 bits."""
    half = (130 - numerator.bit_length() + denominator.bit_length()) // 2
    whole = (numerator << max(0, 2 * half)) // (denominator << max(0, -2 * half))
    try:
        return finite(math.ldexp(math.isqrt(whole), -half))
    except OverflowError:
        return None
