"""Where raw rows come from. A source streams Arrow batches and can say in JSON where they came from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from airflow_mlops.core.connections import ConnectionResolver
from airflow_mlops.stages.ingest.spec import IngestSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.stages.ingest.sources.types import Types


class Source(Protocol):
    """One thing that can be read once."""

    def batches(self, types: Types) -> Iterator[pa.RecordBatch]:
        """Stream the rows; memory stays flat.

        :param types: what is known about the columns' types; a source that has to guess them uses it
        :raises SourceError: it cannot be read
        """

    def describe(self) -> dict[str, Any]:
        """Where the rows came from, without credentials; complete once all were read."""


def open_source(spec: IngestSpec, connection: ConnectionResolver) -> Source:
    """The source that ``spec`` names, not yet read.

    :raises ConnectionNotFoundError: its connection is not defined
    """
    if spec.files:
        from airflow_mlops.stages.ingest.sources.files import FileSource

        return FileSource(spec)
    return _open_query(spec, connection)


def _open_query(spec: IngestSpec, connection: ConnectionResolver) -> Source:
    """By ADBC where a driver is installed, else by SQLAlchemy."""
    assert spec.conn_id is not None  # the spec makes sure of it
    info = connection(spec.conn_id)
    if info.conn_type == "sqlite" and find_spec("adbc_driver_sqlite"):
        from airflow_mlops.stages.ingest.sources.sqlite import SQLiteSource

        return SQLiteSource(spec, info)
    if info.conn_type in ("postgres", "postgresql") and find_spec("adbc_driver_postgresql"):
        from airflow_mlops.stages.ingest.sources.postgres import PostgresSource

        return PostgresSource(spec, info)
    from airflow_mlops.stages.ingest.sources.alchemy import AlchemySource

    return AlchemySource(spec, info)
