"""Attributions with the predictions of trained models: their layout, privacy, shards, label joins and monitoring."""

from __future__ import annotations

import asyncio
import html
import json
import uuid
from typing import TYPE_CHECKING

import numpy as np
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.data.columns import ATTRIBUTION_COLUMNS
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry import versions
from airflow_mlops.registry.versions import download
from airflow_mlops.serving.sending.explanations import Explained, Explaining
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.attributions import sample
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.predictions.query import summary
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import LightGBMTrainer, SklearnTrainer
from tests.support.deployed import flights as simple_flights
from tests.support.deployed import promote, scoring_set, write
from tests.support.executors import LocalExecutors
from tests.support.training import FEATURES, flights, training_set

if TYPE_CHECKING:
    import pyarrow as pa

LINEAR = SklearnTrainer("sklearn.linear_model.LogisticRegression")
TREES = LightGBMTrainer({"num_threads": 1, "num_leaves": 8}, rounds=10)


def champion(client, store, trainer, **details) -> str:
    model = f"late_{uuid.uuid4().hex[:8]}"
    spec = TrainSpec(dataset=training_set(store, **details), model=model, trainer=trainer)
    made = train.run(spec, StepContext(store, uuid.uuid4().hex)).candidate
    client.set_registered_model_alias(model, "champion", str(made.version))
    return model


def do(store, model, data, month="2013-04", **fields):
    rows = write(store, f"rows_{model}", data.drop_columns(["late"]), month, {"keys": ["flight"], "timestamp": None})
    spec = ScoreSpec(model=model, dataset=rows, **{"explain": True, **fields})
    return score.run(spec, StepContext(store=store)).dataset


def explained_online(client, store, model, data) -> Explained:
    """The attributions that the online server returns for the same rows."""
    ref = versions.champion(client, model)
    served = Served.load(ref, download(client, ref), store, ServeSpec(model=model, store=store.url, log=False))
    # The numbers in JSON are the same, with or without a decimal point.
    rows = served.columns.rows(json.loads(json.dumps(data.select(FEATURES).to_pylist())))
    explaining = Explaining(60)
    try:
        return asyncio.run(explaining.explain(served, rows, served.predict(rows)))
    finally:
        explaining.stop()


def margins(table: pa.Table) -> np.ndarray:
    """Return the base plus the sum of the attributions of each row."""
    sums = [sum(item["value"] for item in row) for row in table["attributions"].to_pylist()]
    return table["attribution_base"].to_numpy() + np.array(sums)


@pytest.mark.parametrize("trainer", [LINEAR, TREES])
def test_predictions_have_attributions_that_labels_and_monitoring_leave_alone(trainer, client, store):
    model, data = champion(client, store, trainer), flights(400, seed=7)
    made = open_dataset(store, do(store, model, data))
    table = made.table()
    logit = np.log(table["score"].to_numpy() / (1 - table["score"].to_numpy()))
    assert np.abs(margins(table) - logit).max() < 1e-4
    assert made.manifest.details["attribution_scale"] == "log-odds of late = 1"
    method = made.manifest.details["attribution_method"]
    assert method == ("linear terms" if trainer is LINEAR else "tree Shapley values of lightgbm")
    online = explained_online(client, store, model, data)
    assert online.scale == "log-odds of late = 1"
    assert online.rows == table.select(ATTRIBUTION_COLUMNS).to_pylist()
    for row in table["attributions"].to_pylist():
        assert {item["feature"] for item in row} == set(FEATURES)
        sizes = [abs(item["value"]) for item in row]
        assert sizes == sorted(sizes, reverse=True)
    # A window without attributions is read together with one that has them.
    plain = open_dataset(store, do(store, model, data, "2013-05", explain=False))
    assert not {"attributions", "attribution_base"} & {*plain.manifest.column_names}
    for month in ("2013-04", "2013-05"):
        labels = write(store, f"labels_{model}", data.select(["flight", "late"]), month)
    both = JoinLabelsSpec(
        predictions={"name": made.manifest.name, "window": "2013-04..2013-05"},
        labels=labels, on=["flight"], label="late", name=f"{model}_outcomes",
    )  # fmt: skip
    joined = join_labels.run(both, StepContext(store=store)).dataset
    assert open_dataset(store, joined).table()["attributions"].null_count == plain.rows
    # The last predictions have no attributions, but the joined dataset still records how the other attributions were
    # computed.
    details = open_dataset(store, joined).manifest.details
    assert (details["attribution_scale"], details["attribution_method"]) == (online.scale, method)
    spec = MonitorSpec(model=model, dataset=joined, window="2013-04..2013-05")
    assert monitor.run(spec, StepContext(store=store)).summary
    (key,) = [name for name in store.find(f"reports/{model}") if name.endswith(".json")]
    report = Report.model_validate(store.read_json(key))
    assert report.performance is not None
    # The rows of the window without attributions are left out of the sample.
    assert report.attributions is not None
    assert report.attributions.effect is None
    assert "reference" in report.attributions.note
    assert "400 of 800 rows have attributions" in report.attributions.note
    counts = [item.rows for item in summary(PredictionLog(store, model), f"{model}_outcomes").how_many]
    assert counts == [400, 400]


def test_monitoring_compares_the_attributions_with_the_first_window_of_the_version(client, store, monkeypatch):
    model = champion(client, store, LINEAR)

    def check(month: str, seed: int, policy=None, **columns) -> Report:
        data = flights(400, seed=seed)
        for name, values in columns.items():
            data = data.set_column(data.column_names.index(name), name, [values(data[name].to_numpy())])
        spec = MonitorSpec(model=model, dataset=do(store, model, data, month), policy=policy or {})
        result = monitor.run(spec, StepContext(store=store))
        found = Report.model_validate(store.read_json(f"reports/{model}/{month}.json"))
        assert result.metrics.get("attribution_drift") == found.attributions.effect
        return found

    # The first window is the reference, however often it is checked.
    for _ in range(2):
        first = check("2013-04", 7).attributions
        assert (first.effect, first.drifted) == (None, False)
    (stored,) = store.find(f"attributions/{model}")
    assert stored.endswith("/1.npz")
    alike = check("2013-05", 8)
    assert (alike.attributions.reference, alike.attributions.drifted) == ("2013-04", False)
    assert sum(item.current for item in alike.attributions.bins) == pytest.approx(1)
    shares = {item.label: item.reference for item in alike.attributions.bins}
    less = min("distance", "hour", key=lambda name: shares[name])
    moved = check("2013-06", 9, **{less: lambda values: values * 30})
    assert moved.attributions.drifted
    assert f"largest change: {less}" in moved.attributions.note
    # Labels are unknown, so a person should look.
    assert moved.verdict.decision == "watch"
    assert any(detail.startswith("Attributions drifted against 2013-04") for detail in moved.verdict.details)
    page = store.read_bytes(f"reports/{model}/2013-06.html").decode()
    assert "<h2>Attributions</h2>" in page
    assert "NDCG" in page
    # A sample of clusters is not compared with a sample of rows. The window becomes the new reference.
    replaced = check("2013-07", 10, {"groups": "flight"})
    assert replaced.attributions.effect is None
    (note,) = [note for note in replaced.notes if "attributions" in note]
    assert note.startswith("2013-07 replaces 2013-04")
    assert note in html.unescape(store.read_bytes(f"reports/{model}/2013-07.html").decode())
    assert check("2013-08", 11, {"groups": "flight"}).attributions.reference == "2013-07"
    # A sample that is smaller than `min_rows` is enough if the window is not.
    monkeypatch.setattr(sample, "UNITS", 100)
    assert check("2013-09", 12, {"min_rows": 300}).attributions.effect is None
    assert check("2013-10", 13, {"min_rows": 300}).attributions.reference == "2013-09"


def test_hashed_and_dropped_features_have_no_attribution(client, store, monkeypatch):
    key = json.dumps({"conn_type": "generic", "password": "key-" + uuid.uuid4().hex})
    monkeypatch.setenv("AIRFLOW_CONN_KEYS", key)
    model = champion(client, store, LINEAR)
    private = {"hash_columns": ["carrier"], "drop_columns": ["hour"], "hash_conn_id": "keys"}
    data = flights(50, seed=7)
    full, kept = (open_dataset(store, do(store, model, data, **fields)).table() for fields in ({}, private))
    for row, all_of_row in zip(kept["attributions"].to_pylist(), full["attributions"].to_pylist(), strict=True):
        assert row == [item for item in all_of_row if item["feature"] not in ("carrier", "hour")]


def test_shards_executors_and_windows_without_rows_have_the_columns(client, store):
    model, data = champion(client, store, LINEAR), flights(3_000, seed=7)
    one = open_dataset(store, do(store, model, data)).table()
    rows = write(
        store, f"rows_{model}", data.drop_columns(["late"]), "2013-04", {"keys": ["flight"], "timestamp": None}
    )
    for shard in range(2):
        spec = ScoreSpec(model=model, dataset=rows, explain=True, shard=shard, shards=2, name="in_shards")
        task = Provenance(dag_id="d", run_id="r", task_id="score", map_index=shard)
        last = score.run(spec, StepContext(store=store, key=f"key-{shard}", provenance=task))
    assert open_dataset(store, last.dataset).table()["attributions"].equals(one["attributions"])
    spec = ScoreSpec(model=model, dataset=rows, explain=True, name="on_executors")
    parts = score.run(spec, StepContext(store=store, executors=LocalExecutors(store.url)))
    assert open_dataset(store, parts.dataset).table()["attributions"].equals(one["attributions"])
    empty = open_dataset(store, do(store, model, data.slice(0, 0), "2013-05"))
    assert empty.rows == 0
    assert empty.schema.field("attributions").type == one.schema.field("attributions").type


def test_versions_without_exact_attributions_are_refused_before_anything_is_written(client, store, tmp_path):
    ref = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")
    spec = ScoreSpec(model=ref.model, dataset=scoring_set(store, simple_flights(20), "2013-04"), explain=True)
    with pytest.raises(ModelFormatError, match="LightGBM"):
        score.run(spec, StepContext(store=store))
    assert not store.find(f"datasets/{ref.model}_predictions")
