"""Orders by month, whose label depends on a feature with a slope that changes over the months."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore


def orders(window: Window, rows: int, slope: float = 2.0, seed: int = 0) -> pa.Table:
    """Orders with times that are evenly distributed over a window."""
    random = np.random.default_rng((seed, int(window.start.timestamp())))
    length = (window.end - window.start).total_seconds()
    seconds = window.start.timestamp() + np.sort(random.uniform(0, length, rows))
    amount, hour = random.normal(size=rows), random.integers(0, 24, rows)
    late = slope * amount + random.logistic(size=rows) > 0
    return pa.table(
        {
            "order": [f"{window.start:%Y%m}-{number}" for number in range(rows)],
            "at": pa.array((seconds * 1e6).astype(np.int64)).cast(pa.timestamp("us", "UTC")),
            "amount": amount,
            "hour": hour,
            "late": pa.array(late.astype(np.int64)),
        }
    )


def write_months(
    store: ArtifactStore, months: Sequence[str], rows: int, slopes: Sequence[float] | None = None, name: str = "orders"
) -> None:
    """Write one dataset for each month.

    :param slopes: slope of the label in ``amount`` in each month; by default 2 in all months
    """
    for number, month in enumerate(months):
        window = Window.model_validate(month)
        with DatasetWriter(store, name) as writer:
            writer.write(orders(window, rows, slopes[number] if slopes else 2.0))
            writer.commit(window=window, time_column="at")
