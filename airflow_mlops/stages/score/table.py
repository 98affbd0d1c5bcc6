"""Write a dataset of predictions into a table of a database.

The table has the keys and the event time of each row, the prediction, the score, and the columns of :data:`ORIGIN`. For
a model with prediction intervals, it also has the ends of the interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import INTERVAL_COLUMNS
from airflow_mlops.data.databases.tables import Table
from airflow_mlops.data.datasets import Dataset

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


def check_rows(window: Window | None, keys: list[str], name: str) -> None:
    """Check that predictions can be found again in a table.

    :param window: time window of the predictions
    :param keys: keys of the scored dataset
    :param name: name of the scored dataset
    :raises SpecError: the predictions have no window or no keys
    """
    if window is None:
        raise SpecError(f"`write_to` replaces the rows of a time window, but dataset {name!r} has none. Set `window`.")
    if not keys:
        raise SpecError(
            f"`write_to` identifies rows by their keys, but dataset {name!r} has no keys. Set `keys` where "
            "BuildTrainingSetOperator builds it."
        )


def write(table: Table, predictions: Dataset) -> int:
    """Write the predictions of a dataset into a table.

    Rows in the table with the same window, model, version and dataset name are replaced.

    :param table: the table
    :param predictions: dataset of predictions with a window
    :return: number of rows written
    :raises TableError: the table cannot hold the predictions, or the database rejects them
    :raises TableUnavailableError: the database cannot be reached, or fails temporarily
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

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in predictions.batches(columns=columns):
            constant = [pa.repeat(pa.scalar(origin[field.name], field.type), batch.num_rows) for field in ORIGIN]
            yield pa.RecordBatch.from_arrays([*batch.select(columns).columns, *constant], names=schema.names)

    return table.replace(schema, {name: origin[name] for name in _PART}, rows())
