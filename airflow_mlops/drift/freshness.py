"""The newest event time and the newest scoring time in a window."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.windows import Window
from airflow_mlops.data.moments import as_utc, is_text, is_time
from airflow_mlops.drift.findings import Freshness

SCORED_AT = "scored_at"
_DAY = timedelta(days=1)


def freshness(batches: Iterable[pa.RecordBatch], event_time: str, window: Window) -> Freshness | None:
    """Find the newest event time and the newest scoring time in one pass.

    :param batches: rows with the column ``event_time``, the column :data:`SCORED_AT`, or both
    :param event_time: name of the column with the event times
    :param window: the window to which the rows belong
    :return: the newest event time and the newest scoring time; ``None`` if all rows lack both times
    :raises SchemaError: a value is not a point in time
    """
    newest: dict[str, datetime] = {}
    for batch in batches:
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            if not (is_time(values.type) or is_text(values.type)):
                continue
            found = pc.max(as_utc(values, f"Column {name!r}")).as_py()
            if found is not None:
                newest[name] = max(found, newest.get(name, found))
    if not newest:
        return None
    event = newest.get(event_time)
    return Freshness(
        newest_event=event,
        newest_score=newest.get(SCORED_AT),
        behind_days=(window.end - event) / _DAY if event is not None else None,
    )
