"""Leakage checks: features that are newer than their event, and features that alone predict the label too well."""

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

    :param timestamp: the column of the event times
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
                "cannot have been known then: remove it from the features."
            )


def refuse_too_predictive(
    table: pa.Table, features: Sequence[str], label: str, task: Task, ids: Numbers, limit: float
) -> dict[str, Any]:
    """Refuse features that predict the label almost perfectly on their own.

    :param ids: the identity of each row
    :param limit: the highest score that is accepted: AUC, or R² for a regression
    :return: the scores, for the manifest
    :raises LeakageError: naming every feature above ``limit``
    """
    found = single_features(table, features, label, task, ids)
    if above := found.above(limit):
        raise LeakageError(
            f"{'This feature' if len(above) == 1 else 'Each of these features'} alone predicts {label!r} with a score "
            f"above {limit:g}: {', '.join(above)}. Such a feature is usually known only after the event: remove it from "
            "the features, or raise max_single_feature_score if it is known in time."
        )
    return {"measure": found.measure, "limit": limit, "rows": found.rows, "scores": found.scores}
