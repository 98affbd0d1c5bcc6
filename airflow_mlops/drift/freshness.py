"""The newest event time and the newest scoring time in a window."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.windows import Window
from airflow_mlops.drift.findings import Freshness
from airflow_mlops.profiles.delays import TIME, is_time

SCORED_AT = "scored_at"
_DAY = timedelta(days=1)


def freshness(batches: Iterable[pa.RecordBatch], event_time: str, window: Window) -> Freshness | None:
    """Find the newest event time and the newest scoring time in one pass.

    :param batches: rows with the column ``event_time``, the column :data:`SCORED_AT`, or both
    :param event_time: name of the column with the event times
    :param window: the window to which the rows belong
    :return: ``None`` if no row has either time
    """
    newest: dict[str, datetime] = {}
    for batch in batches:
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            found = pc.max(values.cast(TIME, safe=False)).as_py() if is_time(values.type) else None
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
