"""A histogram whose bins follow the values, and that depends on nothing but them.

Doubles as whole numbers (their bits) are in the order of their values: a number's *key*. Dropping its last ``s`` bits
makes a bin. In every binade - numbers of one sign between two powers of two - ``s`` is the smallest that leaves at most
as many occupied bins as the binade's share of :data:`CAPACITY`. Binades with few different values leave what they do not
need to the others, so that up to ``CAPACITY`` different values are all kept apart: then everything is exact. Beyond,
bins of a normal distribution are 1/128 of a power of two wide, which is at most 0.3% of the rows in each.

More rows never make a bin narrower, and what two bins are joined to has the rows of both. So neither the order of rows,
nor how they come in batches, nor how parts are merged can change bins or counts.
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
# A double's bits below its sign and exponent.
_MANTISSA = 52
_BINADES = 4_096
_POSITIVE = np.int64(0x7FFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each of some bins; only bins with values are kept.

    :param keys: the smallest key of each bin, in order, shape (k,)
    :param shifts: how many bits were dropped in each bin: 0 where it is a single value, shape (k,)
    :param counts: values in each bin, shape (k,)
    :param low: the smallest value; ``high`` the largest
    """

    keys: Integers
    shifts: Integers
    counts: Integers
    low: float
    high: float

    @cached_property
    def lows(self) -> Floats:
        """The smallest value that each bin may hold."""
        return np.maximum(_values(self.keys), self.low)

    @cached_property
    def highs(self) -> Floats:
        """The largest value that each bin may hold."""
        return np.minimum(_values(self.keys + (np.int64(1) << self.shifts) - 1), self.high)

    @cached_property
    def ranks(self) -> Integers:
        """How many values lie in a bin and in those before it."""
        return np.cumsum(self.counts)

    def cdf(self, points: Sequence[float] | Floats) -> Floats:
        """The share of values at or below each of ``points``: exact outside of bins and at their upper ends. Within a
        bin it is interpolated, and off by less than the share of values in the bin."""
        at = np.asarray(points, dtype=float)
        index = np.searchsorted(self.lows, at, side="right") - 1
        low, high = self.lows[index], self.highs[index]
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = np.where(at >= high, 1.0, (at - low) / (high - low))
        found: Floats = (self.ranks[index] - self.counts[index] * (1 - inside)) / self.ranks[-1]
        return np.where(index < 0, 0.0, found)

    def quantiles(self, ranks: Sequence[float] | Floats) -> Floats:
        """The smallest value that the share ``ranks`` of values is at or below: exact where its bin is one value, else
        interpolated within the bin."""
        wanted = np.asarray(ranks, dtype=float) * self.ranks[-1]
        index = np.minimum(np.searchsorted(self.ranks, wanted), len(self.ranks) - 1)
        inside = 1 - (self.ranks[index] - wanted) / self.counts[index]
        found: Floats = self.lows[index] + np.clip(inside, 0, 1) * (self.highs[index] - self.lows[index])
        return found

    def packed(self) -> str:
        """Keys, shifts and counts as JSON can hold them; the same for the same histogram."""
        steps = np.stack([np.diff(self.keys, prepend=np.int64(0)), self.shifts, self.counts])
        # Bytes of the same weight side by side are alike, and compress well.
        planes = np.ascontiguousarray(steps.astype("<i8").reshape(-1, 1).view(np.uint8).T)
        return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()

    @staticmethod
    def unpacked(text: str, low: float, high: float) -> Histogram:
        """The histogram that :meth:`packed` wrote."""
        planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(8, -1)
        steps, shifts, counts = np.ascontiguousarray(planes.T).view("<i8").reshape(3, -1).astype(np.int64)
        return Histogram(np.cumsum(steps), shifts, counts, low, high)


class HistogramCounter:
    """Makes a histogram of values as they stream by."""

    def __init__(self) -> None:
        self._keys: Integers = np.empty(0, np.int64)
        self._counts: Integers = np.empty(0, np.int64)
        self._shifts: Integers = np.zeros(_BINADES, np.int64)
        self._low, self._high = np.inf, -np.inf
        self._waiting: list[Integers] = []
        self._waits = 0

    def update(self, values: Floats) -> None:
        """Count ``values``, all finite, shape (n,)."""
        for start in range(0, len(values), _BUFFER):
            part = values[start : start + _BUFFER]
            self._within(part.min(), part.max())
            self._waiting.append(_keys(part))
            self._waits += len(part)
            # The sooner bins are known, the fewer different keys there are to count.
            if self._waits >= (_BUFFER if len(self._keys) else 2 * CAPACITY):
                self._count()

    def add(self, histogram: Histogram) -> None:
        """Count the values that ``histogram`` was made from."""
        self._count()
        self._within(histogram.low, histogram.high)
        binades = _binade(histogram.keys)
        self._shifts[binades] = np.maximum(self._shifts[binades], histogram.shifts)
        self._join(histogram.keys, histogram.counts)

    def result(self) -> Histogram | None:
        """``None`` where there was no value."""
        self._count()
        if not len(self._keys):
            return None
        return Histogram(self._keys, self._shifts[_binade(self._keys)], self._counts, self._low, self._high)

    def _within(self, low: float, high: float) -> None:
        # Adding nought makes one nought of the two that there are.
        self._low, self._high = min(self._low, float(low) + 0.0), max(self._high, float(high) + 0.0)

    def _count(self) -> None:
        if self._waits:
            keys = np.concatenate(self._waiting)
            self._waiting, self._waits = [], 0
            # Arrow counts by hashing, which takes a fifth of what sorting does.
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
        """Whether some binade must have wider bins."""
        if len(self._keys) <= CAPACITY and not self._shifts.any():
            return False
        binades = _binade(self._keys)
        starts = np.flatnonzero(np.diff(binades, prepend=-1))
        bins = np.diff(starts, append=len(binades))
        # A binade that was cut has had more values than its share once, and its share only falls.
        values = np.where(self._shifts[binades[starts]] > 0, CAPACITY, bins)
        share = bisect_right(range(CAPACITY + 1), CAPACITY, key=lambda share: int(np.minimum(values, share).sum())) - 1
        wide = np.flatnonzero(bins > share)
        for start, count in zip(starts[wide], bins[wide], strict=True):
            keys = self._keys[start : start + count]
            # Two neighbours fall together once all bits are dropped in which they differ.
            apart = np.frexp((keys[1:] ^ keys[:-1]).astype(float))[1]
            self._shifts[binades[start]] = np.partition(apart, -share)[-share]
        return len(wide) > 0


def on_one_grid(first: Histogram, second: Histogram) -> tuple[Histogram, Pair]:
    """Two histograms with the bins that one of all values together has.

    :return: the histogram of all values, and the values of each in its bins
    """
    counter = HistogramCounter()
    for part in (first, second):
        counter.add(part)
    both = counter.result()
    assert both is not None
    rows = [np.zeros(len(both.keys)), np.zeros(len(both.keys))]
    for counts, part in zip(rows, (first, second), strict=True):
        np.add.at(counts, np.searchsorted(both.keys, part.keys, side="right") - 1, part.counts)
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
    """Keys that are in order, each once, with the sum of their counts."""
    starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[starts], np.add.reduceat(counts, starts)
