"""NDCG of each group of rows, see :mod:`airflow_mlops.metrics.rankings`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from airflow_mlops.metrics.rankings import LARGEST

if TYPE_CHECKING:
    from numpy.typing import NDArray


class GroupNdcg(NamedTuple):
    """NDCG of the m groups that have a label above 0.

    :param first: position of the first row of each group, shape (m,)
    :param value: NDCG of each group, shape (m,)
    """

    first: NDArray[np.int64]
    value: NDArray[np.float64]


def ndcg(group: NDArray[Any], truth: NDArray[np.float64], score: NDArray[np.float64], k: int) -> GroupNdcg:
    """Compute NDCG@k of each group.

    :param group: code of the group of each row, shape (n,)
    :param truth: the label of each row, from 0 to :data:`airflow_mlops.metrics.rankings.LARGEST`, shape (n,)
    :param score: the prediction for each row, shape (n,)
    :param k: number of rows of each group that count: those with the highest predictions
    """
    _, first, codes = np.unique(group, return_index=True, return_inverse=True)
    gain = np.exp2(truth) - 1
    found, ideal = (_discounted(codes, gain, order, k) for order in (score, gain))
    relevant = ideal > 0
    return GroupNdcg(first[relevant], found[relevant] / ideal[relevant])


def wrong_relevance(truth: NDArray[np.float64]) -> str | None:
    """Return a clause about labels outside the range of relevances; ``None`` if there are none."""
    wrong = int((~((truth >= 0) & (truth <= LARGEST))).sum())
    return f"{wrong:,} of {len(truth):,} labels are not from 0 to {LARGEST}" if wrong else None


def _discounted(
    codes: NDArray[np.int64], gain: NDArray[np.float64], order: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    """Return the sum of the discounted gains of each group, if its rows are ranked by ``order`` from high to low."""
    sorted_rows = np.lexsort((-order, codes))
    group, level, gains = codes[sorted_rows], order[sorted_rows], gain[sorted_rows]
    starts = np.concatenate([[True], group[1:] != group[:-1]])
    place = np.arange(len(group))
    rank = place - np.maximum.accumulate(np.where(starts, place, 0))
    discount = np.where(rank < k, 1 / np.log2(rank + 2), 0.0)
    # Rows with equal predictions share the mean of their gains.
    tie = np.cumsum(starts | np.concatenate([[True], level[1:] != level[:-1]])) - 1
    mean = np.bincount(tie, weights=gains) / np.bincount(tie)
    return np.bincount(group, weights=mean[tie] * discount).astype(np.float64)
