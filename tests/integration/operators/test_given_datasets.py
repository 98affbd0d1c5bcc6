"""Datasets are given to operators as the output of a mapped task, and by their name, in a real DAG run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore

SOURCE = """
from airflow.sdk import DAG
from airflow_mlops.operators import BuildTrainingSetOperator, IngestOperator, ProfileOperator

with DAG("given", schedule=None, default_args={{"store": {store!r}}}):
    months = IngestOperator.partial(task_id="months", name="rows").expand_kwargs(
        [{{"window": month, "files": f"{folder}/{{month}}.csv"}} for month in ("2013-01", "2013-02")]
    )
    everything = {{"name": "all", "timestamp": "at", "columns": ["x"], "split": None}}
    mapped = BuildTrainingSetOperator(task_id="mapped", entities=months.output, **everything)
    named = BuildTrainingSetOperator(
        task_id="named", entities={{"name": "rows", "window": "2013-01-15/2013-02-03"}}, **everything
    )
    gap = BuildTrainingSetOperator(task_id="gap", entities={{"name": "rows", "window": "2013-01..2013-03"}}, **everything)
    key = BuildTrainingSetOperator(
        task_id="key", entities={{"name": "rows", "window": "{{{{ partition_key }}}}"}}, retries=3, **everything
    )
    snapshot = IngestOperator(task_id="snapshot", name="customers", files="{folder}/2013-01.csv")
    profile = ProfileOperator(task_id="profile", dataset={{"name": "customers"}}, columns=["x"])
    each = ProfileOperator.partial(task_id="each", columns=["x"]).expand(dataset=months.output)
    months >> [named, gap, key]
    snapshot >> profile
"""


def test_mapped_outputs_and_names_are_datasets(run_dag, tmp_path):
    for month, days in ((1, 31), (2, 28)):
        rows = "".join(f"2013-{month:02}-{day:02}T12:00:00Z,{day}\n" for day in range(1, days + 1))
        (tmp_path / f"2013-{month:02}.csv").write_text(f"at,x\n{rows}")
    store = ArtifactStore(f"file://{tmp_path}/store")
    found = run_dag(SOURCE.format(store=store.url, folder=tmp_path))

    mapped = DatasetRef.model_validate(found.xcom("mapped")["dataset"])
    assert (mapped.rows, mapped.window.label) == (59, "2013-01-01T00:00:00Z/2013-03-01T00:00:00Z")
    assert len(open_dataset(store, mapped).manifest.parents) == 2
    # A part of each month, by the event time.
    named = DatasetRef.model_validate(found.xcom("named")["dataset"])
    assert (named.rows, named.window) == (19, Window.model_validate("2013-01-15/2013-02-03"))
    assert found.xcom("profile")["summary"].startswith("Profiled 31 rows")
    # One task instance for each dataset of a mapped task.
    for index, rows in enumerate((31, 28)):
        assert found.xcom("each", map_index=index)["summary"].startswith(f"Profiled {rows} rows")
    states = found.states()
    # A gap or a missing partition key fails the task without a retry.
    assert (states["gap"], states["key"]) == ("failed", "failed")


def test_a_mapped_output_inside_a_dictionary_is_a_list():
    from airflow.sdk import DAG

    from airflow_mlops.operators import MaterializeFeaturesOperator

    class Lazy(Sequence[Any]):
        def __getitem__(self, index):
            return [
                {"dataset": {"name": "rows", "id": "a", "rows": 1}},
                {"dataset": {"name": "rows", "id": "b", "rows": 1}},
            ][index]

        def __len__(self):
            return 2

    with DAG("lazy", schedule=None):
        task = MaterializeFeaturesOperator(task_id="x", repo="r", window="2013", sources={"s": Lazy()})
    spec = task.spec.model_validate(task.spec_fields())
    assert [item.id for item in spec.sources["s"].dataset] == ["a", "b"]
