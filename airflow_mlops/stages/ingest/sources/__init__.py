"""Sources of rows: database queries and files. A source streams the rows as Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from airflow_mlops.core.connections import ConnectionResolver
from airflow_mlops.data.databases.queries import open_query
from airflow_mlops.stages.ingest.spec import IngestSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.data.incoming.types import ColumnTypes


class Source(Protocol):
    """A source of rows: a database query or files. A source can be read only once."""

    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        """Stream the rows in batches of bounded size.

        :param types: column types that are declared or known from another window. A source that cannot determine the
            type of a column, such as a CSV file, uses these types
        :raises SourceError: the source cannot be read
        """

    def is_settled(self) -> bool:
        """Return whether all batches have the column types of the first batch. Call this after the first batch."""

    def cancel(self) -> bool:
        """Cancel the query that :meth:`batches` is running in another thread. The query then ends with an error.

        :return: whether the source can cancel a query. Otherwise, the query runs until the process ends
        """

    def describe(self) -> dict[str, Any]:
        """Return the origin of the rows for the manifest, as a JSON object without credentials.

        The description is complete only after all rows are read.
        """


def open_source(spec: IngestSpec, connection: ConnectionResolver) -> Source:
    """Create the source that ``spec`` describes, without reading from the source.

    :param connection: function that returns an Airflow connection by its id
    :raises ConnectionNotFoundError: the Airflow connection is not defined
    :raises SpecError: the type of the connection names no database
    """
    if spec.files:
        from airflow_mlops.stages.ingest.sources.files import FileSource

        return FileSource(spec)
    assert spec.conn_id is not None  # validated by the spec
    assert spec.sql is not None
    return open_query(spec.sql, spec.window, connection(spec.conn_id))
