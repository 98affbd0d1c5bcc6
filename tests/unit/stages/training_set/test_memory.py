"""The memory that a training set takes does not depend on the number of events."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data import row_identity, row_mask, sorting, spool
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates import single_features
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.training_set import files, splits, step
from airflow_mlops.stages.training_set.spec import TrainingSetSpec

BATCH = 4_096


@pytest.mark.parametrize(
    "split",
    [
        {"method": "time", "test_size": 0.3, "gap": "1h"},
        {"method": "random", "test_size": 0.3, "stratify": True},
    ],
    ids=lambda split: split["method"],
)
def test_four_times_as_many_events_need_no_more_arrays(tmp_path, monkeypatch, split):
    for module, name in (
        (spool, "BATCH_ROWS"),
        (splits, "BATCH_ROWS"),
        (row_identity, "_SLICE_ROWS"),
        (row_mask, "_BLOCK"),
        (sorting, "_ROWS_IN_MEMORY"),
        (single_features, "SAMPLE_ROWS"),
        (files, "ROW_GROUP_ROWS"),
    ):
        monkeypatch.setattr(module, name, BATCH)
    store = ArtifactStore(f"file://{tmp_path}")
    # The first run imports the libraries.
    _, few, many = (peak(store, rows, split) for rows in (10_000, 30_000, 120_000))
    # Six numbers for each event, such as times and ids and their orders, would take 4 MB more.
    assert many - few < 1_000_000


def peak(store: ArtifactStore, rows: int, split: dict) -> int:
    """Return the most bytes of NumPy and Python while a training set is built."""
    random = np.random.default_rng(0)
    columns = {
        "id": np.arange(rows),
        "user": random.integers(0, 1_000, rows),
        "at": pa.array(1_364_774_400_000_000 + np.arange(rows) * 1_000_000, pa.timestamp("us", "UTC")),
        "x": random.random(rows),
        "late": random.random(rows) < 0.1,
    }
    with DatasetWriter(store, "events") as writer:
        for start in range(0, rows, 10_000):
            writer.write(pa.table(columns).slice(start, 10_000))
            writer.end_files()
        entities = writer.commit(window=Window.model_validate("2013"))[0].ref
    spec = TrainingSetSpec(
        name="training",
        entities=entities,
        timestamp="at",
        columns=["x", "user"],
        keys=["id"],
        label="late",
        split=split,
    )
    tracemalloc.start()
    try:
        step.run(spec, StepContext(store))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
