"""Conversion of timestamps, dates and ISO 8601 text to UTC timestamps with microsecond resolution."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError

UTC = pa.timestamp("us", "UTC")


def as_utc(values: Any, what: str, *, round_up: bool = False) -> Any:
    """Convert a column to UTC timestamps. Values without a time zone are read as UTC.

    :param values: an Arrow array or chunked array of timestamps, dates or ISO 8601 text
    :param what: subject of the error message: the column and its origin, such as ``Column 'time' of dataset flights``
    :param round_up: whether nanoseconds are rounded up to the next microsecond; by default they are rounded down
    :raises SchemaError: a value is not a point in time
    """
    kind = values.type
    try:
        if pa.types.is_timestamp(kind):
            if kind.unit == "ns":
                # The zone is removed, because rounding would need a time zone database. The instants stay the same.
                values = values.cast(pa.timestamp("ns", "UTC" if kind.tz else None)).cast(pa.timestamp("ns"))
                values = (pc.ceil_temporal if round_up else pc.floor_temporal)(values, unit="microsecond")
                return values.cast(pa.timestamp("us")).cast(UTC)
            return values.cast(UTC) if kind.tz else values.cast(pa.timestamp("us")).cast(UTC)
        if pa.types.is_date(kind):
            return values.cast(pa.timestamp("us")).cast(UTC)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            # Arrow converts text with a time zone only to timestamps with a time zone, and other text only to those without.
            zoned = pc.match_substring_regex(values, r"(Z|[+-]\d\d:?\d\d)$")
            values = values.cast(pa.string())
            return pc.if_else(zoned, values, pc.binary_join_element_wise(values, "Z", "")).cast(UTC)
        if pa.types.is_null(kind):
            return values.cast(UTC)
    except pa.ArrowInvalid as error:
        problem = str(error).partition(". ")[0].rstrip(".")
        raise SchemaError(
            f"{what} contains a value that is not a point in time: {problem}. Correct it in the source."
        ) from None
    raise SchemaError(f"{what} has the type {kind}. Convert it to a timestamp, a date or ISO 8601 text.")
