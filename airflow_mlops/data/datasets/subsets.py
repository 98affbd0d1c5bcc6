"""Datasets with only some rows of another dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.manifest import FileEntry, Manifest
from airflow_mlops.data.datasets.reader import Dataset
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_Rows = TypeVar("_Rows", "pa.RecordBatch", "pa.Table")


def within_window(dataset: Dataset, window: Window, time_column: str) -> Dataset:
    """Return a dataset with only the rows of another dataset whose time lies in a window.

    :param dataset: the dataset
    :param window: time window of the rows
    :param time_column: name of the column with the time of each row
    :raises SchemaError: the dataset has no such column
    """
    return DatasetSlice(dataset.store, dataset.manifest, window, time_column)


def with_rows(dataset: Dataset, part: str | None, rows: NDArray[np.bool_]) -> Dataset:
    """Return a dataset with only some rows of a split part of another dataset.

    :param dataset: the dataset
    :param part: name of the split part; ``None`` for all rows
    :param rows: whether each row of the split part is kept, shape (n,)
    """
    return DatasetRows(dataset.store, dataset.manifest, part, rows).weighted(dataset.sample_weight)


class DatasetSlice(Dataset):
    """The rows of a dataset whose time lies in a window.

    :param store: the artifact store
    :param manifest: manifest of the dataset
    :param window: time window of the rows
    :param time_column: name of the column with the time of each row
    :raises SchemaError: the dataset has no such column
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest, window: Window, time_column: str) -> None:
        super().__init__(store, manifest)
        self._window = window
        self._time_column = time_column
        self.require_columns([time_column])

    @property
    def window(self) -> Window | None:
        return self._window

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches(columns=[self._time_column]))

    @property
    def time_column(self) -> str | None:
        return self._time_column

    def batches(
        self,
        part: str | None = None,
        columns: Sequence[str] | None = None,
        batch_rows: int = 65_536,
        span: range | None = None,
    ) -> Iterator[pa.RecordBatch]:
        for batch in super().batches(part, self._read(columns), batch_rows, span):
            yield self._chosen(batch, columns)

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        return self._chosen(super().read_row_group(place, self._read(columns) or []), columns)

    def table(self, part: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        return self._chosen(super().table(part, self._read(columns)), columns)

    def _read(self, columns: Sequence[str] | None) -> list[str] | None:
        return None if columns is None else list(dict.fromkeys([*columns, self._time_column]))

    def _chosen(self, rows: _Rows, columns: Sequence[str] | None) -> _Rows:
        chosen = rows.filter(self._inside(rows[self._time_column]))
        return chosen if columns is None else chosen.select(list(columns))

    def _inside(self, times: Any) -> Any:
        from airflow_mlops.data.window_rows import inside

        what = f"The time column {self._time_column!r} of dataset {self.manifest.name!r}"
        if times.null_count:
            raise SchemaError(
                f"{what} is null in {counted(times.null_count, 'row')}, so it is not known whether these rows lie in the window "
                f"{self._window.label}. Choose a window that contains the whole dataset."
            )
        return inside(times, self._window, what, dates=self.has_dates(self._time_column))


class DatasetRows(Dataset):
    """Some rows of a split part of a dataset. The other split parts cannot be read.

    :param store: the artifact store
    :param manifest: manifest of the dataset
    :param part: name of the split part; ``None`` for all rows
    :param rows: whether each row of the split part is kept, shape (n,)
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest, part: str | None, rows: NDArray[np.bool_]) -> None:
        super().__init__(store, manifest)
        self._part = part
        self._kept = rows
        # Position of the first row of each row group, by file and number of the row group.
        self._first: dict[tuple[str, int], int] = {}

    @property
    def rows(self) -> int:
        return int(self._kept.sum())

    def files(self, part: str | None = None) -> list[FileEntry]:
        if part != self._part:
            raise DatasetNotFoundError(
                f"Only rows of split part {self._part!r} of dataset {self.manifest.name!r} are chosen. Read this split part."
            )
        return super().files(part)

    def batches(
        self,
        part: str | None = None,
        columns: Sequence[str] | None = None,
        batch_rows: int = 65_536,
        span: range | None = None,
    ) -> Iterator[pa.RecordBatch]:
        first = span.start if span is not None else 0
        for batch in super().batches(part, columns, batch_rows, span):
            yield batch.filter(self._mask(first, batch.num_rows))
            first += batch.num_rows

    def row_groups(self, part: str | None = None) -> list[tuple[FileEntry, int]]:
        import pyarrow.parquet as pq

        found, first = [], 0
        for file in self.files(part):
            with self._files.open(file) as handle:
                metadata = pq.read_metadata(handle)
            for number in range(metadata.num_row_groups):
                rows = metadata.row_group(number).num_rows
                self._first[file.path, number] = first
                if self._kept[first : first + rows].any():
                    found.append((file, number))
                first += rows
        return found

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        file, number = place
        rows = super().read_row_group(place, columns)
        if not self._first:
            self.row_groups(self._part)
        return rows.filter(self._mask(self._first[file.path, number], rows.num_rows))

    def table(self, part: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        import pyarrow as pa

        # The other rows are dropped batch by batch, so that they are never in memory together.
        batches = list(self.batches(part, columns))
        found = pa.Table.from_batches(batches) if batches else super().table(part, columns)
        return found if columns is None else found.select(list(columns))

    def _mask(self, first: int, rows: int) -> pa.BooleanArray:
        import pyarrow as pa

        return pa.array(self._kept[first : first + rows])
