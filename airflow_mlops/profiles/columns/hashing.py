"""Row counts for columns with too many distinct values to keep: by hash bucket, and for a sample of the values.

The hash of a value is its 64-bit BLAKE2b digest, which is the same on every machine. The sample consists of the values
with the smallest hashes (bottom-k sampling), so it depends on the set of values alone.
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
    """The exact numbers of rows of each hash bucket, and of each value in a sample. They do not depend on the order of rows.

    The sample has the values with the smallest hashes. A value that was dropped from it never comes back, so a value in
    the sample has been counted since its first row, and the counts are exact.

    :ivar hashes: the smallest hashes of values, ascending, shape (k,). Their number k is :data:`SAMPLE`, or the number
        of distinct values if that is smaller
    :ivar counts: number of rows of each of these values, shape (k,)
    :ivar buckets: number of rows by the last six bits of the hash, shape (``BUCKETS``,)
    """

    def __init__(self) -> None:
        self.hashes: Hashes = np.empty(0, np.uint64)
        self.counts: Integers = np.empty(0, np.int64)
        self.buckets: Integers = np.zeros(BUCKETS, np.int64)

    def update(self, counts: Mapping[str, int]) -> None:
        """Add the number of rows of each value in ``counts``."""
        digests = b"".join(blake2b(value.encode(), digest_size=8).digest() for value in counts)
        hashes = np.frombuffer(digests, "<u8").astype(np.uint64)
        rows = np.fromiter(counts.values(), np.int64, len(counts))
        np.add.at(self.buckets, hashes % np.uint64(BUCKETS), rows)
        self._sample(hashes, rows)

    def add(self, other: HashedCounts) -> None:
        """Count the rows of ``other``."""
        self.buckets = self.buckets + other.buckets
        self._sample(other.hashes, other.counts)

    @property
    def share(self) -> float:
        """Return the share of all distinct values that are in the sample, estimated from the sample's largest hash."""
        return (int(self.hashes[-1]) + 1) / 2**64 if len(self.hashes) >= SAMPLE else 1.0

    @property
    def distinct(self) -> float:
        """Return the number of distinct values: exact below :data:`SAMPLE`, otherwise with a standard error of 3%.

        Source: K. Beyer, P. Haas, B. Reinwald, Y. Sismanis and R. Gemulla, "On Synopses for Distinct-Value Estimation
        Under Multiset Operations", SIGMOD 2007.
        """
        return (SAMPLE - 1) / self.share if self.share < 1 else len(self.hashes)

    def packed(self) -> str:
        """Serialise to text: little-endian integers, zlib-compressed, in base64. Equal counts give equal text."""
        data = b"".join(part.astype("<u8").tobytes() for part in (self.buckets, self.hashes, self.counts))
        return base64.b64encode(zlib.compress(data, 9)).decode()

    @staticmethod
    def unpacked(text: str) -> HashedCounts:
        """Deserialise the text of :meth:`packed`."""
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
    """Return the row counts of two columns for a common sample of values, and the size of this sample.

    The sample consists of the values with the smallest hashes among the values of both columns.

    :param first: row counts of one column
    :param second: row counts of the other column
    :return: two items: the share of all distinct values that are in the sample, and the number of rows of each sampled
        value in the first and in the second column
    """
    both = HashedCounts()
    for part in (first, second):
        both.add(part)
    # A value of the common sample that occurs in a column is also in the sample of this column, so its count is known.
    rows = [np.zeros(len(both.hashes)), np.zeros(len(both.hashes))]
    for counts, part in zip(rows, (first, second), strict=True):
        kept = part.hashes <= both.hashes[-1]
        counts[np.searchsorted(both.hashes, part.hashes[kept])] = part.counts[kept]
    return both.share, Pair(*rows)
