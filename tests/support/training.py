"""Training sets as BuildTrainingSetOperator writes them: numbers, text, missing values, and labels of every task."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore

FEATURES = ["distance", "hour", "weekend", "carrier", "tail"]


def flights(rows: int, task: str = "binary", seed: int = 0) -> pa.Table:
    """Flights whose label ``late`` depends on every feature. Some distances and carriers are missing."""
    random = np.random.default_rng(seed)
    distance, hour = random.gamma(2, 500, rows), random.integers(5, 23, rows)
    weekend = random.random(rows) < 0.3
    carrier = np.array(["AA", "B6", "UA", None], dtype=object)[random.integers(0, 4, rows)]
    tail = np.array([f"N{number:04d}" for number in random.zipf(1.5, rows) % 500], dtype=object)
    signal = distance / 700 + hour / 8 - 3.5 + 1.5 * (carrier == "B6") - weekend + random.logistic(size=rows)
    late: Any = signal
    if task == "binary":
        late = signal > 0
    elif task == "multiclass":
        late = np.array(["early", "on time", "late"], dtype=object)[np.digitize(signal, [-1, 1])]
    return pa.table(
        {
            "flight": np.arange(rows),
            "distance": pa.array(distance, mask=random.random(rows) < 0.05),
            "hour": hour,
            "weekend": weekend,
            "carrier": carrier,
            "tail": tail,
            "late": late,
        }
    )


def timed(rows: int, seed: int, task: str = "binary") -> pa.Table:
    """Flights with a time, in an order that is not that of the times."""
    table = flights(rows, task, seed)
    start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    hours = np.random.default_rng(seed).permutation(rows)
    return table.append_column("at", pa.array([start + timedelta(hours=int(hour)) for hour in hours]))


def stamped(rows: int, task: str = "binary", seed: int = 0) -> pa.Table:
    """Flights with a feature ``announced``, which determines the label: seconds since 1970, all in two hours of 2023.

    float32 has a resolution of 128 seconds at this magnitude, so neither the values nor their mean fit into it.
    """
    table, random = flights(rows, task, seed), np.random.default_rng(seed)
    announced = 1.7e9 + random.uniform(0, 7_200, rows)
    late = (announced - 1.7e9) / 900 - 4 + random.logistic(size=rows)
    return table.append_column("announced", pa.array(announced, mask=random.random(rows) < 0.05)).set_column(
        table.schema.get_field_index("late"), "late", pa.array(late > 0 if task == "binary" else late)
    )


def training_set(
    store: ArtifactStore,
    train: pa.Table | None = None,
    test: pa.Table | None = None,
    *,
    task: str = "binary",
    **details: Any,
) -> DatasetRef:
    """Write a training set called ``late_training``."""
    train = flights(600, task, seed=1) if train is None else train
    test = flights(300, task, seed=2) if test is None else test
    usual = {"label": "late", "task": task, "features": FEATURES, "timestamp": None, "keys": ["flight"]}
    with DatasetWriter(store, "late_training") as writer:
        writer.write(train, "train")
        writer.write(test, "test")
        return writer.commit(details={**usual, **details})[0].ref
