"""A try that continues after the retry of its task has finished changes nothing and returns the result of the retry."""

from __future__ import annotations

import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import find_datasets
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.ingest import step
from airflow_mlops.stages.runner import run_call

WINDOW = "2013-04"


@pytest.mark.parametrize("overtaken_after", ["_write", "_summary"])
def test_a_suspended_try_keeps_the_dataset_and_the_result_of_its_retry(tmp_path, monkeypatch, overtaken_after):
    source, store = tmp_path / "a.csv", ArtifactStore(f"file://{tmp_path}/store")
    source.write_text("at,n\n2013-04-01,1\n")
    call = StepCall(
        step="ingest",
        spec={"name": "numbers", "files": [str(source)], "window": WINDOW, "time_column": "at"},
        store=store.url,
        key="results/d/r/t/0/0.json",
        version=__version__,
        provenance=Provenance(dag_id="d", run_id="r", task_id="t"),
    )
    real, retried = getattr(step, overtaken_after), []

    def overtaken(*arguments):
        answer = real(*arguments)
        monkeypatch.setattr(step, overtaken_after, real)
        source.write_text("at,n\n2013-04-01,1\n2013-04-02,2\n")
        retried.append(run_call(call))
        return answer

    monkeypatch.setattr(step, overtaken_after, overtaken)
    assert run_call(call) == retried[0] == run_call(call)
    (current,) = find_datasets(store, "numbers", Window.model_validate(WINDOW))
    assert current.manifest.id == retried[0]["dataset"]["id"]
    assert current.table()["n"].to_pylist() == [1, 2]
