"""Features that tell a model what it could not know: newer than their event, or too good alone to be true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import LeakageError
from airflow_mlops.gates.single_features import single_features

Numbers = np.ndarray[Any, Any]


def refuse_newer(table: pa.Table, features: Sequence[str], timestamp: str) -> None:
    """Refuse features that hold a point in time after the event.

    :raises LeakageError: naming the first such feature
    """
    events = table[timestamp].cast(pa.timestamp("us", "UTC"))
    for name in features:
        kind = table.schema.field(name).type
        if pa.types.is_date(kind):
            times = table[name].cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
        elif pa.types.is_timestamp(kind):
            times = table[name].cast(pa.timestamp("us", kind.tz)).cast(pa.timestamp("us", "UTC"))
        else:
            continue
        newer = pc.greater(times, events).fill_null(False)
        count = pc.sum(newer).as_py() or 0
        if count:
            first = pc.index(newer, True).as_py()
            raise LeakageError(
                f"Feature {name!r} is newer than its event in {count:,} of {table.num_rows:,} rows (first: "
                f"{times[first].as_py().isoformat()} for an event at {events[first].as_py().isoformat()}), so it "
                "cannot have been known then: take it out of the features."
            )


def refuse_telling(
    table: pa.Table, features: Sequence[str], label: str, task: Task, ids: Numbers, limit: float
) -> dict[str, Any]:
    """Refuse features that predict the label all but perfectly on their own.

    :param ids: a name for each row
    :return: what was measured, for the manifest
    :raises LeakageError: naming every feature above ``limit``
    """
    found = single_features(table, features, label, task, ids)
    if telling := found.above(limit):
        raise LeakageError(
            f"{'This feature' if len(telling) == 1 else 'Each of these features'} alone predicts {label!r} better than "
            f"{limit:g}: {', '.join(telling)}. Such a feature is mostly known only after the event: take it out of the "
            "features, or raise max_single_feature_score if you are sure that it is known in time."
        )
    return {"measure": found.measure, "limit": limit, "rows": found.rows, "scores": found.scores}
