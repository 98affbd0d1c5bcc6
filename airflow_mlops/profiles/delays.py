"""The label delay: the time from events to the arrival of their labels."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.columns import LABEL_AT
from airflow_mlops.data.moments import as_utc, is_text, is_time
from airflow_mlops.profiles.columns.numeric import NumericColumn
from airflow_mlops.profiles.profile import profile
from airflow_mlops.profiles.spec import LabelDelay

_DAY = 86_400_000_000


def label_delay(batches: Iterable[pa.RecordBatch], event_time: str) -> LabelDelay | None:
    """Compute quantiles of the time from events to their labels, in one pass.

    Labels that have not arrived yet are not included. The quantiles of a recent window are therefore too small.

    :param batches: rows with the column :data:`LABEL_AT`, which holds the arrival times of labels, and the column
        ``event_time``
    :param event_time: name of the column with the event times
    :return: ``None`` if no label has arrived, or if the event times are neither times nor text
    :raises SchemaError: a value is not a point in time
    """
    known = (
        _delays(batch.column(LABEL_AT), batch.column(event_time), event_time)
        for batch in batches
        if is_time(kind := batch.schema.field(event_time).type) or is_text(kind)
    )
    delays = profile(pa.RecordBatch.from_arrays([days], ["days"]) for days in known).columns.get("days")
    if not isinstance(delays, NumericColumn) or not delays.valid:
        return None
    median, p90, p99 = delays.quantiles([0.5, 0.9, 0.99]).tolist()
    return LabelDelay(median=median, p90=p90, p99=p99)


def _delays(came: pa.Array, happened: pa.Array, event_time: str) -> pa.Array:
    apart = pc.subtract(as_utc(came, f"Column {LABEL_AT!r}"), as_utc(happened, f"The event time {event_time!r}"))
    return pc.divide(apart.cast(pa.int64()).cast(pa.float64(), safe=False), float(_DAY))
