"""The numbers of the rows that do not meet an expectation, kept in a temporary file if there are many."""

from __future__ import annotations

import tempfile
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.temporary import full_disk

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 65_536
"""Number of row numbers that are kept in memory, and that are read from the file at once."""
_BYTES = np.dtype(np.int64).itemsize


class RowNumbers:
    """Row numbers in ascending order.

    Up to :data:`BLOCK` numbers are kept in memory. More are written to a temporary file in ``TMPDIR``, which is deleted
    with the object.

    :param numbers: the first numbers, in ascending order
    """

    def __init__(self, numbers: NDArray[np.int64] | None = None) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=BLOCK * _BYTES, prefix="mlops-rows-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._last: list[int] = []
        self._ends = [0]
        if numbers is not None:
            self.append(numbers)

    def __len__(self) -> int:
        return self._ends[-1]

    def append(self, numbers: NDArray[np.int64]) -> None:
        """Add numbers, which are in ascending order and greater than all numbers so far.

        :raises SpillError: the disk is full
        """
        for start in range(0, len(numbers), BLOCK):
            block = np.ascontiguousarray(numbers[start : start + BLOCK], np.int64)
            with full_disk():
                self._file.seek(len(self) * _BYTES)
                self._file.write(block.tobytes())
            self._last.append(int(block[-1]))
            self._ends.append(len(self) + len(block))

    def between(self, first: int, end: int) -> NDArray[np.int64]:
        """Return the numbers from ``first`` to before ``end``."""
        blocks = range(bisect_left(self._last, first), min(bisect_left(self._last, end) + 1, len(self._last)))
        found = np.concatenate([np.empty(0, np.int64), *map(self._block, blocks)])
        begin, stop = np.searchsorted(found, [first, end])
        return found[begin:stop]

    def first(self, count: int) -> NDArray[np.int64]:
        """Return the first ``count`` numbers."""
        blocks = range(min(bisect_left(self._ends, count), len(self._last)))
        return np.concatenate([np.empty(0, np.int64), *map(self._block, blocks)])[:count]

    def _block(self, number: int) -> NDArray[np.int64]:
        begin, end = self._ends[number], self._ends[number + 1]
        with full_disk():
            # What was written may still be in the buffer of the file.
            self._file.seek(begin * _BYTES)
            return np.frombuffer(self._file.read((end - begin) * _BYTES), np.int64)
