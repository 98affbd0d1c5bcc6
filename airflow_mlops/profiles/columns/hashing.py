"""Counts of more values than can be kept: all rows by hash, and a sample of values with all their rows.

Hashes are BLAKE2's first 64 bits, the same everywhere and always.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from airflow_mlops.profiles.significance import Pair

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

BUCKETS = 64
SAMPLE = 1_024


class HashedCounts:
    """Adds up exactly, whatever the order of rows and parts.

    A value that is in the sample has been there since its first row, for the largest hash in it only ever falls: so its
    count is exact.

    :param hashes: the :data:`SAMPLE` smallest hashes of values, in order; fewer where there are fewer values
    :param counts: rows with a value of each of these hashes
    :param buckets: rows by the last bits of their value's hash, shape (``BUCKETS``,)
    """

    def __init__(self) -> None:
        self.hashes: Hashes = np.empty(0, np.uint64)
        self.counts: Integers = np.empty(0, np.int64)
        self.buckets: Integers = np.zeros(BUCKETS, np.int64)

    def update(self, counts: Mapping[str, int]) -> None:
        """Count rows of each of some values."""
        digests = b"".join(blake2b(value.encode(), digest_size=8).digest() for value in counts)
        hashes = np.frombuffer(digests, "<u8").astype(np.uint64)
        rows = np.fromiter(counts.values(), np.int64, len(counts))
        np.add.at(self.buckets, hashes % np.uint64(BUCKETS), rows)
        self._sample(hashes, rows)

    def add(self, other: HashedCounts) -> None:
        """Count the rows that ``other`` counted."""
        self.buckets = self.buckets + other.buckets
        self._sample(other.hashes, other.counts)

    @property
    def share(self) -> float:
        """The share of all values that are in the sample, as its largest hash has it."""
        return (int(self.hashes[-1]) + 1) / 2**64 if len(self.hashes) >= SAMPLE else 1.0

    @property
    def distinct(self) -> float:
        """How many different values there are: exact below :data:`SAMPLE`, with a standard error of 3% beyond.

        K. Beyer, P. Haas, B. Reinwald, Y. Sismanis and R. Gemulla, "On Synopses for Distinct-Value Estimation Under
        Multiset Operations", SIGMOD 2007.
        """
        return (SAMPLE - 1) / self.share if self.share < 1 else len(self.hashes)

    def packed(self) -> str:
        """All of it as JSON can hold it; the same for the same counts."""
        data = b"".join(part.astype("<u8").tobytes() for part in (self.buckets, self.hashes, self.counts))
        return base64.b64encode(zlib.compress(data, 9)).decode()

    @staticmethod
    def unpacked(text: str) -> HashedCounts:
        """What :meth:`packed` wrote."""
        data = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u8")
        found = HashedCounts()
        found.buckets = data[:BUCKETS].astype(np.int64)
        hashes, counts = data[BUCKETS:].reshape(2, -1)
        found.hashes, found.counts = hashes.astype(np.uint64), counts.astype(np.int64)
        return found

    def _sample(self, hashes: Hashes, counts: Integers) -> None:
        every, where = np.unique(np.concatenate([self.hashes, hashes]), return_inverse=True)
        rows = np.zeros(len(every), np.int64)
        np.add.at(rows, where, np.concatenate([self.counts, counts]))
        self.hashes, self.counts = every[:SAMPLE], rows[:SAMPLE]


def on_one_sample(first: HashedCounts, second: HashedCounts) -> tuple[float, Pair]:
    """The rows of two columns with each value in the sample of both together.

    :return: the share of all values that are in the sample, and the rows
    """
    both = HashedCounts()
    for part in (first, second):
        both.add(part)
    # Hashes up to the largest in the sample of both are in those of each.
    rows = [np.zeros(len(both.hashes)), np.zeros(len(both.hashes))]
    for counts, part in zip(rows, (first, second), strict=True):
        kept = part.hashes <= both.hashes[-1]
        counts[np.searchsorted(both.hashes, part.hashes[kept])] = part.counts[kept]
    return both.share, Pair(*rows)
