"""Read the first rows of the data with the code of IngestOperator, which determines the types of the columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.connections import ConnectionResolver
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources import Source, open_source
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import ingest

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.data.incoming.types import ColumnTypes

MAX_ROWS = 500_000


@dataclass(frozen=True)
class Sample:
    """The first rows of the data, as ingestion would store them.

    :param table: the rows
    :param complete: whether the data has no further rows
    :param notes: notes of the ingestion about the rows
    """

    table: pa.Table
    complete: bool
    notes: list[str]


def read(spec: IngestSpec, connection: ConnectionResolver, max_rows: int = MAX_ROWS) -> Sample:
    """Read at most ``max_rows`` rows.

    :param spec: parameters of the ingestion
    :param connection: function that returns a connection
    :param max_rows: maximum number of rows
    :raises MLOpsError: the rows cannot be read, see :func:`airflow_mlops.stages.ingest.step.run`
    """
    source = _Limited(open_source(spec, connection), max_rows)
    with temporary_folder("init") as folder:
        store = ArtifactStore(f"file://{folder}")
        result = ingest(source, spec, StepContext(store, connection=connection))
        table = open_dataset(store, result.dataset).table()
    return Sample(table, not source.limited, result.notes)


class _Limited:
    """A source that yields at most a given number of rows of another source."""

    def __init__(self, source: Source, rows: int) -> None:
        self._source = source
        self._rows = rows
        self.limited = False

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        left = self._rows
        batches = self._source.batches(types)
        for batch in batches:
            self.limited = batch.num_rows > left
            yield batch[:left]
            left -= min(left, batch.num_rows)
            if self.limited:
                break
        batches.close()  # type: ignore[attr-defined] # a generator

    def is_settled(self) -> bool:
        return self._source.is_settled()

    def cancel(self) -> bool:
        return self._source.cancel()

    def describe(self) -> dict[str, Any]:
        return self._source.describe()
