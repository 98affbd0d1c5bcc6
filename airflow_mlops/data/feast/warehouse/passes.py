"""Divide the events into passes, so that Feast's SQL does not confuse two events of one pass.

The SQL identifies an event by the text of its join keys and its time, one after the other without a separator. The keys
(1, 12) and (11, 2) therefore look equal at the same time, and both events would get the same row. Such events are joined
in different passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import FeatureStoreError
from airflow_mlops.data import relational
from airflow_mlops.data.feast.warehouse.view import EVENT, EVENT_TIME

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def later_passes(
    view: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], memory_limit: str | None
) -> list[Numbers]:
    """Return the numbers of the events of each pass after the first one. Nearly always, there is no such pass.

    :param view: name of the feature view, for the error message
    :param schema: number of the event, event time, and at least two join keys
    :param batches: the events
    :param memory_limit: memory that DuckDB may use before it continues in temporary files
    :raises FeatureStoreError: a join key is a floating-point number or binary, whose text depends on the store
    """
    keys = [field for field in schema if field.name not in (EVENT, EVENT_TIME)]
    for field in keys:
        if not has_one_text(field.type):
            raise FeatureStoreError(
                f"Feature view {view!r} has several join keys, and one of them has the type {field.type} in the events. Feast "
                "compares several join keys by their text, and the text of this type depends on the offline store. Use "
                "integers, text, booleans or dates."
            )
    names = [field.name for field in keys]
    text = " || ".join(f"{name}::VARCHAR" for name in names)
    # The text of null join keys is null. They match nothing, so they are never confused.
    sql = f"""
        SELECT {EVENT}, pass FROM (
            SELECT {EVENT}, dense_rank() OVER (PARTITION BY {EVENT_TIME}, {text} ORDER BY {", ".join(names)}) AS pass
            FROM events WHERE ({text}) IS NOT NULL
        ) WHERE pass > 1
    """  # noqa: S608 - the names are generated here
    with relational.connect_bounded(memory_limit) as connection:
        found = list(relational.stream(connection, sql, {"events": (schema, batches)}))
    if not found:
        return []
    table = pa.Table.from_batches(found)
    events, number = table[EVENT].to_numpy(), table["pass"].to_numpy()
    return [np.sort(events[number == later]) for later in range(2, number.max() + 1)]


def has_one_text(kind: pa.DataType) -> bool:
    """Return whether two values of a type are equal exactly if their texts are equal, in every store."""
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
    return is_text or is_whole or pa.types.is_boolean(kind) or pa.types.is_date(kind)
