"""Measure the models on each of the consecutive windows of the held-out rows (``windows`` of the split)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import MetricError
from airflow_mlops.core.moments import EPOCH
from airflow_mlops.data.moments import as_utc
from airflow_mlops.gates.evidence import Measurement
from airflow_mlops.metrics.comparison import estimate
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.models.training_data import TEST
from airflow_mlops.registry.records.verdict import HeldOutWindow, WindowValue
from airflow_mlops.stages.evaluate.measurement import Compared

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ONE_SIDED = 0.975


def by_window(compared: Compared, metric: str) -> list[HeldOutWindow]:
    """Measure the candidates and the champion on each window.

    The gates use all held-out rows together, because a window alone has few rows.

    :param compared: the measured models
    :param metric: name of the metric of the verdict
    :return: the windows in the order of time; empty if the held-out rows are not divided into windows
    """
    data, details = compared.data, compared.data.dataset.manifest.details
    declared = (details.get("split") or {}).get("windows") or []
    if data.part != TEST or not declared:
        return []
    column = details["timestamp"]
    times = as_utc(data.column(column), f"The event time {column!r}").cast(pa.int64()).to_numpy()
    found = []
    for window in declared:
        # Python 3.10 does not read a Z.
        start, end = (datetime.fromisoformat(window[key].replace("Z", "+00:00")) for key in ("start", "end"))
        first, last = ((moment - EPOCH) // timedelta(microseconds=1) for moment in (start, end))
        index = np.flatnonzero((times >= first) & (times < last))
        values = {
            item.candidate.ref.version: _measure(item.measurement, metric, index, compared)
            for item in compared.candidates
        }
        champion = compared.measured_champion
        found.append(
            HeldOutWindow(
                start=start,
                end=end,
                rows=len(index),
                candidates={version: value for version, value in values.items() if value is not None},
                champion=_measure(champion, metric, index, compared) if champion is not None else None,
            )
        )
    return found


def _measure(
    measurement: Measurement, metric: str, index: NDArray[np.integer[Any]], compared: Compared
) -> WindowValue | None:
    if measurement.rows is None or metric not in measurement.metrics:
        return None
    clusters = compared.resampling.clusters
    if clusters is not None:
        _, clusters = np.unique(clusters[index], return_inverse=True)
    try:
        found = estimate(metric, measurement.rows.take(index), Resampling(len(index), clusters=clusters))
    except MetricError:
        # The gates have used all rows. A custom metric may need a class that is absent from the window.
        return None
    if not np.isfinite(found.value):
        return None
    # If all resamples are equal, for example because the few rows are ranked without an error, the error is unknown.
    if not 0 < found.standard_error < np.inf:
        return WindowValue(value=found.value)
    return WindowValue(value=found.value, low=found.lower(_ONE_SIDED), high=found.upper(_ONE_SIDED))
