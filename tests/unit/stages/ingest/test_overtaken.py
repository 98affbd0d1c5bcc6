"""A try that continues after the retry of its task has finished changes nothing and returns the result of the retry."""

from __future__ import annotations

import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.ingest import step
from tests.support.overtaking import call_of, suspend

WINDOW = "2013-04"


@pytest.mark.parametrize(
    ("place", "overtaken_after"), [(step, "_write"), (DatasetWriter, "end_files"), (step, "_summary")]
)
def test_a_suspended_try_keeps_the_dataset_and_the_result_of_its_retry(tmp_path, monkeypatch, place, overtaken_after):
    source, store = tmp_path / "a.csv", ArtifactStore(f"file://{tmp_path}/store")
    source.write_text("at,n\n2013-04-01,1\n")
    spec = {"name": "numbers", "files": [str(source)], "window": WINDOW, "time_column": "at"}
    result = suspend(
        monkeypatch,
        place,
        overtaken_after,
        call_of(store, "ingest", spec),
        before=lambda: source.write_text("at,n\n2013-04-01,1\n2013-04-02,2\n"),
    )
    (current,) = find_datasets(store, "numbers", Window.model_validate(WINDOW))
    assert current.manifest.id == result["dataset"]["id"]
    assert current.table()["n"].to_pylist() == [1, 2]
