"""Selects the rows of a window by a time column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.stages.ingest.sources.urls import file_url

if TYPE_CHECKING:
    from fsspec.core import OpenFile

    from airflow_mlops.core.windows import Window


def in_window(batch: pa.RecordBatch, column: str, window: Window, file: OpenFile) -> tuple[pa.RecordBatch, int]:
    """Select the rows of ``batch`` with a time in ``window``.

    :param column: name of the time column
    :param file: file of the batch, for error messages
    :return: the selected rows, and the number of rows in which the time is null
    :raises SchemaError: the column contains values that are not times
    """
    times = _utc_times(batch.column(column), column, file)
    start, end = (pa.scalar(bound, times.type) for bound in (window.start, window.end))
    inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
    return batch.filter(inside), times.null_count


def _utc_times(values: pa.Array, column: str, file: OpenFile) -> pa.Array:
    """Convert a column to UTC timestamps. Text is parsed as ISO 8601. Times without a time zone are read as UTC."""
    kind = values.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or _is_text(kind) or pa.types.is_null(kind)):
        raise SchemaError(
            f"The time column {column!r} of {file_url(file)} has the type {kind}, which is not a time. "
            f"Declare its unit, for example types={{{column!r}: 'timestamp[s, tz=UTC]'}} for seconds since 1970."
        )
    utc, naive = pa.timestamp("us", "UTC"), pa.timestamp("us")
    try:
        return pc.cast(values, utc, safe=False)
    except pa.ArrowInvalid:
        pass  # Arrow casts text without a time zone to naive timestamps only.
    try:
        return pc.cast(pc.cast(values, naive, safe=False), utc)
    except pa.ArrowInvalid as error:
        problem = str(error).partition(" as a scalar")[0]
        raise SchemaError(
            f"The time column {column!r} of {file_url(file)} cannot be read as times: {problem}. Every value must be "
            "ISO 8601, and either all or none must have a time zone. Correct the values in the source, or remove "
            "`time_column`, which selects rows by time, and list in `files` only the files of this window."
        ) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
