"""The rows of a training set before the split, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.datasets import DatasetWriter, Manifest
from airflow_mlops.data.row_identity import row_ids
from airflow_mlops.data.spool import Rows
from airflow_mlops.stages.training_set import files, leakage
from airflow_mlops.stages.training_set.layout import Layout

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Numbers = np.ndarray[Any, Any]


class Content(Protocol):
    """The rows of a training set, ordered by time and the other columns of the events."""

    @property
    def layout(self) -> Layout:
        """Return the columns."""

    @property
    def table(self) -> pa.Table | Rows:
        """Return all rows, with at least the columns for the split: event time, label, group and target time."""

    @property
    def refs(self) -> list[str]:
        """Return the Feast reference ``view:feature`` of each joined column."""

    def newer(self) -> list[leakage.Newer]:
        """Return the values of features that are newer than their events."""

    def infinite(self) -> dict[str, int]:
        """Return the number of infinite values of each feature that has any, by name of the feature."""

    def ids(self, columns: Sequence[str]) -> Numbers:
        """Return the id of each row by the columns that identify a row of the training set or of the split, shape (n,)."""

    def take(self, names: Sequence[str], index: Numbers) -> pa.Table:
        """Read columns of the rows at the positions ``index``, which are in ascending order."""

    def write(self, writer: DatasetWriter, parts: Mapping[str, Mask]) -> None:
        """Write the split parts.

        :param parts: whether each row is in the split part, by name of the split part
        """

    def committed(self, manifest: Manifest) -> None:
        """Keep the files of the committed dataset, which may be an older dataset with the same rows."""


class LocalContent:
    """The rows of a training set in temporary files of this process.

    :param table: all columns
    :param refs: Feast reference ``view:feature`` of each joined column
    """

    def __init__(self, layout: Layout, table: Rows, refs: list[str]) -> None:
        self.layout, self.table, self.refs = layout, table, refs

    def newer(self) -> list[leakage.Newer]:
        return leakage.newer_than_events(self.table, self.layout.features, self.layout.spec.timestamp)

    def infinite(self) -> dict[str, int]:
        return count_infinite(self.table, self.layout.features)

    def ids(self, columns: Sequence[str]) -> Numbers:
        return row_ids(self.table, columns)

    def take(self, names: Sequence[str], index: Numbers) -> pa.Table:
        return self.table.select(names).take(pa.array(index))

    def write(self, writer: DatasetWriter, parts: Mapping[str, Mask]) -> None:
        for part, mask in parts.items():
            for piece in files.pieces(mask):
                files.write(writer, part, self.table, mask[piece.start : piece.stop], piece)

    def committed(self, manifest: Manifest) -> None:
        """Do nothing, because the writer of the dataset deletes files that it does not need."""


def count_infinite(table: Rows, features: Sequence[str]) -> dict[str, int]:
    """Return the number of infinite values of each feature that has any, by name of the feature.

    Infinite values are written to the training set unchanged, because the trainers handle them.
    """
    counts = {name: 0 for name in features if pa.types.is_floating(table.schema.field(name).type)}
    for batch in table.select(counts).to_batches():
        for name, values in zip(counts, batch.columns, strict=True):
            counts[name] += pc.sum(pc.is_inf(values)).as_py() or 0
    return {name: count for name, count in counts.items() if count}
