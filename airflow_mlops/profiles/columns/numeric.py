"""Numeric columns.

A profile depends on the values alone. Profiling the same rows in a different order or in different batches, or merging
the profiles of subsets, gives the same profile byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.types import as_numbers
from airflow_mlops.profiles.columns.base import Floats, as_numpy, decoded, plain
from airflow_mlops.profiles.columns.histogram import Histogram, HistogramCounter
from airflow_mlops.profiles.columns.moments import Moments

BINS = 10


class NumericColumn(Model):
    """The profile of a numeric column.

    :param rows: number of rows, including null rows
    :param missing: number of null rows
    :param nan: number of rows with the value NaN
    :param infinite: number of rows with the value infinity or minus infinity
    :param mean: mean of the finite values, correct to the last digit. All fields below also refer to the finite values
    :param std: sample standard deviation, correct to the last digit
    :param min: smallest value
    :param max: largest value
    :param edges: edges of at most ten bins with about equal counts: ``min``, quantiles and ``max``. Ties reduce the
        number of bins
    :param counts: exact number of values in each of these bins. A bin includes its upper edge, and the first bin also
        ``min``. If many values equal ``min``, the first bin has width 0 and contains these values
    :param total: exact sum of the values, as a hexadecimal literal
    :param squares: exact sum of the squared values, as a hexadecimal literal
    :param histogram: up to 4,096 bins with exact counts, serialised; :meth:`distribution` reads it. Empty without
        finite values
    """

    kind: Literal["numeric"] = "numeric"
    rows: int
    missing: int
    nan: int
    infinite: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    edges: list[float]
    counts: list[int]
    total: str
    squares: str
    histogram: str

    @property
    def valid(self) -> int:
        """Return the number of finite values."""
        return self.rows - self.missing - self.nan - self.infinite

    def distribution(self) -> Histogram | None:
        """Return the histogram of the finite values, with up to 4,096 bins; ``None`` without finite values."""
        if self.min is None or self.max is None:
            return None
        return Histogram.unpacked(self.histogram, self.min, self.max)

    def cdf(self, points: Sequence[float] | Floats) -> Floats:
        """Return the share of finite values at or below each of ``points``, interpolated as in :meth:`Histogram.cdf`.

        :return: shape ``(len(points),)``; zeros if there are no finite values
        """
        found = self.distribution()
        return np.zeros(len(points)) if found is None else found.cdf(points)

    def quantiles(self, ranks: Sequence[float] | Floats) -> Floats:
        """Return the quantiles of the finite values at ``ranks`` between 0 and 1; empty without finite values."""
        found = self.distribution()
        return np.empty(0) if found is None else found.quantiles(ranks)


def is_numeric(data_type: pa.DataType) -> bool:
    """Return whether a column of ``data_type`` is profiled as numbers."""
    data_type = plain(data_type)
    return bool(
        pa.types.is_integer(data_type)
        or pa.types.is_floating(data_type)
        or pa.types.is_decimal(data_type)
        # A column with only null values may have the null type.
        or pa.types.is_null(data_type)
    )


class NumericCounter:
    """Computes the profile of a numeric column from a stream of values."""

    kind: Literal["numeric"] = "numeric"

    def __init__(self) -> None:
        self.rows = self.missing = self.nan = self.infinite = 0
        self.moments = Moments()
        self.histogram = HistogramCounter()

    def update(self, name: str, array: pa.Array) -> None:
        if not is_numeric(array.type):
            raise SchemaError(
                f"Column {name!r} is numeric in earlier rows and {array.type} in later rows: convert it to one type."
            )
        self.rows += len(array)
        self.missing += array.null_count
        values = as_numpy(as_numbers(decoded(array).drop_null()).cast(pa.float64(), safe=False))
        finite = np.isfinite(values)
        if not finite.all():
            nan = int(np.isnan(values).sum())
            self.nan += nan
            self.infinite += len(values) - int(finite.sum()) - nan
            values = values[finite]
        self.moments.update(values)
        self.histogram.update(values)

    def add(self, column: Any) -> None:
        self.rows += column.rows
        self.missing += column.missing
        self.nan += column.nan
        self.infinite += column.infinite
        self.moments.add(column.valid, column.total, column.squares)
        found = column.distribution()
        if found is not None:
            self.histogram.add(found)

    def result(self) -> NumericColumn:
        found = self.histogram.result()
        total, squares = self.moments.texts()
        edges, counts = ([], []) if found is None else _bins(found)
        return NumericColumn(
            rows=self.rows,
            missing=self.missing,
            nan=self.nan,
            infinite=self.infinite,
            mean=self.moments.mean,
            std=self.moments.std,
            min=None if found is None else found.low,
            max=None if found is None else found.high,
            edges=edges,
            counts=counts,
            total=total,
            squares=squares,
            histogram="" if found is None else found.packed(),
        )


def parts(counts: npt.NDArray[Any]) -> list[int]:
    """Group neighbouring bins into at most :data:`BINS` groups with about equal counts.

    :param counts: number of values in each bin, shape (k,)
    :return: the end of each group, exclusive, as an index into ``counts``. The last group ends after the last bin that
        is not empty
    """
    ranks = np.cumsum(counts)
    inner = np.searchsorted(ranks, ranks[-1] * np.linspace(0, 1, BINS + 1)[1:])
    return [int(index) + 1 for index in np.unique(inner)]


def _bins(found: Histogram) -> tuple[list[float], list[int]]:
    ends = parts(found.counts)
    bounds = [0, *found.ranks[np.asarray(ends) - 1].tolist()]
    return [found.low, *found.highs[np.asarray(ends) - 1].tolist()], [high - low for low, high in pairwise(bounds)]
