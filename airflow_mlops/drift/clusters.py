"""Design effects of columns with clustered rows, such as the orders of one customer.

Rows of one cluster are similar. A window of few clusters therefore differs more from the reference than the same number
of independent rows. Tests for independent rows would report drift too often. The tests therefore use the effective
number of rows: the number of rows divided by the design effect of the column (L. Kish, "Survey Sampling", 1965). For
chi-square tests, this is the first-order correction of J. Rao and A. Scott, "The Analysis of Categorical Data from
Complex Sample Surveys", Journal of the American Statistical Association 76 (1981).

A test compares many properties of a distribution: the share of each value, or the level, the spread and the quantiles
of numbers. Each property has its own design effect, and the largest one is used, so the tests are conservative. For
columns of other kinds (free text, timestamps, embeddings), the design effect is the largest possible one: all values of
a cluster are assumed to be equal.

The reference is assumed to have the same design effect. If the clusters of window and reference are the same, their
difference varies less than assumed, so the tests are again conservative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data import spool
from airflow_mlops.data.sorting import in_order
from airflow_mlops.data.types import as_numbers
from airflow_mlops.metrics.clusters import ClusterSums, at_once
from airflow_mlops.metrics.ordered_ranks import Ordered, by_run
from airflow_mlops.profiles.columns.base import Floats, as_numpy, decoded
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.numeric import NumericColumn
from airflow_mlops.profiles.columns.text import TextColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.profiles.profile import ColumnProfile

Rows: TypeAlias = "Callable[[], Iterable[tuple[pa.Array, NDArray[np.int64]]]]"
"""Yields the values of a column and the numbers of their clusters, from 0, in batches. Each call yields the same batches."""

_QUANTILES = np.linspace(0, 1, 11)[1:-1]
# Design effects are computed for the shares of at most _VALUES frequent values, each with at least this share of rows.
_VALUES, _LEAST_SHARE = 20, 0.01
# The largest number of distinct values that are counted at once.
_COUNTED = 100_000

_SORTED = pa.schema([("value", pa.float64()), ("group", pa.int64())])


def design_effect(
    rows: Rows, sizes: NDArray[np.int64], reference: ColumnProfile, memory_limit: str | None = None
) -> float:
    """Return the design effect of a column: how many of its rows carry as much information as one independent row.

    Memory grows with the number of clusters, and not with the number of rows.

    :param rows: the column in the window
    :param sizes: the number of rows of each cluster, shape (c,)
    :param reference: profile of the column in the reference. Its kind determines the properties that are considered
    :param memory_limit: memory of sorts, see :func:`airflow_mlops.data.relational.connect_bounded`
    :return: a number from 1 to the number of rows
    """
    count, clusters = int(sizes.sum()), len(sizes)
    if not count:
        return 1.0
    if isinstance(reference, NumericColumn):
        effects = _of_numbers(rows, clusters, count, memory_limit)
    elif isinstance(reference, CategoricalColumn) and not (isinstance(reference, TextColumn) and reference.free):
        effects = _of_values(rows, clusters, count)
    else:
        return equal_rows(sizes)
    missing = ClusterSums(clusters)
    for values, groups in rows():
        missing.add(as_numpy(pc.is_null(decoded(values)).cast(pa.float64())), groups)
    return float(min(count, max([missing.design().effect, *effects])))


def equal_rows(sizes: NDArray[np.int64]) -> float:
    """Return the design effect of a column whose values are equal within each cluster.

    :param sizes: the number of rows of each cluster, shape (c,)
    """
    return float(np.square(sizes.astype(float)).sum() / max(1, sizes.sum()))


def _of_numbers(rows: Rows, clusters: int, count: int, memory_limit: str | None) -> Iterator[float]:
    """Yield the design effect of each property of numbers.

    The properties are the rank, the squared rank and, for each decile, whether the value is above it.
    """
    batches = in_order(_finite(rows), _SORTED, ["value"], count, memory_limit)
    with spool.spooled(batches, _SORTED) as known:
        if not len(known):
            return
        places = np.unique((_QUANTILES * (len(known) - 1)).astype(int))
        cuts = np.unique(known.select(["value"]).take(pa.array(places))["value"].to_numpy())
        properties: list[Callable[[Floats, Floats], Floats]] = [
            lambda ranks, _: ranks,
            lambda ranks, _: np.square(ranks),
            *(partial(_above, cut) for cut in cuts.tolist()),
        ]

        def ordered() -> Iterator[Ordered]:
            for batch in known.select(["value"]).to_batches():
                yield Ordered(np.zeros(batch.num_rows, bool), batch.column("value").to_numpy())

        for some in at_once(properties, clusters):
            sums = [ClusterSums(clusters) for _ in some]
            groups = known.select(["group"]).to_batches()
            for (batch, runs), numbers in zip(by_run(ordered), groups, strict=True):
                middle = (runs.before + runs.here / 2)[:, 0]
                ranks = (middle / len(known) - 0.5)[runs.number]
                for each, of in zip(sums, some, strict=True):
                    each.add(of(ranks, batch.score), numbers.column("group").to_numpy())
            if len(known) < count:
                # The properties of rows without a finite value are 0.
                for values, numbers in rows():
                    without = numbers[~np.isfinite(_numbers(values))]
                    for each in sums:
                        each.add(np.zeros(len(without)), without)
            yield from (each.design().effect for each in sums)


def _above(cut: float, _: Floats, values: Floats) -> Floats:
    return (values > cut).astype(float)


def _finite(rows: Rows) -> Iterator[pa.RecordBatch]:
    for values, groups in rows():
        numbers = _numbers(values)
        finite = np.isfinite(numbers)
        yield pa.RecordBatch.from_arrays([pa.array(numbers[finite]), pa.array(groups[finite])], schema=_SORTED)


def _numbers(values: pa.Array) -> Floats:
    return as_numpy(as_numbers(decoded(values)).cast(pa.float64(), safe=False).fill_null(np.nan))


def _of_values(rows: Rows, clusters: int, count: int) -> Iterator[float]:
    """Yield the design effect of the share of each of the most frequent values."""
    frequent = _frequent(rows, count)
    for some in at_once(range(len(frequent)), clusters):
        sums = [ClusterSums(clusters) for _ in some]
        for values, groups in rows():
            array = decoded(values)
            codes = pc.fill_null(pc.index_in(array, pa.array(frequent, array.type)), -1).to_numpy()
            for each, code in zip(sums, some, strict=True):
                each.add((codes == code).astype(float), groups)
        yield from (each.design().effect for each in sums)


def _frequent(rows: Rows, count: int) -> list[object]:
    """Return the most frequent values, the most frequent first.

    With many distinct values, only candidates are counted (J. Misra and D. Gries, "Finding Repeated Elements", Science of
    Computer Programming 2, 1982). They contain all values with at least the share ``_LEAST_SHARE`` of the rows.
    """
    found, is_exact = _counts(rows)
    if not is_exact:
        found = _counts(rows, {*found})[0]
    frequent = [value for value, rows_with in found.most_common() if rows_with >= _LEAST_SHARE * count]
    return frequent[:_VALUES]


def _counts(rows: Rows, only: set[object] | None = None) -> tuple[Counter[object], bool]:
    """Count values, except nulls.

    :param only: the values to count; all values by default
    :return: the counts, and whether they are exact
    """
    found, is_exact = Counter[object](), True
    for values, _ in rows():
        counted = decoded(values).drop_null().value_counts()
        for value, number in zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True):
            if only is None or value in only:
                found[value] += number
        if len(found) > _COUNTED:
            is_exact = False
            # In total, at most a 1,000th of the rows is subtracted from each count.
            least = sorted(found.values(), reverse=True)[1_000]
            found = Counter({value: number - least for value, number in found.items() if number > least})
    return found, is_exact
