"""The base of all sources that run a query on an Airflow connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.connections import ConnectionInfo, redact
from airflow_mlops.core.errors import SchemaError, SourceError, SpecError
from airflow_mlops.stages.ingest.spec import IngestSpec

if TYPE_CHECKING:
    from airflow_mlops.stages.ingest.sources.types import ColumnTypes


class QuerySource(ABC):
    """One query on one connection. Subclasses implement a database."""

    engine: str

    def __init__(self, spec: IngestSpec, info: ConnectionInfo) -> None:
        assert spec.sql is not None  # validated by the spec
        self.sql = spec.sql.strip().rstrip(";").rstrip()
        self.window = spec.window
        self.info = info

    @abstractmethod
    def batches(self, types: ColumnTypes) -> Iterator[pa.RecordBatch]:
        """Stream the result of the query."""

    def describe(self) -> dict[str, Any]:
        """The connection, the query and the engine."""
        return {
            "kind": "sql",
            "conn_id": self.info.conn_id,
            "conn_type": self.info.conn_type,
            "sql": self.sql,
            "engine": self.engine,
        }

    def driver_message(self, error: BaseException) -> str:
        """The driver's message on one line, without the query and the password."""
        text = str(error)
        for echo in ("\nQuery was:", "\nquery:", "\n[SQL:", "\n(Background on"):
            text = text.partition(echo)[0]
        return redact(text, self.info)

    def query_error(self, error: BaseException) -> SpecError:
        """The error for a query that the database refuses."""
        return SpecError(f"Connection {self.info.conn_id!r} refused the query: {self.driver_message(error)}.")

    def read_error(self, error: BaseException) -> SourceError:
        """The error for a database that cannot be reached, or fails while it is read."""
        return SourceError(
            f"Connection {self.info.conn_id!r} ({self.info.conn_type}) could not be read: {self.driver_message(error)}. "
            "Nothing was written, and a retry starts from the beginning."
        )

    @contextmanager
    def adbc_errors(self) -> Iterator[None]:
        """Translate the exceptions of ADBC drivers."""
        import adbc_driver_manager

        try:
            yield
        except adbc_driver_manager.ProgrammingError as error:
            raise self.query_error(error) from None
        # While a result is streamed, errors of the driver are raised by Arrow, as OSError.
        except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
            raise self.read_error(error) from None

    def check_names(self, schema: pa.Schema) -> None:
        """Check that the column names of the result are unique.

        :raises SchemaError: two columns have the same name
        """
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise SchemaError(
                f"The query returns the column {', '.join(map(repr, twice))} more than once. "
                "Rename one of them with AS."
            )
