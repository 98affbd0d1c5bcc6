"""Write predictions with their labels: all predictions in a single pass, or one shard of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data import relational, row_spans
from airflow_mlops.data.columns import LABEL, LABEL_AT
from airflow_mlops.data.datasets import DATA, Dataset, DatasetWriter
from airflow_mlops.data.moments import UTC
from airflow_mlops.data.predictions.privacy import Pseudonymizer
from airflow_mlops.data.types import common_schema, conformed
from airflow_mlops.stages.join_labels.counts import Counts, count
from airflow_mlops.stages.join_labels.lookup import Tally, look_up
from airflow_mlops.stages.join_labels.shards import NO_FILES, Piece, Round
from airflow_mlops.stages.join_labels.sources import Labels, sources
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Number of predictions in a file. The id of a dataset depends on its files, so shards must write the same files as a
# single pass.
FILE_ROWS = 262_144
# With this limit for DuckDB, a join needs less than 1 GB, including libraries and the rows that are read and written.
_MEMORY = 400_000_000


def _connect() -> AbstractContextManager[DuckDBPyConnection]:
    return relational.connect_bounded(most=_MEMORY)


@dataclass(frozen=True)
class Join:
    """A join of labels to predictions.

    :param hashed: the pseudonymizer of each column of ``on`` that scoring hashed, by name of the column
    :param connect: function that opens the database that joins
    """

    predictions: Sequence[Dataset]
    labels: Sequence[Dataset]
    spec: JoinLabelsSpec
    hashed: dict[str, Pseudonymizer]
    connect: Callable[[], AbstractContextManager[DuckDBPyConnection]] = _connect

    def one_shard(self, shard: Round, writer: Callable[[], DatasetWriter]) -> Piece:
        """Write the predictions of a shard with their labels to files that no manifest lists yet.

        If an earlier try has finished the shard, its piece is returned.

        :param writer: function that opens a writer of the joined dataset
        """
        if (found := shard.piece()) is not None:
            return found
        with writer() as opened:
            counts = self.write(opened, shard.shard, shard.shards)
            return shard.add(Piece(written=NO_FILES if counts.contradicted else opened.finish(), counts=counts))

    def write(self, writer: DatasetWriter, shard: int = 0, shards: int = 1) -> Counts:
        """Write the predictions of a shard with their labels. The first shard writes a batch even if it has no rows.

        :param shard: index of the shard, from 0
        :param shards: number of shards
        :return: counts of the predictions of the shard. If a prediction has several labels, not all rows were written
        """
        pieces = row_spans.pieces(self.predictions, FILE_ROWS, shard, shards)
        if shard and not pieces:
            return Counts()
        spans = row_spans.joined(span for piece in pieces for span in piece)
        keys, labels = sources(self.predictions, self.labels, self.spec, self.hashed, spans)
        tally = Tally()
        with (
            self.connect() as connection,
            closing(look_up(connection, keys, labels, tally)) as found,
        ):
            writer.write_files(self._files(pieces, found, _empty(labels), shard, tally))
            return count(connection, keys, labels, tally, self.hashed)

    def _files(
        self,
        pieces: list[list[tuple[Dataset, range]]],
        found: Iterator[pa.Table],
        empty: pa.Table,
        shard: int,
        tally: Tally,
    ) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        """Yield the split part and the rows of each file: the predictions with their labels.

        :param found: the columns of the labels, for consecutive predictions
        :param empty: the same columns without rows
        :param tally: counters of the labels in ``found``. After a contradiction, no more files are written
        """
        # The labels replace a column of weights in the predictions.
        replaced = self.spec.sample_weight
        what = f"The windows of dataset {self.predictions[0].manifest.name!r}"
        fields = ([field for field in dataset.schema if field.name != replaced] for dataset in self.predictions)
        schema = common_schema(map(pa.schema, fields), what, "Score the windows again.")

        def with_labels(piece: list[tuple[Dataset, range]], labels: pa.Table) -> Iterator[pa.RecordBatch]:
            for dataset, span in piece:
                names = [name for name in dataset.schema.names if name != replaced]
                for batch in dataset.batches(columns=names, span=span):
                    if batch.num_rows:
                        own, labels = labels.slice(0, batch.num_rows), labels.slice(batch.num_rows)
                        yield _append(conformed(batch, schema, what), own)

        whole = [dataset for dataset in self.predictions if dataset.rows == dataset.manifest.rows]
        rest, total = empty, 0
        for piece in pieces:
            rows = sum(len(span) if dataset in whole else _count(dataset, span) for dataset, span in piece)
            while rest.num_rows < rows:
                rest = pa.concat_tables([rest, next(found)])
            if not tally.contradicted:
                yield DATA, with_labels(piece, rest.slice(0, rows))
            rest = rest.slice(rows)
            total += rows
        for _ in found:
            raise AssertionError("The join of labels returned more rows than there are predictions.")
        if not total and not shard:
            yield DATA, iter([_append(pa.RecordBatch.from_pylist([], schema=schema), empty)])


def _count(dataset: Dataset, span: range) -> int:
    """Count the selected rows within ``span``, if only some rows of the dataset are selected."""
    return sum(batch.num_rows for batch in dataset.batches(columns=dataset.schema.names[:1], span=span))


def _empty(labels: Labels) -> pa.Table:
    has_times = labels.by_time is not None and labels.by_time.is_time
    weight = [labels.weight] if labels.weight else []
    return pa.schema([(LABEL, labels.kind), *weight, *([(LABEL_AT, UTC)] if has_times else [])]).empty_table()


def _append(batch: pa.RecordBatch, added: pa.Table) -> pa.RecordBatch:
    for name in added.column_names:
        if name in batch.schema.names:
            raise SchemaError(
                f"The predictions already have a column {name!r}, but joining labels adds a column with this name. "
                "Rename the column before scoring."
            )
    arrays = [column.combine_chunks() for column in added.columns]
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=pa.schema([*batch.schema, *added.schema]))
