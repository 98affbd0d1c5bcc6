"""Write a dataset of predictions into a table of a database, a Delta table or an Iceberg table.

The table has the keys and the event time of each row, the prediction, the score, and the columns of :data:`ORIGIN`. For
a model with prediction intervals, it also has the ends of the interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import pyarrow as pa

from airflow_mlops.core.connections import ConnectionResolver
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import (
    AnyTableTarget,
    AnyWrittenTable,
    IcebergTarget,
    TableTarget,
    WrittenDeltaTable,
    WrittenIcebergTable,
    WrittenTable,
)
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import INTERVAL_COLUMNS
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.tables.database import open_table
from airflow_mlops.data.tables.delta.storage import s3_options
from airflow_mlops.data.tables.delta.table import DeltaTable
from airflow_mlops.data.tables.iceberg.catalog import properties
from airflow_mlops.data.tables.iceberg.table import IcebergTable
from airflow_mlops.data.tables.parts import Part

ORIGIN = pa.schema(
    [
        ("window_start", pa.timestamp("us", "UTC")),
        ("window_end", pa.timestamp("us", "UTC")),
        ("model_name", pa.string()),
        ("model_version", pa.int64()),
        ("dataset_name", pa.string()),
        ("dataset_id", pa.string()),
        ("dataset_created", pa.timestamp("us", "UTC")),
    ]
)
"""The columns that say where a prediction comes from. The first five select the rows that are replaced."""

_PART = ("window_start", "window_end", "model_name", "model_version", "dataset_name")


class Replaceable(Protocol):
    """A table in which the rows of one window, model version and dataset can be replaced."""

    def replace(self, schema: pa.Schema, part: Part, batches: Iterable[pa.RecordBatch]) -> int:
        """Replace the rows of ``part`` with the rows of ``batches``, and return the number of new rows.

        If this fails, the table is unchanged.
        """


def open_target(target: AnyTableTarget, connection: ConnectionResolver) -> Replaceable:
    """Return the table of ``write_to``, without connecting.

    :param target: the table
    :param connection: returns the Airflow connection with an id
    :raises SpecError: the connection has another type, or a package is not installed
    :raises TableError: rows cannot be written to this kind of database
    """
    if isinstance(target, TableTarget):
        return open_table(connection(target.conn_id), target.table)
    if isinstance(target, IcebergTarget):
        return IcebergTable(target.iceberg, target.conn_id, properties(connection(target.conn_id)))
    return DeltaTable(target.delta, s3_options(connection(target.conn_id)) if target.conn_id else None)


def written(target: AnyTableTarget, rows: int) -> tuple[AnyWrittenTable, str]:
    """Return the table with the number of rows that were written to it, and the description of the table."""
    if isinstance(target, TableTarget):
        where = f"table {target.table!r} of connection {target.conn_id!r}"
        return WrittenTable(**target.model_dump(), rows=rows), where
    if isinstance(target, IcebergTarget):
        where = f"Iceberg table {target.iceberg!r} of connection {target.conn_id!r}"
        return WrittenIcebergTable(**target.model_dump(), rows=rows), where
    return WrittenDeltaTable(**target.model_dump(), rows=rows), f"Delta table {target.delta!r}"


class _Rows:
    """The rows of a dataset of predictions as they are written. Each iteration reads them again."""

    def __init__(self, predictions: Dataset, columns: list[str], schema: pa.Schema, origin: dict[str, Any]) -> None:
        self._predictions = predictions
        self._columns = columns
        self._schema = schema
        self._origin = origin

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._predictions.batches(columns=self._columns):
            constant = [pa.repeat(pa.scalar(self._origin[field.name], field.type), batch.num_rows) for field in ORIGIN]
            columns = [*batch.select(self._columns).columns, *constant]
            yield pa.RecordBatch.from_arrays(columns, names=self._schema.names)


def check_rows(window: Window | None, keys: list[str], name: str) -> None:
    """Check that predictions can be found again in a table.

    :param window: time window of the predictions
    :param keys: keys of the scored dataset
    :param name: name of the scored dataset
    :raises SpecError: the predictions have no window or no keys
    """
    if window is None:
        raise SpecError(
            f"`write_to` replaces the rows of a time window, but dataset {name!r} has no window. Set `window`."
        )
    if not keys:
        raise SpecError(
            f"`write_to` identifies rows by their keys, but dataset {name!r} has no keys. Set `keys` where "
            "BuildTrainingSetOperator builds it."
        )


def write(table: Replaceable, predictions: Dataset) -> int:
    """Write the predictions of a dataset into a table.

    Rows in the table with the same window, model, version and dataset name are replaced.

    :param table: the table
    :param predictions: dataset of predictions with a window
    :return: number of rows written
    :raises TableError: the table cannot hold the predictions, or rejects them
    :raises TableUnavailableError: the table cannot be reached, or fails temporarily
    """
    manifest = predictions.manifest
    details = manifest.details
    assert manifest.window is not None  # check_rows() requires it
    origin: dict[str, Any] = {
        "window_start": manifest.window.start,
        "window_end": manifest.window.end,
        "model_name": details["model"],
        "model_version": details["model_version"],
        "dataset_name": manifest.name,
        "dataset_id": manifest.id,
        "dataset_created": manifest.created,
    }
    wanted = [*details["keys"], details["timestamp"], "prediction", "score", *INTERVAL_COLUMNS]
    columns = [name for name in dict.fromkeys(wanted) if name in predictions.schema.names]
    schema = pa.schema([predictions.schema.field(name).remove_metadata() for name in columns] + list(ORIGIN))
    part = {name: origin[name] for name in _PART}
    return table.replace(schema, part, _Rows(predictions, columns, schema, origin))
