"""A mask of rows that needs one bit of memory for each row."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Number of rows whose chosen rows are counted together; a multiple of 8.
_BLOCK = 65_536


class RowMask:
    """Whether each row is chosen.

    :param bits: one bit for each row, in the order of :func:`numpy.packbits`
    :param length: number of rows
    """

    def __init__(self, bits: NDArray[np.uint8], length: int) -> None:
        self._bits, self._length = bits, length

    @classmethod
    def of(cls, values: Iterable[NDArray[np.bool_]]) -> RowMask:
        """Return the mask of consecutive rows.

        :param values: whether each row is chosen, in arrays of any lengths
        """
        packed, length, rest = [np.empty(0, np.uint8)], 0, np.empty(0, bool)
        for item in values:
            length += len(item)
            item = np.concatenate([rest, item]) if len(rest) else item
            whole = len(item) // 8 * 8
            packed.append(np.packbits(item[:whole]))
            rest = item[whole:]
        packed.append(np.packbits(rest))
        return cls(np.concatenate(packed), length)

    @classmethod
    def at(cls, positions: Iterable[NDArray[np.int64]], length: int) -> RowMask:
        """Return the mask of rows at positions in any order.

        :param positions: arrays of positions
        :param length: number of rows
        """
        bits = np.zeros(-(-length // 8), np.uint8)
        for item in positions:
            np.bitwise_or.at(bits, item >> 3, (128 >> (item & 7)).astype(np.uint8))
        return cls(bits, length)

    def __len__(self) -> int:
        return self._length

    def slice(self, start: int, end: int) -> NDArray[np.bool_]:
        """Return whether each row from position ``start`` to before ``end`` is chosen, shape (end - start,)."""
        first = start // 8
        bits = np.unpackbits(self._bits[first : -(-end // 8)])
        return bits[start - first * 8 : end - first * 8].astype(bool)

    def part(self, start: int, end: int) -> RowMask:
        """Return the mask of the rows from position ``start`` to before ``end``."""
        return RowMask.of(self.slice(first, min(first + _BLOCK, end)) for first in range(start, end, _BLOCK))

    def to_bytes(self) -> bytes:
        """Return the bits of all rows."""
        return self._bits.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, length: int) -> RowMask:
        """Return the mask with the bits of :meth:`to_bytes`."""
        return cls(np.frombuffer(data, np.uint8), length)

    @property
    def count(self) -> int:
        """Return the number of chosen rows."""
        return int(self._reached[-1])

    def position(self, number: int) -> int:
        """Return the position of a chosen row.

        :param number: number of the chosen row, from 0
        """
        block = int(np.searchsorted(self._reached, number, side="right")) - 1
        start = block * _BLOCK
        chosen = np.flatnonzero(self.slice(start, min(start + _BLOCK, self._length)))
        return start + int(chosen[number - self._reached[block]])

    @cached_property
    def _reached(self) -> NDArray[np.int64]:
        """Return the number of chosen rows before each block, and of all chosen rows."""
        starts = range(0, self._length, _BLOCK)
        counts = [np.unpackbits(self._bits[start // 8 : (start + _BLOCK) // 8]).sum() for start in starts]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
