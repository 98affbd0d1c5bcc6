"""A mapped ScoreOperator in Airflow: one dataset for the tasks downstream, and one event."""

from __future__ import annotations

import uuid

from airflow_mlops.data.prediction_log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from tests.support.deployed import flights, promote, scoring_set, write

DAG = """
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import JoinLabelsOperator, MonitorOperator, ScoreOperator

with DAG("score_shards_{model}", default_args={{"model": "{model}"}}):
    scored = ScoreOperator.partial(
        task_id="score", dataset={{"name": "scoring_{model}", "window": "2013-04"}}, shards=3,
        outlets=[Asset("mlops://{model}/predictions")],
    ).expand(shard=list(range(3)))
    JoinLabelsOperator(
        task_id="join_labels", predictions=scored.output, labels={{"name": "flights_{model}"}},
        on=["flight"], label={{"name": "late", "expression": "arr_delay > 15"}},
    )
    MonitorOperator(task_id="monitor", dataset=scored.output)
"""


def test_the_shards_of_a_mapped_task_are_one_dataset_downstream(run_dag, client, tmp_path):
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    model = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}").model
    data = flights(2_100)
    scoring_set(store, data, "2013-04", f"scoring_{model}")
    write(store, f"flights_{model}", data.select(["flight", "arr_delay"]), "2013-04")
    done = run_dag(DAG.format(model=model))
    assert set(done.states().values()) == {"success"}
    results = [done.xcom("score", map_index=number) for number in range(3)]
    (dataset,) = [result["dataset"] for result in results if result["dataset"]]
    assert [entry.id for entry in PredictionLog(store, model).entries()] == [dataset["id"]]
    assert dataset["rows"] == 2_100 == sum(result["usage"]["rows"] for result in results)
    assert ", shard 0 of 3, with" in results[0]["summary"]
    assert results[0]["summary"].endswith("; the last shard writes the dataset.")
    assert done.xcom("join_labels")["dataset"]["rows"] == 2_100
    with create_session() as session:
        events = select(func.count()).select_from(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        assert session.scalar(events.where(AssetModel.uri == f"mlops://{model}/predictions")) == 1
