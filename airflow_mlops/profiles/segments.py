"""Losses of a model by segment. A segment is a set of rows in which one feature has similar values.

A segment of a numeric feature consists of the rows between two quantiles. A segment of a text or boolean feature
consists of the rows with one value. The segments are derived from the profile of the feature in the split part `train`,
and stored with the losses in the held-out split part `test`. The losses of later windows are computed for the same
segments, one batch at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.metrics.catalog import is_coverage_gap, realised
from airflow_mlops.metrics.clusters import ClusterSums
from airflow_mlops.metrics.moments import GroupMoments, above_0
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, losses
from airflow_mlops.profiles.columns.base import decoded
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.numeric import NumericColumn

log = logging.getLogger(__name__)

BINS, VALUES = 5, 10

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Cut(Model):
    """The segments of one feature. The last segment contains the rows without a value.

    :param edges: boundaries between the segments of a numeric feature, ascending; a segment includes its upper edge
    :param whole: whether all values of a numeric feature are integers
    :param values: values of a text or boolean feature that form one segment each; all other values share one segment
    """

    edges: list[float] | None = None
    whole: bool = False
    values: list[str] | None = None

    @property
    def names(self) -> list[str]:
        """Return descriptions of the segments, such as ``up to 5``, which reports print after the feature's name."""
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
        """Return the index of the segment of each row, shape (n,).

        :return: ``None`` if the values cannot be converted to the kind of the feature at training
        """
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
    """The losses in the k segments of one feature, in the order of :attr:`Cut.names`.

    :param rows: number of rows, shape (k,)
    :param mean: mean loss, shape (k,); 0 without rows
    :param variance: sample variance of the loss, shape (k,); 0 with fewer than two rows. With weights of rows, it
        is the variance of the weighted mean, multiplied by ``effective``
    :param weight: sum of the weights of the rows, shape (k,); empty if each row counts once
    :param effective: effective number of rows (Kish), shape (k,); empty if each row counts once
    """

    rows: list[int]
    mean: list[float]
    variance: list[float]
    weight: list[float] = Field(default_factory=list)
    effective: list[float] = Field(default_factory=list)

    @property
    def mass(self) -> list[float]:
        """Return the sum of the weights of the rows, or the number of rows if each row counts once, shape (k,)."""
        return self.weight or [float(rows) for rows in self.rows]

    @property
    def independent(self) -> list[float]:
        """Return the effective number of rows, shape (k,): ``effective``, or ``rows`` if each row counts once."""
        return self.effective or [float(rows) for rows in self.rows]


class SegmentLosses(Model):
    """The losses in the held-out split part by segment.

    :param cuts: the segments of each feature, by feature name
    :param losses: losses by metric and feature name. A metric is one of :data:`airflow_mlops.metrics.catalog.REALISED`
        or an expected cost, and :func:`airflow_mlops.metrics.realised.losses` computes the loss of each row for this
        metric
    """

    cuts: dict[str, Cut]
    losses: dict[str, dict[str, Losses]]


def cut(columns: Mapping[str, Any]) -> dict[str, Cut]:
    """Derive the segments of features from their profiles.

    A numeric feature has at most five segments with about equal numbers of rows. A text or boolean feature has a
    segment for each of its ten most frequent values, and one segment for all other values. Each of these features has
    one more segment, for rows without a value. Features of other kinds, and features whose values are all missing, have
    no segments.

    :param columns: profiles of the features in the split part `train`, by name
    :return: the segments by feature name
    """
    found = {}
    for name, column in columns.items():
        if not column.valid:
            continue
        if isinstance(column, NumericColumn):
            inner = column.quantiles(np.arange(1, BINS) / BINS)
            bins = column.distribution()
            whole = bins is not None and all(bool((ends == np.floor(ends)).all()) for ends in (bins.lows, bins.highs))
            # An edge at the largest value would create an empty segment above it.
            found[name] = Cut(edges=sorted({*inner.tolist()} - {column.max}), whole=whole)
        elif isinstance(column, CategoricalColumn):
            found[name] = Cut(values=[value for value, _ in column.top[:VALUES]])
    return found


def held_out(
    cuts: Mapping[str, Cut], contract: ModelContract, features: Iterable[pa.RecordBatch], known: Outcomes
) -> SegmentLosses:
    """Compute the losses of held-out rows by segment, for every metric of the model that has a loss per row.

    A metric whose losses cannot be measured on these rows is left out, and the reason is logged.

    :param cuts: the segments by feature name
    :param contract: model contract with the ML task and the metrics
    :param features: features of the held-out rows
    :param known: labelled predictions of these rows, in the same order. If they have weights, the losses are weighted
    """
    costs: dict[str, Floats] = {}
    for metric in realised(contract.task, contract.metrics):
        if is_coverage_gap(metric):
            # The coverage gap of all rows is not the mean of the coverage gaps of the segments.
            continue
        try:
            costs[metric] = losses(metric, known)
        except UnmeasurableError as error:
            log.warning(
                "The profile has no losses by segment for %s, because %s (%s held-out rows of dataset %r, label %r). "
                "Monitoring will not compare segments by this metric. Hold out more rows.",
                metric, error, f"{known.rows:,}", contract.dataset_name, contract.label,
            )  # fmt: skip
    return SegmentLosses(cuts=dict(cuts), losses=tally(cuts, features, costs, known.weight))


def tally(
    cuts: Mapping[str, Cut],
    batches: Iterable[pa.RecordBatch],
    costs: Mapping[str, Floats],
    weight: Floats | None = None,
) -> dict[str, dict[str, Losses]]:
    """Average losses by metric, feature and segment. Memory does not grow with the number of rows.

    :param cuts: the segments by feature name
    :param batches: features of the rows, n rows in all batches. A feature is left out if its column is absent, or if
        the kind of the column differs from the kind at training
    :param costs: losses of these rows by metric, each of shape (n,). A metric is left out for a feature if the mean or
        the variance of a segment is not finite
    :param weight: the weight of each row, above 0, shape (n,); ``None`` if each row counts once
    :return: the losses by metric and feature name
    """
    tallies = {metric: Tally(cuts) for metric in costs}
    start = 0
    for batch in batches:
        rows = slice(start, start + batch.num_rows)
        start += batch.num_rows
        found = codes_of(cuts, batch)
        for metric, cost in costs.items():
            tallies[metric].add(found, cost[rows], None if weight is None else weight[rows])
    return {metric: item.result() for metric, item in tallies.items()}


def codes_of(cuts: Mapping[str, Cut], batch: pa.RecordBatch) -> dict[str, Integers | None]:
    """Return the index of the segment of each row by feature, each of shape (n,).

    The value of a feature is ``None`` if its column is absent, or if the kind of the column differs from training.

    :param cuts: the segments by feature name
    :param batch: features of n rows
    """
    places = {name: batch.schema.get_field_index(name) for name in cuts}
    return {name: item.codes(batch.column(places[name])) if places[name] >= 0 else None for name, item in cuts.items()}


class Tally:
    """Averages the losses of one metric by feature and segment, batch by batch.

    :param cuts: the segments by feature name
    """

    def __init__(self, cuts: Mapping[str, Cut]) -> None:
        self._counters = {name: _Counter(len(item.names)) for name, item in cuts.items()}

    def add(self, codes: Mapping[str, Integers | None], cost: Floats, weight: Floats | None) -> None:
        """Add a batch of n rows.

        :param codes: the index of the segment of each row by feature, see :func:`codes_of`. A feature is left out of the
            result if it has no codes in a batch
        :param cost: losses of the rows, shape (n,)
        :param weight: the weight of each row, above 0, shape (n,); ``None`` if each row counts once
        """
        for name, found in codes.items():
            if found is None:
                self._counters.pop(name, None)
            elif name in self._counters:
                self._counters[name].add(found, cost, weight)

    def result(self) -> dict[str, Losses]:
        """Return the losses by feature name. Features with a mean or a variance that is not finite are left out."""
        return {name: counter.result() for name, counter in self._counters.items() if counter.finite}


def measured(batches: Iterable[pa.RecordBatch], mask: npt.NDArray[np.bool_] | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows for which ``mask`` is true.

    :param batches: the rows
    :param mask: boolean for each of the n rows, shape (n,); ``None`` to yield all rows
    """
    start = 0
    for batch in batches:
        yield batch if mask is None else batch.filter(pa.array(mask[start : start + batch.num_rows]))
        start += batch.num_rows


class Designs:
    """Measures how much clustered rows increase the variance of the mean loss of each segment, batch by batch.

    :param cuts: the segments by feature name
    :param clusters: number of clusters
    """

    def __init__(self, cuts: Mapping[str, Cut], clusters: int) -> None:
        self._sums = {name: ClusterSums(clusters, len(item.names)) for name, item in cuts.items()}

    def add(
        self, codes: Mapping[str, Integers | None], cost: Floats, groups: Integers, weight: Floats | None = None
    ) -> None:
        """Add a batch of n rows.

        :param codes: the index of the segment of each row by feature, see :func:`codes_of`. A feature is left out of the
            result if it has no codes in a batch
        :param cost: losses of the rows, shape (n,)
        :param groups: the number of the cluster of each row, from 0, shape (n,)
        :param weight: the weight of each row, above 0, shape (n,); ``None`` if each row counts once
        """
        for name, found in codes.items():
            if found is None:
                self._sums.pop(name, None)
            elif name in self._sums:
                self._sums[name].add(cost, groups, weight, found)

    def result(self) -> dict[str, list[float]]:
        """Return the design effect of each segment, by feature.

        It is infinite if all rows of the segment are in one cluster, and 1 for a segment without rows.
        """
        return {name: [one.effect for one in sums.designs()] for name, sums in self._sums.items()}


class _Counter:
    """Computes the losses of k segments, batch by batch."""

    def __init__(self, segments: int) -> None:
        self._rows = np.zeros(segments)
        # The variance of a weighted mean is computed from moments with squared weights.
        self._plain, self._squared = GroupMoments(segments), GroupMoments(segments)
        self._weighted = False

    def add(self, codes: Integers, cost: Floats, weight: Floats | None = None) -> None:
        self._rows += np.bincount(codes, minlength=len(self._rows))
        self._plain.add(codes, cost, weight)
        if weight is not None:
            self._weighted = True
            self._squared.add(codes, cost, np.square(weight))

    @property
    def finite(self) -> bool:
        moments = (self._plain, self._squared)
        return all(bool(np.isfinite(item.mean).all() and np.isfinite(item.squares).all()) for item in moments)

    def result(self) -> Losses:
        rows, plain, squared = self._rows, self._plain, self._squared
        counts, mean = rows.astype(int).tolist(), plain.mean.tolist()
        if not self._weighted:
            return Losses(rows=counts, mean=mean, variance=(plain.squares / np.maximum(rows - 1, 1)).tolist())
        variance = squared.around(plain.mean) / above_0(squared.mass) * rows / np.maximum(rows - 1, 1)
        return Losses(
            rows=counts,
            mean=mean,
            variance=np.where(rows > 1, variance, 0.0).tolist(),
            weight=plain.mass.tolist(),
            effective=(np.square(plain.mass) / above_0(squared.mass)).tolist(),
        )
