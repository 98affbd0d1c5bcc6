"""The rows of a training set before the split, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.datasets import DatasetWriter, Manifest
from airflow_mlops.data.prefetch import prefetch
from airflow_mlops.data.row_identity import row_id_batches
from airflow_mlops.data.row_mask import RowMask
from airflow_mlops.data.spool import Rows, spooled
from airflow_mlops.stages.training_set import files, leakage
from airflow_mlops.stages.training_set.features import FeatureSource
from airflow_mlops.stages.training_set.layout import Layout

Numbers = np.ndarray[Any, Any]

# Largest size in bytes of the ids that are computed before the join has ended.
_ID_BYTES = 64 << 20


class Content(Protocol):
    """The rows of a training set, ordered by time and the other columns of the events."""

    @property
    def layout(self) -> Layout:
        """Return the columns."""

    @property
    def table(self) -> Rows:
        """Return all rows, with at least the columns for the split: event time, label, group, target time and ids."""

    @property
    def refs(self) -> list[str]:
        """Return the Feast reference ``view:feature`` of each joined column."""

    def newer(self) -> list[leakage.Newer]:
        """Return the values of features that are newer than their events."""

    def infinite(self) -> dict[str, int]:
        """Return the number of infinite values of each feature that has any, by name of the feature."""

    def take(self, names: Sequence[str], index: Numbers) -> pa.Table:
        """Read columns of the rows at the positions ``index``, which are in ascending order."""

    def writing(
        self, writer: DatasetWriter, parts: Mapping[str, RowMask]
    ) -> AbstractContextManager[Callable[[], None]]:
        """Write the split parts while the block runs, or when the yielded function is called.

        :param parts: the rows of each split part
        :return: context manager that yields a function, which returns when all files are written
        """

    def committed(self, manifest: Manifest) -> None:
        """Keep the files of the committed dataset, which may be an older dataset with the same rows."""


class LocalContent:
    """The rows of a training set in temporary files of this process.

    :param table: all columns, and the ids of the rows
    :param refs: Feast reference ``view:feature`` of each joined column
    """

    def __init__(self, layout: Layout, table: Rows, refs: list[str]) -> None:
        self.layout, self.table, self.refs = layout, table, refs

    def newer(self) -> list[leakage.Newer]:
        return leakage.newer_than_events(self.table, self.layout.features, self.layout.spec.timestamp)

    def infinite(self) -> dict[str, int]:
        return count_infinite(self.table, self.layout.features)

    def take(self, names: Sequence[str], index: Numbers) -> pa.Table:
        return self.table.select(names).take(pa.array(index))

    def writing(
        self, writer: DatasetWriter, parts: Mapping[str, RowMask]
    ) -> AbstractContextManager[Callable[[], None]]:
        rows = self.table.select(self.layout.columns)
        return writer.writing_files(
            (part, files.row_groups(rows, mask.part(piece.start, piece.stop), piece.start))
            for part, mask in parts.items()
            for piece in files.pieces(mask)
        )

    def committed(self, manifest: Manifest) -> None:
        """Do nothing, because the writer of the dataset deletes files that it does not need."""


@contextmanager
def local_content(layout: Layout, events: Rows, source: FeatureSource) -> Iterator[LocalContent]:
    """Join the features to the events, and compute the ids of the rows, see :attr:`Layout.ids`.

    The features and the ids are in temporary files, which exist only inside the ``with`` block.

    :param events: the events, with their own names of columns
    """
    schema = pa.schema([(name, pa.uint64()) for name in layout.ids])
    joined = {name for columns in layout.ids.values() for name in columns} & {*layout.joined}
    # Ids that do not depend on features are computed during the join.
    early = (
        nullcontext(None)
        if joined
        else prefetch(_ids(layout.table(events, events.select([])), layout), None, _ID_BYTES)
    )
    with early as ids, source.join(events) as features:
        table = layout.table(events, features)
        with spooled(_ids(table, layout) if ids is None else ids, schema) as found:
            yield LocalContent(layout, table.beside(found), source.refs)


def _ids(table: Rows, layout: Layout) -> Iterator[pa.RecordBatch]:
    found = zip(*(row_id_batches(table, columns) for columns in layout.ids.values()), strict=True)
    for parts in found:
        yield pa.RecordBatch.from_arrays([pa.array(part) for part in parts], names=list(layout.ids))


def count_infinite(table: Rows, features: Sequence[str]) -> dict[str, int]:
    """Return the number of infinite values of each feature that has any, by name of the feature.

    Infinite values are written to the training set unchanged, because the trainers handle them.
    """
    counts = {name: 0 for name in features if pa.types.is_floating(table.schema.field(name).type)}
    for batch in table.select(counts).to_batches():
        for name, values in zip(counts, batch.columns, strict=True):
            counts[name] += pc.is_inf(values).true_count
    return {name: count for name, count in counts.items() if count}
