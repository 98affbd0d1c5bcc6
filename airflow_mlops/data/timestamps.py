"""Columns of timestamps, dates and ISO 8601 text as UTC timestamps with microseconds."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError

UTC = pa.timestamp("us", "UTC")


def as_utc(values: Any, what: str, *, round_up: bool = False) -> Any:
    """Convert a column to UTC timestamps. Values without a time zone are read as UTC.

    :param values: an Arrow array or chunked array of timestamps, dates or ISO 8601 text
    :param what: the column and where it comes from, for the error message
    :param round_up: whether to round times finer than a microsecond up instead of down
    :raises SchemaError: a value is not a point in time
    """
    kind = values.type
    try:
        if pa.types.is_timestamp(kind):
            if kind.unit == "ns":
                # Without the zone: rounding then needs no time zone database, and the instants are the same.
                values = values.cast(pa.timestamp("ns", "UTC" if kind.tz else None)).cast(pa.timestamp("ns"))
                values = (pc.ceil_temporal if round_up else pc.floor_temporal)(values, unit="microsecond")
                return values.cast(pa.timestamp("us")).cast(UTC)
            return values.cast(UTC) if kind.tz else values.cast(pa.timestamp("us")).cast(UTC)
        if pa.types.is_date(kind):
            return values.cast(pa.timestamp("us")).cast(UTC)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            # Arrow reads text with a zone only as zoned timestamps, and text without a zone only as zoneless ones.
            zoned = pc.match_substring_regex(values, r"(Z|[+-]\d\d:?\d\d)$")
            values = values.cast(pa.string())
            return pc.if_else(zoned, values, pc.binary_join_element_wise(values, "Z", "")).cast(UTC)
        if pa.types.is_null(kind):
            return values.cast(UTC)
    except pa.ArrowInvalid as error:
        raise SchemaError(f"{what} holds a value that is not a point in time: {str(error).splitlines()[0]}.") from None
    raise SchemaError(f"{what} is {kind}, but a timestamp, a date or ISO 8601 text is needed.")
