"""Leakage checks: no feature is newer than its event, and no single feature predicts the label almost perfectly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import LeakageError
from airflow_mlops.data.moments import as_utc, is_time
from airflow_mlops.data.spool import Rows
from airflow_mlops.gates.single_features import single_features

Numbers = np.ndarray[Any, Any]


def refuse_newer(table: pa.Table | Rows, features: Sequence[str], timestamp: str) -> None:
    """Check that no timestamp or date in a feature is later than the event time of its row.

    :param table: rows with the features and the event time
    :param features: names of the features; features of other types are not checked
    :param timestamp: name of the event time column
    :raises LeakageError: a feature is later than the event time. The message names the first such feature
    """
    events = as_utc(table[timestamp], f"The event time {timestamp!r}")
    for name in features:
        if not is_time(table.schema.field(name).type):
            continue
        times = as_utc(table[name], f"Feature {name!r}")
        newer = pc.greater(times, events).fill_null(False)
        count = pc.sum(newer).as_py() or 0
        if count:
            first = pc.index(newer, True).as_py()
            raise LeakageError(
                f"Feature {name!r} is newer than its event in {count:,} of {table.num_rows:,} rows (first: "
                f"{times[first].as_py().isoformat()} for an event at {events[first].as_py().isoformat()}), so the "
                "value of the feature was not known at the time of the event. Remove the feature."
            )


def refuse_too_predictive(
    table: pa.Table | Rows, features: Sequence[str], label: str, task: Task, ids: Numbers, limit: float
) -> dict[str, Any]:
    """Check that no single feature predicts the label almost perfectly.

    :param table: rows with the features and the label
    :param features: names of the features
    :param label: name of the label column
    :param ids: id of each row, shape (n,), from :func:`airflow_mlops.data.row_identity.row_ids`
    :param limit: highest accepted score of a single feature (AUC or, for a regression, R²)
    :return: the score of each feature, the measure, the limit and the number of rows, for the manifest
    :raises LeakageError: the score of a feature is above ``limit``. The message names all such features
    """

    def take(names: Sequence[str], index: Numbers) -> pa.Table:
        return table.select(names).take(pa.array(index))

    found = single_features(table[label], features, task, ids, take)
    if above := found.above(limit):
        raise LeakageError(
            f"{'This feature' if len(above) == 1 else 'Each of these features'} alone predicts {label!r} with a score "
            f"above the limit of {limit:g}: {', '.join(above)}. Such a feature is usually known only after the event. "
            "Remove the feature or, if it is known at the time of the event, increase `max_single_feature_score`."
        )
    return {"measure": found.measure, "limit": limit, "rows": found.rows, "scores": found.scores}
