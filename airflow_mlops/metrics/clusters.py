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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


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


def alike(groups: NDArray[np.int64], weight: NDArray[np.float64] | None = None) -> Design:
    """Return the largest possible design effect, which occurs if the values of each cluster are equal.

    :param groups: the number of the cluster of each row, shape (n,)
    :param weight: the weight of each row, shape (n,); ``None`` if each row counts once
    :return: the design effect and the effective number of clusters. With a single cluster, the effect is infinite
    """
    sizes = np.bincount(dense(groups), weights=weight).astype(float)
    if len(sizes) < 2:
        return Design(math.inf, 1.0)
    rows = len(groups) if weight is None else float(weight.sum() ** 2 / np.square(weight).sum())
    clusters = float(sizes.sum() ** 2 / np.square(sizes).sum())
    return Design(max(1.0, rows / clusters), clusters)


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
    if len(values) and values.min() == values.max():
        return alike(groups, weight)
    return design(values, groups, weight)


def design(values: NDArray[np.float64], groups: NDArray[np.int64], weight: NDArray[np.float64] | None = None) -> Design:
    """Measure how much clusters widen the interval of the mean of ``values``.

    :param values: the values, such as losses, shape (n,); for rows with weights, their contributions
        (:func:`airflow_mlops.metrics.weighted.contributions`)
    :param groups: the number of the cluster of each row, shape (n,)
    :param weight: the weight of each row, with the mean 1, shape (n,); ``None`` if each row counts once
    :return: the design effect and the effective number of clusters. With a single cluster, the effect is infinite
    """
    numbers = dense(groups)
    sizes = np.bincount(numbers, weights=weight)
    shares = sizes / len(values)
    if len(sizes) < 2:
        return Design(math.inf, 1.0)
    influence = (values - values.mean()) / len(values)
    by_row = float(np.square(influence).sum())
    sums = np.bincount(numbers, weights=influence)
    by_cluster = float(np.square(sums / (1 - shares)).sum()) * (len(sizes) - 1) / len(sizes)
    effect = max(1.0, by_cluster / by_row) if by_row > 0 else 1.0
    # ``alike`` is the correlation of rows within a cluster that gives the design effect. At 0, each row counts as one
    # observation. At 1, each cluster counts as one observation.
    rows = len(values) if weight is None else float(weight.sum() ** 2 / np.square(weight).sum())
    alike = min(1.0, max(0.0, (effect - 1) / max(1e-12, rows * float(np.square(shares).sum()) - 1)))
    weights = alike * sizes**2 + (1 - alike) * sizes
    return Design(effect, float(weights.sum() ** 2 / np.square(weights).sum()))
