"""The version whose training a window of predictions is compared with."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.references import DatasetSelection, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.selection import select
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import training_reference
from airflow_mlops.policy.spec import Policy
from airflow_mlops.registry import versions
from airflow_mlops.stages.monitor.check import Check
from tests.support.deployed import write

FIRST = datetime(2013, 4, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("2013-04-01", (2, 1)),
        ("2013-04-01..2013-04-05", (2, 5)),
        ("2013-04-06..2013-04-10", (3, 5)),
        ("2013-04-04..2013-04-07", (3, 2)),
        ("2013-04", (3, 5)),
    ],
)
def test_a_part_of_a_dataset_is_compared_with_the_training_of_the_version_that_predicted_it(
    tmp_path, monkeypatch, window, expected
):
    store = ArtifactStore(f"file://{tmp_path}/store")
    rows = pa.table(
        {
            "at": pa.array([FIRST + timedelta(days=day) for day in range(10)], pa.timestamp("us", "UTC")),
            "model_version": [2] * 5 + [3] * 5,
        }
    )
    # Labels were joined to the predictions of a month in which version 3 replaced version 2.
    details = {"model": "m", "model_version": 3, "model_versions": {"2": 5, "3": 5}, "timestamp": "at", "labelled": 10}
    write(store, "outcomes", rows, "2013-04", details)
    datasets = select(store, DatasetSelection(name="outcomes", window=window))
    check = Check("m", Window.model_validate(window), FIRST + timedelta(days=60), Policy(), datasets, store)
    latest = check.of_each_version()[-1]
    monkeypatch.setattr(
        versions, "version", lambda client, model, number: ModelVersionRef(model=model, version=number, run_id="")
    )
    champion = ModelVersionRef(model="m", version=4, run_id="r")
    found = training_reference.version_of(latest.datasets, champion, None, latest.latest_version)
    assert (found.version, latest.rows) == expected
    # ProfileOperator profiles the columns of the same version.
    assert training_reference.version_of(datasets, champion, None) == found
