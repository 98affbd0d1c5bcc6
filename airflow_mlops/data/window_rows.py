"""Selection of the rows whose time lies in a time window."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.windows import Window
from airflow_mlops.core.zones import UTC, local
from airflow_mlops.data.moments import as_type, as_utc, is_text

# ISO 8601 text without a time of day, such as 2024-03-05, 20240305 and 2024-W10-2.
DATE = r"^\s*[^Tt\s]+\s*$"


def inside(values: Any, window: Window, what: str, *, first_row: int = 0, dates: bool = False) -> Any:
    """Return for each time whether it lies in the window.

    A date, in any form of ISO 8601, is read as the start of the day in the window's time zone. All other values are
    read as in :func:`airflow_mlops.data.moments.as_utc`.

    :param values: an Arrow array or chunked array of timestamps, dates or ISO 8601 text
    :param what: subject of error messages: the column and its origin
    :param first_row: number of rows before ``values``, for the row numbers in error messages
    :param dates: whether timestamps are dates that were converted to midnight in UTC, see :func:`are_dates`
    :return: an array of booleans, with null for a null time
    :raises SchemaError: a value is not a point in time
    """
    times = as_utc(values, what, first_row=first_row)
    found = _between(times, window.start, window.end)
    if window.zone == UTC:
        return found
    if dates and pa.types.is_timestamp(values.type):
        return _date_inside(times, window)
    if pa.types.is_date(values.type):
        return _date_inside(values, window)
    if not is_text(values.type):
        return found
    is_date = pc.match_substring_regex(values, DATE)
    texts = pc.if_else(is_date, values, pa.scalar(None, values.type))
    dates = as_type(texts, pa.date32(), what, first_row=first_row)
    return pc.if_else(is_date, _date_inside(dates, window), found)


def are_dates(values: Any) -> bool:
    """Return whether a column of times has only dates. :func:`inside` reads dates as days in the window's time zone."""
    if not is_text(values.type):
        return bool(pa.types.is_date(values.type))
    return pc.all(pc.match_substring_regex(values, DATE)).as_py() is not False


def _date_inside(dates: Any, window: Window) -> Any:
    start, end = (local(moment, window.zone) for moment in (window.start, window.end))
    return _between(dates.cast(pa.timestamp("us")), start, end)


def _between(times: Any, start: Any, end: Any) -> Any:
    return pc.and_(pc.greater_equal(times, pa.scalar(start, times.type)), pc.less(times, pa.scalar(end, times.type)))
