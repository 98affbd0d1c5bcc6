"""Sources of raw rows: databases and files. A source streams Arrow batches and describes itself as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from airflow_mlops.core.connections import ConnectionResolver
from airflow_mlops.stages.ingest.spec import IngestSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.stages.ingest.sources.types import ColumnTypes


class Source(Protocol):
    """A source that can be read once."""

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        """Stream the rows in batches of bounded size.

        :param types: the column types that are known already; used by sources that would have to guess them
        :raises SourceError: the source cannot be read
        """

    def describe(self) -> dict[str, Any]:
        """The origin of the rows, without credentials. Complete only after all rows were read."""


def open_source(spec: IngestSpec, connection: ConnectionResolver) -> Source:
    """The source that ``spec`` describes; nothing is read yet.

    :raises ConnectionNotFoundError: the connection is not defined
    """
    if spec.files:
        from airflow_mlops.stages.ingest.sources.files import FileSource

        return FileSource(spec)
    return _open_query(spec, connection)


def _open_query(spec: IngestSpec, connection: ConnectionResolver) -> Source:
    """Use ADBC if the driver is installed, else SQLAlchemy."""
    assert spec.conn_id is not None  # validated by the spec
    info = connection(spec.conn_id)
    if info.conn_type == "sqlite" and find_spec("adbc_driver_sqlite"):
        from airflow_mlops.stages.ingest.sources.sqlite import SQLiteSource

        return SQLiteSource(spec, info)
    if info.conn_type in ("postgres", "postgresql") and find_spec("adbc_driver_postgresql"):
        from airflow_mlops.stages.ingest.sources.postgres import PostgresSource

        return PostgresSource(spec, info)
    from airflow_mlops.stages.ingest.sources.alchemy import AlchemySource

    return AlchemySource(spec, info)
