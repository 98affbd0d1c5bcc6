"""Draw a random sample of the rows, or of the clusters, that have attributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.drift.attributions import COLUMN, Sample
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.check import CLUSTER, Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

UNITS = 1_000
"""Largest number of sampled rows, or of sampled clusters."""

# Small batches limit the memory, because each row has a text and a number for each feature.
_BATCH_ROWS = 1_024


class Explained(NamedTuple):
    """The attributions of a window.

    :param sample: sample of the rows with attributions, or of the clusters with such rows
    :param rows: number of rows with attributions, sampled or not
    """

    sample: Sample
    rows: int


def draw(check: Check, features: Sequence[str]) -> Explained:
    """Draw a sample of at most :data:`UNITS` rows with attributions, or of clusters with such rows.

    :param check: predictions whose datasets have the column of attributions
    :param features: names of the features of the model
    """
    count = check.rows if check.clusters is None else check.clusters.count
    # Each unit (row or cluster) has a random rank, and the units with the smallest ranks are sampled. The rank of a unit
    # does not depend on its attributions.
    order = np.random.default_rng(0).permutation(count)
    picked, start, rows = _Picked(len(features)), 0, 0
    seen, names = np.zeros(len(features), dtype=bool), pa.array(features, pa.string())
    for batch in check.batches([COLUMN] if check.clusters is None else [COLUMN, CLUSTER], _BATCH_ROWS):
        ids = np.arange(start, start + batch.num_rows)
        start += batch.num_rows
        places = order[ids if check.clusters is None else clusters.of_batch(batch)]
        lists = batch.column(COLUMN)
        explained = pc.fill_null(pc.greater(pc.list_value_length(lists), 0), False).to_numpy(zero_copy_only=False)
        rows += int(explained.sum())
        kept = explained & (places < picked.limit)
        if not kept.any():
            continue
        lists, places = lists.filter(pa.array(kept)), places[kept]
        items, owners = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()
        columns = pc.index_in(items.field("feature"), value_set=names).fill_null(-1).to_numpy()
        known = columns >= 0
        values = np.abs(items.field("value").to_numpy(zero_copy_only=False))
        sums = np.zeros((len(places), len(features)))
        np.add.at(sums, (owners[known], columns[known]), values[known])
        seen[columns[known]] = True
        picked.add(places, sums)
    sample = Sample([name for name, is_seen in zip(features, seen, strict=True) if is_seen], picked.sums[:, seen])
    return Explained(sample, rows)


class _Picked:
    """The sampled units (rows or clusters): those with the smallest random ranks so far.

    Rows of units whose rank is at least ``limit`` need not be added. ``limit`` only falls, so all rows of the units
    that are sampled at the end were added.
    """

    def __init__(self, features: int) -> None:
        self.places = np.empty(0, dtype=np.int64)
        self.sums: NDArray[np.float64] = np.empty((0, features))
        self.limit = np.iinfo(np.int64).max

    def add(self, places: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
        self.places, owners = np.unique(np.concatenate([self.places, places]), return_inverse=True)
        total = np.zeros((len(self.places), sums.shape[1]))
        np.add.at(total, owners, np.concatenate([self.sums, sums]))
        self.places, self.sums = self.places[:UNITS], total[:UNITS]
        if len(self.places) == UNITS:
            self.limit = int(self.places[-1]) + 1
