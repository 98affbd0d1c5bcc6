"""Confidence intervals for clustered rows, which are not independent, such as the orders of one customer.

The variance of a mean is computed by the jackknife over clusters. The influence of a cluster is the change of the mean
if the cluster is left out. It is computed as the sum of the influences of the cluster's rows, divided by one minus the
cluster's share of the rows. Sources (CR3): R. Bell and D. McCaffrey, "Bias Reduction in Standard Errors for Linear
Regression with Multi-Stage Samples", Survey Methodology 28, 2002; J. MacKinnon, M. Nielsen and M. Webb, "Cluster-Robust
Inference: A Guide to Empirical Practice", Journal of Econometrics 232, 2023.

The design effect is the ratio of this variance to the variance with independent rows (L. Kish, "Survey Sampling",
1965). The interval uses the quantile of Student's t, with the effective number of clusters minus 1 as degrees of
freedom. The effective number of clusters is small if a few clusters have most of the rows (A. Carter, K. Schnepel and
D. Steigerwald, "Asymptotic Behavior of a t-Test Robust to Cluster Heterogeneity", Review of Economics and Statistics
99, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_Item = TypeVar("_Item")

# The largest number of sums of clusters in memory at the same time: 16 bytes each.
_SUMS = 4_000_000


class Design(NamedTuple):
    """How much clusters widen the interval of a mean.

    :param effect: the design effect: variance with clusters, divided by the variance with independent rows; at least 1
    :param clusters: effective number of clusters: the number of clusters of equal size that have the same variance
    """

    effect: float
    clusters: float

    def factor(self, z: float) -> float:
        """Return the factor by which the interval of independent rows is widened.

        :param z: quantile of the normal distribution, such as 1.96
        """
        return math.sqrt(self.effect) * student(z, self.clusters) / z


def student(z: float, clusters: float) -> float:
    """Return the quantile of Student's t for an effective number of clusters.

    :param z: quantile of the normal distribution with the same level, such as 1.96
    :param clusters: effective number of clusters. The degrees of freedom are ``clusters - 1``, but at least 1
    """
    from scipy import special

    return float(special.stdtrit(max(1.0, clusters - 1), special.ndtr(z)))


def codes(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the number of each row's cluster, shape (n,).

    Each row with a null is a separate cluster with a negative number.

    :param values: the column that names the clusters
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    found = pc.fill_null(values.combine_chunks().dictionary_encode().indices, -1)
    numbers = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where(numbers < 0, -1 - np.arange(len(numbers)), numbers)


def dense(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber clusters from 0 to k - 1, shape (n,). Numbers without gaps are returned unchanged."""
    if len(groups) and groups.min() == 0 and groups.max() < len(groups) and (np.bincount(groups) > 0).all():
        return groups
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


class ClusterSums:
    """Sums of values by cluster, from which design effects are computed. Rows are added one batch at a time.

    The rows may be divided into k strata, such as the segments of a feature, which have their own design effects. Memory
    grows with the number of clusters, times the number of strata, and not with the number of rows.

    :param clusters: number c of clusters
    :param strata: number k of strata
    """

    def __init__(self, clusters: int, strata: int = 1) -> None:
        self._sizes, self._sums = np.zeros((strata, clusters)), np.zeros((strata, clusters))
        self._rows = np.zeros(strata)
        # Sums of the squared weights, times the deviations to the powers 0, 1 and 2.
        self._squares = np.zeros((3, strata))
        self._least, self._most = np.full(strata, math.inf), np.full(strata, -math.inf)
        # Deviations from a value near the mean have smaller rounding errors than the values.
        self._near: float | None = None

    def add(
        self,
        values: NDArray[np.float64],
        groups: NDArray[np.int64],
        weight: NDArray[np.float64] | None = None,
        strata: NDArray[np.int64] | None = None,
    ) -> None:
        """Add a batch of n rows.

        :param values: the values, shape (n,)
        :param groups: the number of the cluster of each row, from 0, shape (n,)
        :param weight: the weight of each row, above 0, shape (n,); ``None`` if each row counts once
        :param strata: the number of the stratum of each row, from 0, shape (n,); ``None`` for a single stratum
        """
        if not len(values):
            return
        if self._near is None:
            self._near = float(values.mean()) if math.isfinite(float(values.mean())) else 0.0
        parts, clusters = self._sizes.shape
        places = groups if strata is None else strata * clusters + groups
        with np.errstate(over="ignore", invalid="ignore"):
            deviations = values - self._near
            weighted = deviations if weight is None else weight * deviations
            _add(self._sizes, places, weight)
            _add(self._sums, places, weighted)
            squared = None if weight is None else np.square(weight)
            for number, each in enumerate((None, deviations, np.square(deviations))):
                term = squared if each is None else each if squared is None else squared * each
                if strata is None:
                    self._squares[number] += len(values) if term is None else term.sum()
                else:
                    self._squares[number] += np.bincount(strata, term, parts)
        if strata is None:
            self._rows += len(values)
            self._least, self._most = (
                np.minimum(self._least, values.min()),
                np.maximum(self._most, values.max()),
            )
        else:
            self._rows += np.bincount(strata, minlength=parts)
            np.minimum.at(self._least, strata, values)
            np.maximum.at(self._most, strata, values)

    def designs(self) -> list[Design]:
        """Return the design effect of each stratum; 1 for a stratum without rows."""
        found = enumerate(self._rows.tolist())
        return [self.design(number) if rows else Design(1.0, 0.0) for number, rows in found]

    def alike(self) -> Design:
        """Return the design effect of the first stratum, see :func:`alike`."""
        return self._alike(0)

    def design(self, stratum: int = 0, *, of_share: bool = False) -> Design:
        """Return the design effect of a stratum, see :func:`design`.

        :param stratum: number of the stratum
        :param of_share: whether equal values have the largest possible design effect (:func:`design_of_share`)
        """
        is_equal = bool(self._least[stratum] >= self._most[stratum])
        if is_equal and of_share:
            return self._alike(stratum)
        sizes, mass, rows = self._of(stratum)
        if len(sizes) < 2:
            return Design(math.inf, 1.0)
        has = self._sizes[stratum] > 0
        with np.errstate(over="ignore", invalid="ignore"):
            shift = float(self._sums[stratum].sum()) / mass
            sums = (self._sums[stratum][has] - shift * sizes) / mass
            squares, products, own = self._squares[:, stratum]
            by_row = 0.0 if is_equal else float(own - 2 * shift * products + shift * shift * squares) / mass**2
            by_cluster = float(np.square(sums / (1 - sizes / mass)).sum()) * (len(sizes) - 1) / len(sizes)
        effect = max(1.0, by_cluster / by_row) if by_row > 0 else 1.0
        # The correlation of rows within a cluster that gives the design effect. At 0, each row counts as one observation.
        # At 1, each cluster counts as one observation.
        shares = float(np.square(sizes / mass).sum())
        similar = min(1.0, max(0.0, (effect - 1) / max(1e-12, rows * shares - 1)))
        scaled = sizes * (float(self._rows[stratum]) / mass)
        weights = similar * scaled**2 + (1 - similar) * scaled
        return Design(effect, float(weights.sum() ** 2 / np.square(weights).sum()))

    def _of(self, stratum: int) -> tuple[NDArray[np.float64], float, float]:
        """Return the sizes of the clusters with rows, their sum, and the effective number of rows."""
        sizes = self._sizes[stratum][self._sizes[stratum] > 0]
        mass = float(sizes.sum())
        return sizes, mass, mass**2 / float(self._squares[0, stratum]) if mass else 0.0

    def _alike(self, stratum: int) -> Design:
        sizes, mass, rows = self._of(stratum)
        if len(sizes) < 2:
            return Design(math.inf, 1.0)
        clusters = mass**2 / float(np.square(sizes).sum())
        return Design(max(1.0, rows / clusters), clusters)


def at_once(items: Sequence[_Item], clusters: int) -> Iterator[Sequence[_Item]]:
    """Divide items into parts, so that the :class:`ClusterSums` of the items of a part fit in memory together.

    :param items: items, each with its own sums
    :param clusters: number of clusters, times the number of strata
    """
    size = max(1, _SUMS // max(1, clusters))
    return (items[start : start + size] for start in range(0, len(items), size))


def _add(sums: NDArray[np.float64], places: NDArray[np.int64], values: NDArray[np.float64] | None) -> None:
    """Add values, or 1 for each row, to the elements of ``sums`` at ``places``, shape (n,)."""
    flat = sums.reshape(-1)
    if len(flat) > len(places):
        # With many clusters, it takes less time to change only the sums of the clusters in the batch.
        np.add.at(flat, places, 1.0 if values is None else values)
    else:
        flat += np.bincount(places, values, len(flat))


def alike(groups: NDArray[np.int64], weight: NDArray[np.float64] | None = None) -> Design:
    """Return the largest possible design effect, which occurs if the values of each cluster are equal.

    :param groups: the number of the cluster of each row, shape (n,)
    :param weight: the weight of each row, shape (n,); ``None`` if each row counts once
    :return: the design effect and the effective number of clusters. With a single cluster, the effect is infinite
    """
    return _sums_of(np.zeros(len(groups)), groups, weight).alike()


def design_of_share(
    values: NDArray[np.float64], groups: NDArray[np.int64], weight: NDArray[np.float64] | None = None
) -> Design:
    """Measure how much clusters widen the interval of a share.

    An interval such as Wilson's has a width even if the share is 0 or 1, so a design effect is needed there as well. If all
    values are equal, they do not show how similar the rows of a cluster are. The design effect is then the largest
    possible one (:func:`alike`).

    :param values: as in :func:`design`
    :param groups: as in :func:`design`
    :param weight: as in :func:`design`
    :return: the design effect and the effective number of clusters. With a single cluster, the effect is infinite
    """
    return _sums_of(values, groups, weight).design(of_share=True)


def design(values: NDArray[np.float64], groups: NDArray[np.int64], weight: NDArray[np.float64] | None = None) -> Design:
    """Measure how much clusters widen the interval of the mean of ``values``, weighted if the rows have weights.

    :param values: the values, such as losses, shape (n,)
    :param groups: the number of the cluster of each row, shape (n,)
    :param weight: the weight of each row, above 0, shape (n,); ``None`` if each row counts once
    :return: the design effect and the effective number of clusters. With a single cluster, the effect is infinite
    """
    return _sums_of(values, groups, weight).design()


def _sums_of(values: NDArray[np.float64], groups: NDArray[np.int64], weight: NDArray[np.float64] | None) -> ClusterSums:
    numbers = dense(groups)
    found = ClusterSums(int(numbers.max(initial=-1)) + 1)
    found.add(values, numbers, weight)
    return found
