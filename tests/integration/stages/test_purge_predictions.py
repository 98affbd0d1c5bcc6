"""Retention as a task of a DAG, and monitoring and lineage of purged predictions."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import pytest

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import DatasetPurgedError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import find_datasets
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.purge_predictions import step as purge_predictions
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.deployed import flights, promote, scoring_set, write

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlops.operators import PurgePredictionsOperator

with DAG("purge_{model}", default_args={{"model": "{model}"}}):
    PurgePredictionsOperator(task_id="purge", older_than={older_than})
"""


def score_and_join(store: ArtifactStore, model: str, month: str) -> None:
    data, context = flights(300), StepContext(store=store)
    made = score.run(ScoreSpec(model=model, dataset=scoring_set(store, data, month)), context).dataset
    spec = {
        "predictions": made, "labels": write(store, "flights", data.select(["flight", "arr_delay"]), month),
        "on": ["flight"], "label": {"name": "late", "expression": "arr_delay > 15"}, "name": f"{model}_outcomes",
    }  # fmt: skip
    join_labels.run(JoinLabelsSpec(**spec), context)


@pytest.mark.parametrize(
    ("older_than", "rows"), [("timedelta(days=90)", 600), ("'{{{{ params.days }}}}D', params={{'days': 2000}}", 0)]
)
def test_a_task_purges_old_predictions(older_than, rows, run_dag, client, tmp_path, capfd):
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    model = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}").model
    score_and_join(store, model, "2013-04")
    for name in (f"{model}_predictions", f"{model}_outcomes"):
        (key,) = store.keys(f"datasets/{name}/manifests")
        made = datetime.now(timezone.utc) - timedelta(days=1000)
        store.write_json(key, {**store.read_json(key), "created": made.isoformat()})
    run = run_dag(DAG.format(model=model, older_than=older_than.format()))
    assert run.states() == {"purge": "success"}
    assert run.xcom("purge")["rows"] == rows
    assert f"predictions of {model}" in capfd.readouterr().out
    assert len(store.find(f"datasets/{model}_predictions/files")) == (0 if rows else 1)


def test_monitoring_a_purged_window_fails_and_keeps_the_report(store, client, tmp_path):
    model = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}").model
    score_and_join(store, model, "2013-04")
    watched = MonitorSpec(model=model, dataset={"name": f"{model}_outcomes", "window": "2013-04"})
    monitor.run(watched, StepContext(store=store))
    report = store.read_bytes(f"reports/{model}/2013-04.json")
    spec = PurgePredictionsSpec(model=model, older_than="1D")
    purge_predictions.purge(spec, store, datetime.now(timezone.utc) + timedelta(days=2))
    with pytest.raises(DatasetPurgedError, match="2013-04 were deleted"):
        monitor.run(watched, StepContext(store=store))
    assert store.read_bytes(f"reports/{model}/2013-04.json") == report
    # Labels cannot be joined to purged predictions either.
    with pytest.raises(DatasetPurgedError, match="_predictions' .*2013-04 were deleted"):
        join_labels.run(
            JoinLabelsSpec(
                predictions={"name": f"{model}_predictions", "window": "2013-04"}, labels={"name": "flights"},
                on=["flight"], label="arr_delay", name=f"{model}_outcomes", on_missing="skip",
            ),
            StepContext(store=store),
        )  # fmt: skip
    (found,) = find_datasets(store, f"{model}_outcomes", Window.model_validate("2013-04"))
    assert found.manifest.purged
    assert PredictionLog(store, model).entries()[0].purged


def test_lineage_lists_the_purged_datasets(store):
    from airflow_mlops.lineage import lineage_of

    spec = PurgePredictionsSpec(model="delays", older_than="1D", outcomes="late").model_dump(mode="json")
    call = StepCall(step="purge_predictions", spec=spec, store=store.url, key="k", version="0")
    lineage = lineage_of(call, None)
    assert [item.name for item in lineage.outputs] == [
        f"{store.root}/datasets/{name}" for name in ("delays_predictions", "late")
    ]
