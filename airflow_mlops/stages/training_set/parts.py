"""The objects that the step and its executors exchange about the parts of a training set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from airflow_mlops.core.base import Model
from airflow_mlops.data.datasets import Dataset, Manifest, WrittenFiles
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import shards
from airflow_mlops.stages.training_set.events import Seen, Times
from airflow_mlops.stages.training_set.leakage import Newer

Numbers = np.ndarray[Any, Any]

# Number of quantiles that describe the event times of a block.
_QUANTILES = 64


class Block(NamedTuple):
    """Consecutive events of a dataset.

    :param dataset: number of the dataset
    :param start: position of the first event in the files of the dataset
    :param end: position after the last event
    :param labelled: number of events with a label
    :param times: quantiles of their times in microseconds since 1970, in ascending order, with the first and last time;
        empty without events
    """

    dataset: int
    start: int
    end: int
    labelled: int
    times: list[int]

    def overlaps(self, times: Times) -> bool:
        """Return whether the block may have events in a range of times."""
        return bool(self.times) and (
            (times.first is None or self.times[-1] >= times.first) and (times.end is None or self.times[0] < times.end)
        )


class Survey(Model):
    """The facts about the events of a part before they are sorted.

    :param seen: counts of the events
    :param whole: for each column of decimals, whether all values are whole and fit into 64 bits
    :param utf8: for each column of bytes that identifies rows, whether all values are UTF-8
    :param blocks: the blocks of the part
    """

    seen: Seen
    whole: dict[str, bool]
    utf8: dict[str, bool]
    blocks: list[Block]


class JoinedPiece(shards.Piece):
    """The rows of a part with their features, in a file that no manifest lists.

    :param types: columns of the file, see :mod:`airflow_mlops.data.sent_schemas`
    :param newer: values of features that are newer than their events
    :param infinite: number of infinite values of each feature that has any
    """

    types: str
    newer: list[Newer]
    infinite: dict[str, int]


def quantiles(times: Numbers) -> list[int]:
    """Return quantiles of event times, see :class:`Block`."""
    if not len(times):
        return []
    ordered = np.sort(times)
    places = np.linspace(0, len(ordered) - 1, min(len(ordered), _QUANTILES)).astype(int)
    found: list[int] = ordered[places].tolist()
    return found


def divided(blocks: Sequence[Block], count: int) -> list[Times]:
    """Divide the time into at most ``count`` ranges with about equal numbers of events. Equal times stay together."""
    times = np.concatenate([np.array(block.times, np.int64) for block in blocks])
    weights = np.concatenate(
        [np.full(len(block.times), block.labelled / len(block.times)) for block in blocks if block.times]
    )
    order = np.argsort(times, kind="stable")
    times, reached = times[order], weights[order].cumsum()
    places = np.searchsorted(reached, reached[-1] * np.arange(1, count) / count, side="right")
    cuts = sorted({int(times[place]) for place in places if place < len(times) and times[place] > times[0]})
    return [Times(first, end) for first, end in zip([None, *cuts], [*cuts, None], strict=True)]


class StoredRows:
    """Rows in files that no manifest lists.

    :param name: name of the dataset to which the files will belong
    :param written: the files, in the order of the rows
    :param schema: types of the columns
    """

    def __init__(self, store: ArtifactStore, name: str, written: Iterable[WrittenFiles], schema: pa.Schema) -> None:
        found = list(written)
        files = [file for item in found for file in item.files]
        self._dataset = Dataset(
            store,
            Manifest(
                id="",
                name=name,
                columns=found[0].columns,
                rows=sum(file.rows for file in files),
                files=files,
                created=datetime.now(timezone.utc),
            ),
        )
        self.schema = schema

    def select(self, names: Sequence[str]) -> StoredRows:
        """Return rows with some of the columns."""
        found = StoredRows.__new__(StoredRows)
        found._dataset, found.schema = self._dataset, pa.schema([self.schema.field(name) for name in names])
        return found

    def tables(self, offset: int, length: int) -> Iterator[pa.Table]:
        """Read ``length`` consecutive rows from position ``offset`` on, one batch at a time."""
        return (pa.Table.from_batches([batch]) for batch in self._batches(range(offset, offset + length)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all rows."""
        return self._batches(None)

    def table(self) -> pa.Table:
        """Read all rows into memory."""
        return pa.Table.from_batches(self._batches(None), self.schema)

    def take(self, places: Numbers) -> Iterator[pa.RecordBatch]:
        """Read the rows at positions in ascending order, in batches. Only one batch is read at a time."""
        first = 0
        for batch in self._batches(None):
            begin, end = np.searchsorted(places, [first, first + batch.num_rows])
            if end > begin:
                yield batch.take(pa.array(places[begin:end] - first))
            first += batch.num_rows

    def _batches(self, span: range | None) -> Iterator[pa.RecordBatch]:
        for batch in self._dataset.batches(columns=self.schema.names, span=span):
            # Parquet does not keep the names of the items of lists.
            yield batch.select(self.schema.names).cast(self.schema)
