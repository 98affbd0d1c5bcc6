"""Predictions with hashed and dropped columns: what is stored, how labels are joined, what monitoring reports."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import ConnectionNotFoundError, SchemaError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.deployed import flights, promote, scoring_set, write

KEY = "key-" + uuid.uuid4().hex


@pytest.fixture
def champion(client, store, tmp_path, monkeypatch):
    for name, key in (("KEYS", KEY), ("OTHER", "another-" + uuid.uuid4().hex), ("EMPTY", "")):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps({"conn_type": "generic", "password": key}))
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")


def do(store, champion, data, month="2013-04", **fields):
    spec = ScoreSpec(model=champion.model, dataset=scoring_set(store, data, month), **fields)
    return score.run(spec, StepContext(store=store)).dataset


def join(store, champion, predictions, data, on=("flight",), **fields):
    spec = {
        "predictions": predictions, "labels": write(store, "flights", data.select(["flight", "arr_delay"]), "2013-04"),
        "on": list(on), "label": {"name": "late", "expression": "arr_delay > 15"},
        "name": f"{champion.model}_outcomes", **fields,
    }  # fmt: skip
    return join_labels.run(JoinLabelsSpec(**spec), StepContext(store=store))


def test_labels_are_joined_on_hashed_keys_and_no_value_is_stored(store, champion):
    data = flights(seed=2)
    made = do(store, champion, data, hash_columns=["flight"], hash_conn_id="keys")
    plain = do(store, champion, data, "2013-05")
    dataset = open_dataset(store, made)
    assert dataset.schema.field("flight").type == pa.string()
    assert dataset.table()["score"].equals(open_dataset(store, plain).table()["score"])
    assert (dataset.manifest.details["hashed"], dataset.manifest.details["keys"]) == (["flight"], ["flight"])
    # The labels have another order and integer width, and some are missing.
    order = np.random.default_rng(0).permutation(data.num_rows)[:1_500]
    late = data.take(pa.array(order))
    late = late.set_column(0, "flight", late["flight"].cast(pa.int32()))
    result = join(store, champion, made, late, hash_conn_id="keys")
    expected = join(store, champion, plain, late)
    assert (result.labelled, expected.labelled) == (1_500, 1_500)
    assert (
        open_dataset(store, result.dataset)
        .table()["label"]
        .equals(open_dataset(store, expected.dataset).table()["label"])
    )
    # The key is not written to the store.
    for key in store.find("datasets"):
        assert KEY.encode() not in store.read_bytes(key)


def test_labels_cannot_be_joined_on_hashed_columns_without_the_key(store, champion):
    data = flights(50)
    made = do(store, champion, data, hash_columns=["flight"], hash_conn_id="keys")
    for fields, problem in (
        ({}, "'flight'.*hash_conn_id"),
        ({"hash_conn_id": "other"}, "key different from .*'other'"),
        ({"hash_conn_id": "empty"}, "'empty' has no password"),
    ):
        with pytest.raises(SpecError, match=problem):
            join(store, champion, made, data, **fields)
    do(store, champion, data, "2013-05")
    both = {"name": f"{champion.model}_predictions", "window": "2013-04..2013-05"}
    with pytest.raises(SchemaError, match="scoring hashed the column 'flight' in some windows"):
        join(store, champion, both, data, hash_conn_id="keys")
    dropped = do(store, champion, data, drop_columns=["flight"])
    assert open_dataset(store, dropped).manifest.details["keys"] == []
    with pytest.raises(SchemaError, match="'flight'.*drop_columns"):
        join(store, champion, dropped, data)


def test_nothing_is_scored_without_a_key_or_with_an_unknown_column(store, champion):
    data = flights(50)
    with pytest.raises(ConnectionNotFoundError, match="'nowhere'"):
        do(store, champion, data, hash_columns=["flight"], hash_conn_id="nowhere")
    with pytest.raises(SpecError, match="'empty' has no password"):
        do(store, champion, data, hash_columns=["flight"], hash_conn_id="empty")
    with pytest.raises(SchemaError, match="'fligth'"):
        do(store, champion, data, hash_columns=["fligth"], hash_conn_id="keys")
    assert not store.find(f"datasets/{champion.model}_predictions")


@pytest.mark.parametrize(
    ("fields", "fate"),
    [({"drop_columns": ["wind"]}, "dropped"), ({"hash_columns": ["wind"], "hash_conn_id": "keys"}, "hashed")],
)
def test_monitoring_reports_features_that_are_not_stored_and_measures_the_others(store, champion, fields, fate):
    data = flights(seed=2, shift=1.0)
    made = do(store, champion, data, **fields)
    joined = join(store, champion, made, data).dataset
    spec = MonitorSpec(model=champion.model, dataset=joined)
    result = monitor.run(spec, StepContext(store=store))
    assert (result.decision, result.most_drifted) == ("healthy", "distance")
    report = Report.model_validate(store.read_json(f"reports/{champion.model}/2013-04.json"))
    assert [drift.column for drift in report.features] == ["distance"]
    (note,) = [note for note in report.notes if "wind" in note and fate in note]
    assert note in store.read_bytes(f"reports/{champion.model}/2013-04.html").decode()
    assert report.performance is not None
    assert report.estimated is not None
    # The report contains the note even if there are no labels yet.
    monitor.run(MonitorSpec(model=champion.model, dataset=made), StepContext(store=store))
    report = Report.model_validate(store.read_json(f"reports/{champion.model}/2013-04.json"))
    assert (report.performance, report.notes) == (None, [note])


def test_predictions_without_their_event_time_have_no_timestamp_column(store, champion):
    made = do(store, champion, flights(50), drop_columns=["time_hour"])
    assert open_dataset(store, made).manifest.details["timestamp"] is None
    made = do(store, champion, flights(5).slice(0, 0), hash_columns=["time_hour"], hash_conn_id="keys")
    assert open_dataset(store, made).schema.field("time_hour").type == pa.string()


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import JoinLabelsOperator, ScoreOperator

with DAG("private_{model}", default_args={{"model": "{model}"}}):
    scored = ScoreOperator(
        task_id="score", dataset={{"name": "scoring_{model}", "window": "2013-04"}},
        hash_columns=["flight"], drop_columns=["wind"], hash_conn_id="keys", {place}
    )
    JoinLabelsOperator(
        task_id="join", predictions=scored.output, labels={{"name": "labels_{model}"}}, on=["flight"],
        label={{"name": "late", "expression": "arr_delay > 15"}}, hash_conn_id="keys", {place}
    )
"""


@pytest.mark.parametrize("process", [False, True])
def test_tasks_hash_with_the_key_of_a_connection_and_do_not_reveal_it(process, run_dag, client, tmp_path, capfd):
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    model = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}").model
    scoring_set(store, flights(100), "2013-04", f"scoring_{model}")
    write(store, f"labels_{model}", flights(100).select(["flight", "arr_delay"]), "2013-04")
    place = (
        "run_on=__import__('airflow_mlops.compute').compute.Process(__import__('sys').executable)" if process else ""
    )
    keys = json.dumps({"conn_type": "generic", "password": KEY})
    run = run_dag(DAG.format(model=model, place=place), connections={"keys": keys})
    assert run.states() == {"score": "success", "join": "success"}
    assert run.xcom("join")["coverage"] == 1.0
    output = capfd.readouterr().out + json.dumps([run.xcom("score"), run.xcom("join")])
    assert KEY not in output
    for key in store.find("results") + store.find("datasets"):
        assert KEY.encode() not in store.read_bytes(key)
