"""Drift of attributions: whether the features kept their order of importance for the predictions.

The importance of a feature in a window is its mean absolute attribution. The statistic is the NDCG of the window's
order of the features, with the importances of the reference as gains (K. Järvelin and J. Kekäläinen, "Cumulated
gain-based evaluation of IR techniques", 2002). NDCG is 1 if the order is the same. If only features of little
importance change their order, NDCG is close to 1.

The p-value is computed by a permutation test: rows, or whole clusters of rows, are reassigned at random to the
reference and to the window. The test is exact for any distribution of the attributions if the rows, or the clusters,
are independent. If a cluster occurs in the reference and in the window, the test is conservative. All windows of a
version have the same reference, so false alarms in different windows are not independent.
"""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from airflow_mlops.drift.findings import Bin, Drift

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COLUMN = "attributions"

# The smallest possible p-value is 1 / 10,000, which can stay significant among 500 columns at a level of 5%.
_ROUNDS, _AT_ONCE = 9_999, 500
# Maximum number of compared features: those with the largest attributions in reference and window together.
_FEATURES = 50
_SHOWN = 12


class Sample(NamedTuple):
    """Absolute attributions of a sample of a window.

    :param features: names of the k features
    :param sums: sum of the absolute attributions of each sampled row, or of the rows of each sampled cluster, shape
        (n, k)
    """

    features: list[str]
    sums: NDArray[np.float64]


def compare(before: Sample, now: Sample, reference: str) -> Drift:
    """Measure and test whether the order of the features' importances changed.

    :param before: the sample of the reference
    :param now: the sample of the window
    :param reference: label of the reference, such as ``2013-04``
    :return: the drift, before the correction for multiple tests. ``effect`` is the share of the total importance that
        moved from some features to others, from 0 to 1. The bars are the shares of the total importance
    """
    features = [name for name in before.features if name in now.features]
    first, second = (
        item.sums[:, [item.features.index(name) for name in features]].astype(float) for item in (before, now)
    )
    if len(features) < 2:
        return unmeasured("fewer than two features have attributions in both windows", reference)
    old, new = _shares(first), _shares(second)
    effect = float(np.abs(old - new).sum() / 2)
    pooled = np.concatenate([first, second])
    # The choice does not depend on which rows belong to the window, so the permutation test remains exact.
    chosen = np.sort(np.argsort(-pooled.sum(axis=0), kind="stable")[:_FEATURES])
    value = float(_ndcg(first[:, chosen].sum(axis=0)[None], second[:, chosen].sum(axis=0)[None])[0])
    shown = np.argsort(-np.maximum(old, new), kind="stable")[:_SHOWN]
    return Drift(
        column=COLUMN,
        kind=COLUMN,
        reference=reference,
        p_values={"ndcg": (p_value := _p_value(pooled[:, chosen], len(first), value))},
        test="ndcg",
        effect=effect,
        tests=1,
        p_value=p_value,
        note=f"NDCG {value:.3f}; {_moved(features, old, new)}",
        bins=[
            Bin(label=features[place], reference=float(old[place]), current=float(new[place]))
            for place in shown[np.argsort(-old[shown], kind="stable")]
        ],
    )


def fewest(level: float) -> int:
    """Return how many rows, or clusters of rows, each of the two samples must have for a significant result.

    The smallest possible p-value is 1 divided by the number of ways to divide the pooled rows into two samples.

    :param level: the largest p-value that counts as significant
    """
    count = 1
    while comb(2 * count, count) * level < 1:
        count += 1
    return count


def unmeasured(why: str, reference: str) -> Drift:
    """Return a finding that contains the reason why the drift of attributions was not measured.

    :param why: the reason as a clause
    :param reference: label of the reference, such as ``2013-04``
    """
    return Drift(column=COLUMN, kind=COLUMN, reference=reference, note=f"not measured: {why}")


def _shares(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    total = sums.sum(axis=0)
    whole = total.sum()
    return total / whole if whole > 0 else np.full(len(total), 1 / len(total))


def _ndcg(gains: NDArray[np.float64], importances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the NDCG of the order of k features by ``importances``, shape (m,).

    :param gains: the gain of each feature, shape (m, k)
    :param importances: the importance of each feature, shape (m, k)
    """
    discounts = 1 / np.log2(np.arange(gains.shape[1]) + 2)
    order = np.argsort(-importances, axis=1, kind="stable")
    ideal = np.sort(gains, axis=1)[:, ::-1] @ discounts
    found = np.take_along_axis(gains, order, axis=1) @ discounts
    return np.divide(found, ideal, out=np.ones_like(ideal), where=ideal > 0)


def _p_value(pooled: NDArray[np.float64], first: int, value: float) -> float:
    """Return the share of random reassignments, including the observed assignment, with an NDCG of at most ``value``.

    :param pooled: the attributions of the reference, followed by those of the window, shape (n, k)
    :param first: number of rows of ``pooled`` that belong to the reference
    :param value: the NDCG of the observed samples
    """
    random = np.random.default_rng(0)
    belongs = (np.arange(len(pooled)) < first).astype(float)
    total, extreme, left = pooled.sum(axis=0), 1, _ROUNDS
    while left:
        rounds = min(left, _AT_ONCE)
        gains = random.permuted(np.tile(belongs, (rounds, 1)), axis=1) @ pooled
        # Rounding errors must not turn ties into smaller values.
        extreme += int(np.count_nonzero(_ndcg(gains, total - gains) <= value + 1e-12))
        left -= rounds
    return extreme / (_ROUNDS + 1)


def _moved(features: Sequence[str], old: NDArray[np.float64], new: NDArray[np.float64]) -> str:
    """Name the feature whose share of the total importance changed most, with its shares and ranks."""
    place = int(np.argmax(np.abs(new - old)))
    ranks = [int(np.count_nonzero(shares > shares[place])) + 1 for shares in (old, new)]
    return (
        f"largest change: {features[place]} {old[place]:.1%} of the attributions before (rank {ranks[0]}), "
        f"{new[place]:.1%} now (rank {ranks[1]})"
    )
