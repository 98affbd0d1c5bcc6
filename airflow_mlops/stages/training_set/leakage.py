"""Leakage checks: no feature is newer than its event, and no single feature predicts the label almost perfectly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import LeakageError
from airflow_mlops.data.moments import UTC, as_utc, is_time
from airflow_mlops.data.spool import Rows
from airflow_mlops.gates.single_features import Take, measured, sampled

Numbers = np.ndarray[Any, Any]


class Newer(Model):
    """Values of a feature that are newer than their events.

    :param feature: name of the feature
    :param rows: number of such values
    :param value: the first such value, in microseconds since 1970
    :param event: event time of this row, in microseconds since 1970
    """

    feature: str
    rows: int
    value: int
    event: int


def newer_than_events(table: pa.Table | Rows, features: Sequence[str], timestamp: str) -> list[Newer]:
    """Find timestamps and dates in features that are later than the event time of their row.

    :param table: rows with the features and the event time
    :param features: names of the features; features of other types are not checked
    :param timestamp: name of the event time column
    :return: the features with such values
    """
    timed = [name for name in features if is_time(table.schema.field(name).type)]
    found: dict[str, Newer] = {}
    start = 0
    for batch in table.select([timestamp, *timed]).to_batches() if timed else ():
        events = as_utc(batch[timestamp], f"The event time {timestamp!r}", first_row=start).cast(pa.int64())
        for name in timed:
            times = as_utc(batch[name], f"Feature {name!r}", first_row=start).cast(pa.int64())
            newer = pc.greater(times, events).fill_null(False)
            if not (count := pc.sum(newer).as_py() or 0):
                continue
            if name in found:
                found[name] = found[name].model_copy(update={"rows": found[name].rows + count})
                continue
            first = pc.index(newer, True).as_py()
            found[name] = Newer(feature=name, rows=count, value=times[first].as_py(), event=events[first].as_py())
        start += batch.num_rows
    return [found[name] for name in timed if name in found]


def refuse_newer(table: pa.Table | Rows, features: Sequence[str], timestamp: str) -> None:
    """Check that no timestamp or date in a feature is later than the event time of its row.

    :param table: rows with the features and the event time
    :param features: names of the features; features of other types are not checked
    :param timestamp: name of the event time column
    :raises LeakageError: a feature is later than the event time. The message names the first such feature
    """
    refuse(newer_than_events(table, features, timestamp), features, table.num_rows)


def refuse(found: Sequence[Newer], features: Sequence[str], rows: int) -> None:
    """Refuse values that are newer than their events.

    :param found: these values, in the order of the rows
    :param features: names of the features
    :param rows: number of rows
    :raises LeakageError: a feature is later than the event time. The message names the first such feature
    """
    for name in features:
        if newer := [item for item in found if item.feature == name]:
            value, event = (pa.scalar(micros, UTC).as_py().isoformat() for micros in (newer[0].value, newer[0].event))
            raise LeakageError(
                f"Feature {name!r} is newer than its event in {sum(item.rows for item in newer):,} of {rows:,} rows (first: "
                f"{value} for an event at {event}). These values were not known at the time of the event. Remove the "
                "feature."
            )


def check_single_features(
    table: pa.Table | Rows,
    features: Sequence[str],
    label: str,
    task: Task,
    ids: str,
    limit: float,
    classes: pa.Array | None = None,
    take: Take | None = None,
) -> dict[str, Any]:
    """Check on a sample of the rows that no single feature predicts the label almost perfectly.

    :param table: rows with the label, the ids and, unless ``take`` is set, the features
    :param features: names of the features
    :param label: name of the label column
    :param ids: name of the column with the id of each row, from :func:`airflow_mlops.data.row_identity.row_ids`
    :param limit: highest accepted score of a single feature (AUC or, for a regression, R²)
    :param classes: the distinct values of the label; not needed for a regression
    :param take: function that reads features of the rows at given positions, which are in ascending order; by default
        they are read from ``table``
    :return: the score of each feature, the measure, the limit and the number of rows, for the manifest
    :raises LeakageError: the score of a feature is above ``limit``. The message names all such features
    """

    def taken(names: Sequence[str], index: Numbers) -> pa.Table:
        return table.select(names).take(pa.array(index))

    batches = ((batch[label], batch[ids].to_numpy()) for batch in table.select([label, ids]).to_batches())
    rows = sampled(batches, table.num_rows, classes if task != "regression" else None)
    found = measured(taken([label], rows)[label], features, task, rows, take or taken)
    if above := found.above(limit):
        raise LeakageError(
            f"{'This feature' if len(above) == 1 else 'Each of these features'} alone predicts {label!r} with a score "
            f"above the limit of {limit:g}: {', '.join(above)}. Such a feature is usually known only after the event. "
            "Remove the feature or, if it is known at the time of the event, increase `max_single_feature_score`."
        )
    return {"measure": found.measure, "limit": limit, "rows": found.rows, "scores": found.scores}
