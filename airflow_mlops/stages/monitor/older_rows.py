"""The labelled rows before a window, to which challengers are fitted. Only the chosen rows are read into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.moments import as_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class OlderRows:
    """The labelled rows of a dataset.

    :param dataset: the dataset
    :param window: the window of the rows; ``None`` if unknown
    :param features: names of the features
    :param label: name of the column with the label. Rows without a label are left out
    :param time: name of the column with the time of each row; ``None`` if the rows have no times
    """

    dataset: Dataset
    window: Window | None
    features: Sequence[str]
    label: str
    time: str | None = None

    def count(self, start: datetime | None) -> int:
        """Return the number of labelled rows since ``start``.

        If the rows have no times, the start of their window decides: all rows are counted if it is at or after
        ``start``, otherwise none.

        :param start: the earliest time; ``None`` for all rows
        """
        names = [self.label, *([self.time] if self.time is not None and start is not None else [])]
        return sum(rows.num_rows for rows in self._since(start, names))

    def read(
        self, start: datetime | None, numbers: NDArray[np.int64] | None
    ) -> tuple[pa.Table, pa.ChunkedArray | None]:
        """Read labelled rows since ``start``.

        :param start: as in :meth:`count`
        :param numbers: the rows to read, by their position among the rows since ``start``, in ascending order; ``None``
            for all of these rows
        :return: the features and the label, and the time of each row; ``None`` if the rows have no times
        """
        columns = [*self.features, self.label]
        names = list(dict.fromkeys([*columns, *([self.time] if self.time is not None else [])]))
        first, kept = 0, []
        for rows in self._since(start, names):
            if numbers is None:
                kept.append(rows)
            else:
                begin, end = np.searchsorted(numbers, [first, first + rows.num_rows])
                kept.append(rows.take(pa.array(numbers[begin:end] - first)))
            first += rows.num_rows
        schema = self.dataset.schema
        found = pa.Table.from_batches(kept) if kept else pa.schema([schema.field(name) for name in names]).empty_table()
        return found.select(columns), None if self.time is None else self._times(found)

    def _since(self, start: datetime | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        if start is not None and self.time is None and (self.window is None or self.window.start < start):
            return
        for batch in self.dataset.batches(columns=names):
            rows = batch.filter(pc.invert(pc.is_null(batch.column(self.label), nan_is_null=True)))
            if start is not None and self.time is not None:
                times = self._times(rows)
                rows = rows.filter(pc.fill_null(pc.greater_equal(times, pa.scalar(start, times.type)), False))
            yield rows

    def _times(self, rows: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
        return as_utc(rows.column(self.time), f"Column {self.time!r} of dataset {self.dataset.manifest.name!r}")
