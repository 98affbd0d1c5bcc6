"""The rows of a training, encoded and read in chunks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.boosting.encoding import Encoding

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

# The largest size, in bytes, of the cache of encoded rows. It exists because the libraries read the rows several times.
CACHE_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Chunks:
    """The unencoded rows of a training: the row groups of a training set, or one table.

    :param count: number of chunks
    :param read: function that reads some columns of a chunk
    """

    count: int
    read: Callable[[int, Sequence[str]], pa.RecordBatch | pa.Table]

    @classmethod
    def of(cls, data: TrainingData, run: TrainingRun | None) -> Chunks:
        if run is None:
            return cls(1, lambda chunk, names: data.table.select(list(names)))
        dataset, groups = run.dataset, run.dataset.row_groups(run.part)
        return cls(len(groups), lambda chunk, names: dataset.read_row_group(groups[chunk], list(names)))

    def each(self, names: Sequence[str]) -> Iterator[pa.RecordBatch | pa.Table]:
        return (self.read(chunk, names) for chunk in range(self.count))


class Rows:
    """Encoded training rows or validation rows.

    :param chunks: the unencoded rows
    :param encoding: the encoding of the features
    :param chosen: whether each of the n rows of all chunks belongs to these training or validation rows, shape (n,)
    :param labels: class indices of all n rows, or their values for a regression, shape (n,)
    :param weights: weight of each of the n rows, shape (n,); ``None`` if all rows have the same weight
    :ivar groups: code of the group of each chosen row of a ranking, ascending, shape (number of chosen rows,); ``None``
        for other models
    """

    groups: NDArray[np.int64] | None = None

    def __init__(
        self,
        chunks: Chunks,
        encoding: Encoding,
        chosen: NDArray[np.bool_],
        labels: NDArray[np.float64],
        weights: NDArray[np.float64] | None,
    ) -> None:
        self.encoding = encoding
        self.labels = labels[chosen]
        self.weights = None if weights is None else weights[chosen]
        self._chunks, self._chosen = chunks, chosen
        self._names = [feature.name for feature in encoding.features]
        self._cache: dict[int, NDArray[np.float32]] = {}
        self._last: tuple[int, NDArray[np.float32]] | None = None
        self._sizes: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fit_into_cache(self) -> bool:
        """Return whether all encoded chosen rows together take at most :data:`CACHE_BYTES`."""
        return 4 * len(self) * len(self._names) <= CACHE_BYTES

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Return the start (inclusive) and the end (exclusive) of each chunk, counted in chosen rows."""
        if self._sizes is None:
            first = self._names[:1]
            ends = np.cumsum([0, *(part.num_rows for part in self._chunks.each(first))])
            chosen = np.concatenate([[0], np.cumsum(self._chosen)])
            self._starts = ends
            self._sizes = [(int(chosen[a]), int(chosen[b])) for a, b in itertools.pairwise(ends)]
        return self._sizes

    @property
    def chunks(self) -> list[int]:
        """Return the numbers, from 0, of the chunks with at least one chosen row."""
        return [chunk for chunk, (start, end) in enumerate(self.spans) if end > start]

    def matrix(self, chunk: int) -> NDArray[np.float32]:
        """Return the encoded chosen rows of a chunk, shape (rows, number of features)."""
        if (cached := self._cache.get(chunk)) is not None:
            return cached
        if self._last is not None and self._last[0] == chunk:
            return self._last[1]
        _ = self.spans
        found = self.encoding.matrix(self._chunks.read(chunk, self._names))
        chosen = self._chosen[self._starts[chunk] : self._starts[chunk + 1]]
        if not chosen.all():
            found = found[chosen]
        if found.nbytes + sum(item.nbytes for item in self._cache.values()) <= CACHE_BYTES:
            self._cache[chunk] = found
        else:
            # LightGBM reads a chunk row by row, so the last chunk is kept even if the cache is full.
            self._last = chunk, found
        return found

    def all(self) -> NDArray[np.float32]:
        """Return all encoded chosen rows, shape (rows, number of features)."""
        found = np.empty((len(self), len(self._names)), dtype=np.float32)
        for chunk in self.chunks:
            start, end = self.spans[chunk]
            found[start:end] = self.matrix(chunk)
        return found

    def drop_cache(self) -> None:
        """Free the cached encoded rows. Callers use this method when the library has copied the rows."""
        self._cache.clear()
        self._last = None


def numbered(data: TrainingData) -> NDArray[np.float64]:
    """Return the position of each label in the classes, or the values of a regression, shape (n,).

    :raises TrainingError: a label is not one of the classes
    """
    if data.task == "regression":
        return np.asarray(data.labels, np.float64)
    import pandas as pd  # imported here, because the import is slow

    codes: NDArray[Any] = np.asarray(pd.Categorical(data.labels, categories=data.classes).codes)
    if (codes < 0).any():
        raise TrainingError(
            f"Label {data.label!r} has a value that is not one of the {len(data.classes)} classes of the training set. Remove "
            "these rows from the training set."
        )
    return codes.astype(np.float64)
