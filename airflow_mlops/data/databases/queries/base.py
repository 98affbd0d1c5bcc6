"""The base class of queries on the database of an Airflow connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SchemaError, SourceError, SpecError, named
from airflow_mlops.core.windows import Window
from airflow_mlops.data.databases.connections import driver_message
from airflow_mlops.data.databases.failures import is_final

if TYPE_CHECKING:
    from airflow_mlops.data.incoming.types import ColumnTypes


class Query(ABC):
    """A query on the database of an Airflow connection. Each subclass uses one driver.

    :param sql: the query, which has the placeholders ``:start`` and ``:end`` if ``window`` is set
    :param window: the time window of the rows
    :param info: the connection
    """

    engine: str

    def __init__(self, sql: str, window: Window | None, info: ConnectionInfo) -> None:
        self.sql = sql.strip().rstrip(";").rstrip()
        self.window = window
        self.info = info

    @abstractmethod
    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        """Stream the rows of the query's result."""

    def is_settled(self) -> bool:
        """Return whether all batches have the column types of the first batch."""
        return True

    @abstractmethod
    def cancel(self) -> bool:
        """Cancel the query that :meth:`batches` is running in another thread.

        :return: whether the driver can cancel a query
        """

    def describe(self) -> dict[str, Any]:
        """Return the connection id, the connection type, the query and the engine (``ADBC`` or ``SQLAlchemy``)."""
        return {
            "kind": "sql",
            "conn_id": self.info.conn_id,
            "conn_type": self.info.conn_type,
            "sql": self.sql,
            "engine": self.engine,
        }

    def driver_message(self, error: BaseException) -> str:
        """Return the message of a driver's exception on one line, without the query and the password."""
        return driver_message(error, self.info)

    def query_error(self, error: BaseException) -> SpecError:
        """Create the error for a query that fails because of its text or its data. The error is not retried."""
        return SpecError(
            f"The database of connection {self.info.conn_id!r} rejected the query: {self.driver_message(error)}. "
            "Correct `sql`, or the data that it reads."
        )

    def read_error(self, error: BaseException) -> SourceError:
        """Create the error for a database that cannot be reached, or that fails while rows are read.

        A task with this error is retried.
        """
        return SourceError(
            f"The database of connection {self.info.conn_id!r} ({self.info.conn_type}) could not be read: "
            f"{self.driver_message(error)}. Nothing was written, and a retry starts from the beginning. Check that the "
            "database can be reached where the step runs."
        )

    @contextmanager
    def adbc_errors(self) -> Iterator[None]:
        """Convert exceptions of ADBC drivers in the ``with`` block to :class:`SpecError` or :class:`SourceError`."""
        import adbc_driver_manager

        try:
            yield
        # While a result is streamed, Arrow raises errors of some drivers as OSError.
        except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
            final = is_final(error, self.info.conn_type)
            raise (self.query_error(error) if final else self.read_error(error)) from None

    def check_names(self, schema: pa.Schema) -> None:
        """Check that the column names of the query's result are unique.

        :raises SchemaError: two columns have the same name
        """
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise SchemaError(
                f"The query on connection {self.info.conn_id!r} returns the "
                f"{named('column', twice)} more than once. Rename columns in `sql` with AS, until every name is unique."
            )
