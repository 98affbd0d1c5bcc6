"""An adaptive histogram whose bins depend only on the set of values, not on their order.

The bits of a double, read as a signed integer, have the same order as the values (after flipping the bits of negative
numbers). This integer is called the *key* of the value. Dropping the last ``s`` bits of a key gives the bin of the key.

A *binade* is the range of numbers of one sign between two neighbouring powers of two. In each binade, ``s`` is the
smallest shift with which the number of occupied bins does not exceed the binade's share of :data:`CAPACITY`. A binade
with few distinct values leaves the rest of its share to the other binades.

With up to ``CAPACITY`` distinct values, each value has its own bin and the histogram is exact. With more values, the
bins of a normal distribution are 1/128 of a power of two wide, and each holds at most 0.3% of the rows.

Further rows can merge bins but never split bins, and a merged bin contains the rows of both original bins. Bins and
counts therefore do not depend on the order of rows, on batches, or on how histograms are merged.
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from airflow_mlops.profiles.columns.base import Floats, as_arrow, as_numpy
from airflow_mlops.profiles.significance import Pair

Integers = npt.NDArray[np.int64]

CAPACITY = 4_096
_BUFFER = 65_536
# Number of bits of a double below its sign and exponent.
_MANTISSA = 52
_BINADES = 4_096
_POSITIVE = np.int64(0x7FFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True)
class Histogram:
    """Counts of values by bin. Empty bins are not stored.

    :param keys: the smallest key of each bin, ascending, shape (k,)
    :param shifts: number of dropped bits of each bin, shape (k,); 0 means that the bin is a single value
    :param counts: number of values in each bin, shape (k,)
    :param low: the smallest value
    :param high: the largest value
    """

    keys: Integers
    shifts: Integers
    counts: Integers
    low: float
    high: float

    @cached_property
    def lows(self) -> Floats:
        """Return the lower end of each bin, shape (k,)."""
        return np.maximum(_values(self.keys), self.low)

    @cached_property
    def highs(self) -> Floats:
        """Return the upper end of each bin, shape (k,). A bin includes its upper end."""
        return np.minimum(_values(self.keys + (np.int64(1) << self.shifts) - 1), self.high)

    @cached_property
    def ranks(self) -> Integers:
        """Return the number of values in each bin and all lower bins, shape (k,)."""
        return np.cumsum(self.counts)

    def cdf(self, points: Sequence[float] | Floats) -> Floats:
        """Return the share of values at or below each of ``points``, shape (n,).

        The share is exact between bins and at their upper ends. Within a bin the share is interpolated, with an error
        below the share of values in this bin.
        """
        at = np.asarray(points, dtype=float)
        index = np.searchsorted(self.lows, at, side="right") - 1
        low, high = self.lows[index], self.highs[index]
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = np.where(at >= high, 1.0, (at - low) / (high - low))
        found: Floats = (self.ranks[index] - self.counts[index] * (1 - inside)) / self.ranks[-1]
        return np.where(index < 0, 0.0, found)

    def quantiles(self, ranks: Sequence[float] | Floats) -> Floats:
        """Return the quantiles at ``ranks`` between 0 and 1, shape (n,).

        A quantile is exact if its bin is a single value. Otherwise the quantile is interpolated within the bin.
        """
        wanted = np.asarray(ranks, dtype=float) * self.ranks[-1]
        index = np.minimum(np.searchsorted(self.ranks, wanted), len(self.ranks) - 1)
        inside = 1 - (self.ranks[index] - wanted) / self.counts[index]
        found: Floats = self.lows[index] + np.clip(inside, 0, 1) * (self.highs[index] - self.lows[index])
        return found

    def packed(self) -> str:
        """Serialise keys, shifts and counts to zlib-compressed text in base64. Equal histograms give equal text."""
        steps = np.stack([np.diff(self.keys, prepend=np.int64(0)), self.shifts, self.counts])
        # Bytes of equal significance are stored next to each other, which compresses well.
        planes = np.ascontiguousarray(steps.astype("<i8").reshape(-1, 1).view(np.uint8).T)
        return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()

    @staticmethod
    def unpacked(text: str, low: float, high: float) -> Histogram:
        """Deserialise the text of :meth:`packed`."""
        planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(8, -1)
        steps, shifts, counts = np.ascontiguousarray(planes.T).view("<i8").reshape(3, -1).astype(np.int64)
        return Histogram(np.cumsum(steps), shifts, counts, low, high)


class HistogramCounter:
    """Computes a histogram from a stream of values."""

    def __init__(self) -> None:
        self._keys: Integers = np.empty(0, np.int64)
        self._counts: Integers = np.empty(0, np.int64)
        self._shifts: Integers = np.zeros(_BINADES, np.int64)
        self._low, self._high = np.inf, -np.inf
        self._waiting: list[Integers] = []
        self._waits = 0

    def update(self, values: Floats) -> None:
        """Count finite values, shape (n,)."""
        for start in range(0, len(values), _BUFFER):
            part = values[start : start + _BUFFER]
            self._within(part.min(), part.max())
            self._waiting.append(_keys(part))
            self._waits += len(part)
            # The first bins are formed after few values, because later values are counted faster if they share bins.
            if self._waits >= (_BUFFER if len(self._keys) else 2 * CAPACITY):
                self._count()

    def add(self, histogram: Histogram) -> None:
        """Add the counts of another histogram."""
        self._count()
        self._within(histogram.low, histogram.high)
        binades = _binade(histogram.keys)
        self._shifts[binades] = np.maximum(self._shifts[binades], histogram.shifts)
        self._join(histogram.keys, histogram.counts)

    def result(self) -> Histogram | None:
        """Return the histogram of all counted values; ``None`` if no value was counted."""
        self._count()
        if not len(self._keys):
            return None
        return Histogram(self._keys, self._shifts[_binade(self._keys)], self._counts, self._low, self._high)

    def _within(self, low: float, high: float) -> None:
        # Adding 0.0 turns -0.0 into 0.0.
        self._low, self._high = min(self._low, float(low) + 0.0), max(self._high, float(high) + 0.0)

    def _count(self) -> None:
        if self._waits:
            keys = np.concatenate(self._waiting)
            self._waiting, self._waits = [], 0
            # Arrow counts by hashing, which takes a fifth of the time of sorting.
            found = pc.value_counts(as_arrow(self._cut(keys)))
            self._join(*(as_numpy(found.field(index)) for index in range(2)))

    def _join(self, keys: Integers, counts: Integers) -> None:
        keys, counts = np.concatenate([self._cut(self._keys), self._cut(keys)]), np.concatenate([self._counts, counts])
        order = np.argsort(keys, kind="stable")
        self._keys, self._counts = _grouped(keys[order], counts[order])
        if self._widened():
            self._keys, self._counts = _grouped(self._cut(self._keys), self._counts)

    def _cut(self, keys: Integers) -> Integers:
        shifts = self._shifts[_binade(keys)]
        return keys >> shifts << shifts

    def _widened(self) -> bool:
        """Widen the bins in each binade that has more bins than its share of the capacity.

        :return: whether bins of any binade were widened
        """
        if len(self._keys) <= CAPACITY and not self._shifts.any():
            return False
        binades = _binade(self._keys)
        starts = np.flatnonzero(np.diff(binades, prepend=-1))
        bins = np.diff(starts, append=len(binades))
        # A binade whose bins were widened before needs its whole share, because the share of a binade never grows.
        values = np.where(self._shifts[binades[starts]] > 0, CAPACITY, bins)
        share = bisect_right(range(CAPACITY + 1), CAPACITY, key=lambda share: int(np.minimum(values, share).sum())) - 1
        wide = np.flatnonzero(bins > share)
        for start, count in zip(starts[wide], bins[wide], strict=True):
            keys = self._keys[start : start + count]
            # Two neighbouring bins merge when all bits in which they differ are dropped.
            apart = np.frexp((keys[1:] ^ keys[:-1]).astype(float))[1]
            self._shifts[binades[start]] = np.partition(apart, -share)[-share]
        return len(wide) > 0


def on_one_grid(first: Histogram, second: Histogram) -> tuple[Histogram, Pair]:
    """Return the counts of two histograms in common bins.

    :param first: one histogram
    :param second: the other histogram
    :return: two items: the histogram of the values of both, and the counts of ``first`` and of ``second`` in the bins
        of this histogram
    """
    counter = HistogramCounter()
    for part in (first, second):
        counter.add(part)
    both = counter.result()
    assert both is not None
    places = (np.searchsorted(both.keys, part.keys, side="right") - 1 for part in (first, second))
    rows: list[Floats] = [
        np.bincount(place, part.counts, len(both.keys)).astype(float)
        for place, part in zip(places, (first, second), strict=True)
    ]
    return both, Pair(*rows)


def _keys(values: Floats) -> Integers:
    keys: Integers = (values + 0.0).view(np.int64)
    return keys ^ ((keys >> 63) & _POSITIVE)


def _values(keys: Integers) -> Floats:
    found: Floats = (keys ^ ((keys >> 63) & _POSITIVE)).view(np.float64)
    return found


def _binade(keys: Integers) -> Integers:
    return (keys >> _MANTISSA) + _BINADES // 2


def _grouped(keys: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """Return the distinct keys, and the sum of the counts of each. ``keys`` must be sorted and not empty."""
    starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[starts], np.add.reduceat(counts, starts)
