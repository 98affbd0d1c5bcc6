"""Shards of a scoring with a real registry: tables, shadow versions, and one dataset for the tasks downstream.

The labels are joined in shards as well.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing

import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import TableError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score import scoring
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreResult, ScoreSpec
from tests.support.deployed import flights, promote, scoring_set, write

DAG = """
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import JoinLabelsOperator, MonitorOperator, ScoreOperator

with DAG("score_shards_{model}", default_args={{"model": "{model}"}}):
    scored = ScoreOperator.partial(
        task_id="score", dataset={{"name": "scoring_{model}", "window": "2013-04"}}, shards=3,
        outlets=[Asset("mlops://{model}/predictions")],
    ).expand(shard=list(range(3)))
    joined = JoinLabelsOperator.partial(
        task_id="join_labels", predictions=scored.output, labels={{"name": "flights_{model}"}},
        on=["flight"], label={{"name": "late", "expression": "arr_delay > 15"}}, shards=2,
        outlets=[Asset("mlops://{model}/outcomes")],
    ).expand(shard=[0, 1])
    MonitorOperator(task_id="monitor", dataset=joined.output)
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
    # Airflow runs mapped tasks in any order.
    assert sum("Wrote the 2,100 rows" in result["summary"] for result in results) == 1
    assert sum("; the last shard writes the dataset." in result["summary"] for result in results) == 2
    results = [done.xcom("join_labels", map_index=number) for number in range(2)]
    (outcomes,) = [result["dataset"] for result in results if result["dataset"]]
    assert outcomes["rows"] == 2_100 == sum(result["usage"]["rows"] for result in results)
    assert sum("; the last shard writes the dataset." in result["summary"] for result in results) == 1
    with create_session() as session:
        events = select(func.count()).select_from(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        for asset in ("predictions", "outcomes"):
            assert session.scalar(events.where(AssetModel.uri == f"mlops://{model}/{asset}")) == 1


@pytest.fixture
def model(client, store, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_ROWS", 7)
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}").model


def shard(store: ArtifactStore, model: str, dataset: object, number: int, series: str = "1", **fields) -> ScoreResult:
    """Run one of two shards. ``series`` are the tries since the shard was cleared last."""
    place = Provenance(dag_id="dag", run_id="run", task_id="score", map_index=number)
    context = StepContext(store, f"results/dag/run/score/{number}/{series}.json", provenance=place)
    return score.run(ScoreSpec(model=model, dataset=dataset, shard=number, shards=2, **fields), context)


def test_only_the_shard_that_writes_the_dataset_writes_the_table(store, model, tmp_path, monkeypatch):
    file = tmp_path / "bi.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE predictions (unrelated INTEGER NOT NULL)")
    monkeypatch.setenv("AIRFLOW_CONN_BI", json.dumps({"conn_type": "sqlite", "host": str(file)}))
    rows = scoring_set(store, flights(20), "2013-04")
    target = {"conn_id": "bi", "table": "predictions"}
    assert shard(store, model, rows, 1, write_to=target).written_to is None
    with pytest.raises(TableError):
        shard(store, model, rows, 0, write_to=target)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DROP TABLE predictions")
    # The retry neither scores again nor writes another dataset.
    (entry,) = PredictionLog(store, model).entries()
    monkeypatch.setattr(score, "load_champion", lambda *_, **__: pytest.fail("scored again"))
    done = shard(store, model, rows, 0, write_to=target)
    assert (done.dataset.id, done.written_to.rows) == (entry.id, 20)
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute("SELECT flight, dataset_id FROM predictions ORDER BY flight").fetchall()
    assert found == [(number, entry.id) for number in range(20)]


def test_shadow_predictions_are_one_dataset_of_their_own(store, model):
    rows = scoring_set(store, flights(20), "2013-04")
    assert shard(store, model, rows, 0, version=1).dataset is None
    done = shard(store, model, rows, 1, version=1)
    assert (done.dataset.name, done.dataset.rows) == (f"{model}_shadow_predictions", 20)
    assert open_dataset(store, done.dataset).manifest.details["shadow"] is True
    assert not PredictionLog(store, model).history()


def test_without_a_champion_all_shards_are_skipped_although_one_is_promoted_meanwhile(store, client, tmp_path):
    model = f"delays_{uuid.uuid4().hex[:8]}"
    rows = scoring_set(store, flights(20), "2013-04")
    with pytest.raises(score.RegistryError, match="has no champion yet"):
        shard(store, model, rows, 0)
    for number in range(2):
        done = shard(store, model, rows, number, on_missing="skip")
        assert (done.dataset, done.scored_by) == (None, None)
        assert done.summary.startswith("No rows were scored.")
        promote(client, tmp_path, store, model)


def test_a_shard_that_runs_while_the_others_are_cleared_scores_again(store, model, client, tmp_path, monkeypatch):
    rows = scoring_set(store, flights(20), "2013-04")
    shard(store, model, rows, 0)
    load = score.load_champion

    def clear_the_other(*args, **options):
        monkeypatch.setattr(score, "load_champion", load)
        promote(client, tmp_path, store, model)
        assert shard(store, model, rows, 0, series="2").scored_by.version == 2
        return load(*args, **options)

    monkeypatch.setattr(score, "load_champion", clear_the_other)
    done = shard(store, model, rows, 1)
    assert (done.scored_by.version, done.dataset.rows) == (2, 20)
    (entry,) = PredictionLog(store, model).entries()
    assert entry.id == done.dataset.id
