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

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.types import as_numbers
from airflow_mlops.metrics.clusters import design
from airflow_mlops.profiles.columns.base import Floats, as_numpy, decoded
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.numeric import NumericColumn
from airflow_mlops.profiles.columns.text import TextColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.profiles.profile import ColumnProfile

_QUANTILES = np.linspace(0, 1, 11)[1:-1]
# Design effects are computed for the shares of at most _VALUES frequent values, each with at least this share of rows.
_VALUES, _LEAST_SHARE = 20, 0.01


def design_effect(values: pa.ChunkedArray, clusters: NDArray[np.int64], reference: ColumnProfile) -> float:
    """Return the design effect of a column: how many of its rows carry as much information as one independent row.

    :param values: the column in the window, shape (n,)
    :param clusters: the number of the cluster of each row, shape (n,)
    :param reference: profile of the column in the reference. Its kind determines the properties that are considered
    :return: a number from 1 to the number of rows
    """
    rows = len(clusters)
    if not rows:
        return 1.0
    array = decoded(values.combine_chunks())
    if isinstance(reference, NumericColumn):
        properties = _of_numbers(array)
    elif isinstance(reference, CategoricalColumn) and not (isinstance(reference, TextColumn) and reference.free):
        properties = _of_values(array)
    else:
        return equal_rows(clusters)
    missing = as_numpy(pc.is_null(array).cast(pa.float64()))
    effects = [design(one, clusters).effect for one in (missing, *properties)]
    return float(min(rows, max(effects)))


def equal_rows(clusters: NDArray[np.int64]) -> float:
    """Return the design effect of a column whose values are equal within each cluster.

    :param clusters: the number of the cluster of each row, shape (n,)
    """
    _, sizes = np.unique(clusters, return_counts=True)
    return float(np.square(sizes).sum() / max(1, sizes.sum()))


def _of_numbers(array: pa.Array) -> Iterator[Floats]:
    """Yield an array of shape (n,) for each property of the rows.

    The properties are the rank, the squared rank and, for each decile, whether the value is above it.
    """
    numbers = as_numpy(as_numbers(array).cast(pa.float64(), safe=False).fill_null(np.nan))
    finite = np.isfinite(numbers)
    if not finite.any():
        return
    known = np.sort(numbers[finite])
    ranks = np.where(
        finite,
        (np.searchsorted(known, numbers, "left") + np.searchsorted(known, numbers, "right")) / 2 / len(known) - 0.5,
        0.0,
    )
    yield ranks
    yield np.square(ranks)
    for cut in np.unique(known[(_QUANTILES * (len(known) - 1)).astype(int)]):
        yield (finite & (numbers > cut)).astype(float)


def _of_values(array: pa.Array) -> Iterator[Floats]:
    """Yield an array of shape (n,) for each of the most frequent values: 1 in rows with the value, 0 in other rows."""
    codes = array.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    counts = np.bincount(codes[codes >= 0])
    for code in np.argsort(-counts, kind="stable")[:_VALUES]:
        if counts[code] >= _LEAST_SHARE * len(codes):
            yield (codes == code).astype(float)
