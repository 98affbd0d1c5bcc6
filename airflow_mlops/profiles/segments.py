"""A model's loss by segments of the rows: those between two quantiles of a feature, or with one of its values.

How a feature is cut is decided once, from its profile in the training part, and kept with the losses of the held-out part;
a later window is counted in the same segments, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.metrics.catalog import REALISED
from airflow_mlops.metrics.realised import Outcomes, losses
from airflow_mlops.profiles.columns.base import decoded
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.numeric import NumericColumn

BINS, VALUES = 5, 10

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Cut(Model):
    """How the rows are cut by one feature; rows without a value are a segment as well, the last one.

    :param edges: of numbers: where one bin ends and the next begins, ascending; a bin holds its upper edge
    :param whole: whether the numbers are whole
    :param values: of text and booleans: a segment each, and one for all others
    """

    edges: list[float] | None = None
    whole: bool = False
    values: list[str] | None = None

    @property
    def names(self) -> list[str]:
        """What each segment holds, to be read after the feature's name."""
        if self.values is not None:
            return [*(f"= {value}" for value in self.values), "= any other", "missing"]
        edges = self.edges or []
        if not edges:
            return ["with a value", "missing"]
        between = [self._between(low, high) for low, high in pairwise(edges)]
        above = f"from {edges[-1] + 1:.6g}" if self.whole else f"above {edges[-1]:.6g}"
        return [f"up to {edges[0]:.6g}", *between, above, "missing"]

    def _between(self, low: float, high: float) -> str:
        if not self.whole:
            return f"{low:.6g} to {high:.6g}"
        return f"= {high:.6g}" if low + 1 == high else f"{low + 1:.6g} to {high:.6g}"

    def codes(self, values: pa.Array) -> Integers | None:
        """The segment of each row, shape (n,); ``None`` if these are no such values."""
        plain, last = decoded(values), len(self.names) - 1
        if self.values is not None:
            known = pa.array(self.values, pa.string())
            try:
                places = pc.index_in(plain.cast(pa.string()), known)
            except pa.ArrowException:
                return None
            codes = pc.fill_null(places, last - 1).to_numpy(zero_copy_only=False).astype(np.int64)
            return np.where(plain.is_null().to_numpy(zero_copy_only=False), last, codes)
        try:
            numbers = plain.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        except pa.ArrowException:
            return None
        places = np.searchsorted(np.asarray(self.edges or []), numbers, side="left")
        return np.where(np.isfinite(numbers), places, last).astype(np.int64)


class Losses(Model):
    """The losses of the segments of one feature, in the order of its cut.

    :param rows: shape (k,)
    :param mean: shape (k,); 0 where there are no rows
    :param variance: of the sample, shape (k,); 0 where there are fewer than two rows
    """

    rows: list[int]
    mean: list[float]
    variance: list[float]


class SegmentLosses(Model):
    """What the rows of the held-out part cost, by segment.

    :param cuts: by feature
    :param losses: by metric (one of :data:`airflow_mlops.metrics.catalog.REALISED`; what is averaged is
        :func:`airflow_mlops.metrics.realised.losses`), by feature
    """

    cuts: dict[str, Cut]
    losses: dict[str, dict[str, Losses]]


def cut(columns: Mapping[str, Any]) -> dict[str, Cut]:
    """Cut features by their profiles: numbers into about five bins of equal rows, others by their ten most frequent
    values. A feature of another kind, or without a value, has no segments.
    """
    found = {}
    for name, column in columns.items():
        if not column.valid:
            continue
        if isinstance(column, NumericColumn):
            inner = column.quantiles(np.arange(1, BINS) / BINS)
            kept = column.distribution()
            whole = kept is not None and all(bool((of == np.floor(of)).all()) for of in (kept.lows, kept.highs))
            # Nothing lies above the largest value.
            found[name] = Cut(edges=sorted({*inner.tolist()} - {column.max}), whole=whole)
        elif isinstance(column, CategoricalColumn):
            found[name] = Cut(values=[value for value, _ in column.top[:VALUES]])
    return found


def held_out(
    cuts: Mapping[str, Cut], contract: ModelContract, features: Iterable[pa.RecordBatch], known: Outcomes
) -> SegmentLosses:
    """What the held-out rows cost, in every loss that may be asked for later.

    :param features: their features
    :param known: their outcomes, in the same order
    """
    costs = {metric: losses(metric, known) for metric in REALISED[contract.task] if metric in contract.metrics}
    return SegmentLosses(cuts=dict(cuts), losses=tally(cuts, features, costs))


def tally(
    cuts: Mapping[str, Cut], batches: Iterable[pa.RecordBatch], costs: Mapping[str, Floats]
) -> dict[str, dict[str, Losses]]:
    """Count rows and add up losses, by metric and feature; memory does not grow with the rows.

    :param batches: the features of n rows. A feature that is not there, or has become another kind of column, is left out
    :param costs: what these rows cost, by metric, shape (n,); what is too large to be averaged is left out
    """
    counters = {metric: {name: _Counter(len(item.names)) for name, item in cuts.items()} for metric in costs}
    gone: set[str] = set()
    start = 0
    for batch in batches:
        rows = slice(start, start + batch.num_rows)
        start += batch.num_rows
        for name, item in cuts.items():
            index = batch.schema.get_field_index(name)
            codes = item.codes(batch.column(index)) if index >= 0 else None
            if codes is None:
                gone.add(name)
                continue
            for metric, cost in costs.items():
                counters[metric][name].add(codes, cost[rows])
    return {
        metric: {name: counter.result() for name, counter in of.items() if name not in gone and counter.finite}
        for metric, of in counters.items()
    }


class _Counter:
    """Counts and moments of each of k segments, merged as Chan, Golub and LeVeque have it."""

    def __init__(self, segments: int) -> None:
        self.rows = np.zeros(segments)
        self.mean, self.squares = np.zeros(segments), np.zeros(segments)

    def add(self, codes: Integers, cost: Floats) -> None:
        segments = len(self.rows)
        rows = np.bincount(codes, minlength=segments).astype(float)
        total = np.maximum(self.rows + rows, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.bincount(codes, cost, segments) / np.maximum(rows, 1)
            squares = np.bincount(codes, np.square(cost - mean[codes]), segments)
            apart = mean - self.mean
            self.squares += squares + np.square(apart) * self.rows * rows / total
            self.mean += apart * rows / total
        self.rows += rows

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.mean).all() and np.isfinite(self.squares).all())

    def result(self) -> Losses:
        return Losses(
            rows=self.rows.astype(int).tolist(),
            mean=self.mean.tolist(),
            variance=(self.squares / np.maximum(self.rows - 1, 1)).tolist(),
        )
