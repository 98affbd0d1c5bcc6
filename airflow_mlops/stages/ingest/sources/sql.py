"""What queries over Airflow connections have in common, whatever database they ask."""

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
    from airflow_mlops.stages.ingest.sources.types import Types


class QuerySource(ABC):
    """One query on one connection; subclasses know their database."""

    engine: str

    def __init__(self, spec: IngestSpec, info: ConnectionInfo) -> None:
        assert spec.sql is not None  # the spec makes sure of it
        self.sql = spec.sql.strip().rstrip(";").rstrip()
        self.window = spec.window
        self.info = info

    @abstractmethod
    def batches(self, types: Types) -> Iterator[pa.RecordBatch]:
        """The rows as they come."""

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "sql",
            "conn_id": self.info.conn_id,
            "conn_type": self.info.conn_type,
            "sql": self.sql,
            "engine": self.engine,
        }

    def says(self, error: BaseException) -> str:
        """A driver's report in one line, without the query and without the password."""
        text = str(error)
        for echo in ("\nQuery was:", "\nquery:", "\n[SQL:", "\n(Background on"):
            text = text.partition(echo)[0]
        return redact(text, self.info)

    def refused(self, error: BaseException) -> SpecError:
        return SpecError(f"Connection {self.info.conn_id!r} refused the query: {self.says(error)}.")

    def lost(self, error: BaseException) -> SourceError:
        return SourceError(
            f"Connection {self.info.conn_id!r} ({self.info.conn_type}) could not be read: {self.says(error)}. "
            "Nothing was written; a retry starts from the beginning."
        )

    @contextmanager
    def adbc_errors(self) -> Iterator[None]:
        """Turn what an ADBC driver raises into an error of ours."""
        import adbc_driver_manager

        try:
            yield
        except adbc_driver_manager.ProgrammingError as error:
            raise self.refused(error) from None
        # While a result is streamed, drivers report through Arrow, which raises OSError.
        except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
            raise self.lost(error) from None

    def check_names(self, schema: pa.Schema) -> None:
        """:raises SchemaError: two columns of the result have one name"""
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise SchemaError(
                f"The query returns the column {', '.join(map(repr, twice))} more than once: "
                "give one of them another name with AS."
            )
