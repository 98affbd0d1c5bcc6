"""Watched columns that are not features - event time, text, timestamps, embeddings - from training to the verdict."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.models import contracts
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.policy.findings import Report
from airflow_mlops.profiles.profile import ModelProfile
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_sets
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from tests.support.columns import HOURS, embeddings, texts, times

WATCHED = ["body", "updated", "embedding"]
SEEN = ["opened", *WATCHED]


def tickets(rows: int, seed: int, first: str, days: int, **columns) -> pa.Table:
    """Support tickets: ``escalated`` depends on ``wait``."""
    random = np.random.default_rng(seed)
    wait = random.normal(size=rows)
    opened = times(random, rows, first, days)
    known = {
        "ticket": np.arange(rows),
        "opened": opened,
        "wait": wait,
        "priority": random.choice(["low", "high"], rows),
        "escalated": wait + random.logistic(size=rows) > 0,
        # Categories and codes are not watched.
        "agent": random.choice(["Ada L", "Bob M"], rows),
        "code": [uuid.UUID(int=int(number)).hex for number in random.integers(0, 2**62, rows)],
        "body": texts(random, rows),
        "updated": opened.cast(pa.date32()),
        "embedding": embeddings(random, rows, dimension=16),
    }
    return pa.table({**known, **columns})


def build(store, data: pa.Table, window: str, training: bool, watched=(*WATCHED, "agent", "code")):
    with DatasetWriter(store, "tickets") as writer:
        writer.write(data)
        made = writer.commit(window=Window.model_validate(window))[0].ref
    spec = {
        "name": "tickets_training" if training else "tickets_scoring",
        "entities": made, "timestamp": "opened", "columns": ["wait", "priority"], "keys": ["ticket"],
        "watched": list(watched), "label": "escalated" if training else None, "split": "random" if training else None,
    }  # fmt: skip
    return training_sets.run(TrainingSetSpec(**spec), StepContext(store=store)).dataset


@pytest.fixture
def model(client, store):
    """A champion that TrainOperator made of the tickets of the first quarter."""
    name = f"tickets_{uuid.uuid4().hex[:8]}"
    dataset = build(store, tickets(4_000, 1, "2013-01-01", 90), "2013-01..2013-03", training=True)
    spec = TrainSpec(dataset=dataset, model=name, trainer={"estimator": "sklearn.linear_model.LogisticRegression"})
    made = train.run(spec, StepContext(store, uuid.uuid4().hex)).candidate
    client.set_registered_model_alias(name, "champion", str(made.version))
    return made


def watch(store, model, data: pa.Table, window: str = "2013-04", **options) -> Report:
    context = StepContext(store=store)
    dataset = build(store, data, window, training=False, **options)
    made = score.run(ScoreSpec(model=model.model, dataset=dataset, allow_pyfunc=True), context).dataset
    monitor.run(MonitorSpec(model=model.model, dataset=made), context)
    return Report.model_validate(store.read_json(f"reports/{model.model}/{window}.json"))


def test_event_time_text_timestamps_and_embeddings_are_watched(client, store, model):
    folder = download(client, model)
    assert sorted(OnnxModel.load(folder).contract.watched) == sorted(SEEN)
    known = ModelProfile.model_validate_json((folder / "mlops/profile.json").read_bytes())
    assert {name: column.kind for name, column in known.watched.columns.items()} == {
        "opened": "timestamp", "body": "text", "updated": "date", "embedding": "embedding",
    }  # fmt: skip
    assert set(known.features.columns) == {"wait", "priority"}
    assert known.watched.columns["opened"].max.startswith("2013-03-31T")

    report = watch(store, model, tickets(1_500, 2, "2013-04-01", 30))
    assert {drift.column for drift in report.watched} == set(SEEN)
    assert {drift.column for drift in report.features} == {"wait", "priority"}
    assert not any(drift.drifted for drift in (*report.watched, *report.features))
    # Two features, their joint distribution, the score, and the four watched columns.
    assert report.drift_tests.columns == 8
    columns = [column.name for column in open_dataset(store, report.datasets[0]).manifest.columns]
    assert {*SEEN, "ticket", "wait", "priority"} <= set(columns)
    assert not {"agent", "code", "escalated"} & set(columns)


def test_drift_of_a_watched_column_is_reported_and_marked_on_the_page(store, model):
    data = tickets(1_500, 6, "2013-04-01", 30)
    body = [f"{value} refund" if number % 8 == 0 else value for number, value in enumerate(data["body"].to_pylist())]
    random = np.random.default_rng(3)
    changed = {
        "body": body,
        "opened": times(random, 1_500, "2013-04-01", 30, hours=np.roll(HOURS, 3)),
        "embedding": embeddings(random, 1_500, dimension=16, shift=1),
    }
    report = watch(store, model, tickets(1_500, 6, "2013-04-01", 30, **changed))
    assert report.verdict.decision == "watch"
    assert "Drifted watched columns (not features), with effects: " in report.verdict.reason
    assert " (words like “refund” are in 12." in report.verdict.reason
    assert "feature drifted" not in report.verdict.reason
    assert {drift.column: drift.test.split(" ")[0] for drift in report.watched if drift.drifted} == {
        "body": "words", "opened": "hour", "embedding": report.watched[0].test.split(" ")[0],
    }  # fmt: skip
    page = store.read_bytes(f"reports/{model.model}/2013-04.html").decode()
    assert page.count("not a feature") == 4
    for shown in ("“refund”", "17:00", "Monday", "length "):
        assert shown in page


def test_a_missing_or_changed_watched_column_is_noted_and_fails_nothing(store, model):
    data = tickets(500, 4, "2013-04-01", 30)
    other = data.set_column(data.schema.get_field_index("embedding"), "embedding", pa.array([[1, 2]] * 500))
    report = watch(store, model, other, watched=["updated", "embedding"])
    notes = {drift.column: drift.note for drift in report.watched}
    assert notes == {
        "opened": None,
        "updated": None,
        "body": "not measured: the column is absent",
        "embedding": "not measured: it was embedding at training and is list<element: int64> now",
    }
    assert not any(drift.drifted for drift in report.watched)
    assert "not measured: the column is absent" in store.read_bytes(f"reports/{model.model}/2013-04.html").decode()
    emptied = watch(store, model, tickets(500, 5, "2013-05-01", 30, body=pa.nulls(500, pa.string())), "2013-05")
    assert [(drift.column, drift.note) for drift in emptied.watched if drift.drifted] == [
        ("body", "no row has a value")
    ]


def test_a_foreign_model_has_the_watched_columns_of_its_evaluation(client, store):
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    name, data = f"tickets_{uuid.uuid4().hex[:8]}", tickets(4_000, 1, "2013-01-01", 90)
    seen = data.select(["wait"]).to_pandas()
    fitted = LogisticRegression().fit(seen, data["escalated"].to_numpy())
    signature = mlflow.models.infer_signature(seen, np.array([True]))
    logged = mlflow.sklearn.log_model(
        fitted, name="model", registered_model_name=name, signature=signature, pip_requirements=["mlflow"]
    )
    candidate = {"model": name, "version": int(logged.registered_model_version)}
    dataset = build(store, data, "2013-01..2013-03", training=True)
    spec = EvaluateSpec(
        candidates=[candidate], dataset=dataset, gates=[{"metric": "accuracy", "min": 0.6}], allow_pyfunc=True
    )
    evaluate.run(spec, StepContext(store, uuid.uuid4().hex))
    client.set_registered_model_alias(name, "champion", logged.registered_model_version)
    found = models.champion(client, name)
    assert sorted(contracts.read(client, store, found).contract.watched) == sorted(SEEN)
    report = watch(
        store,
        found,
        tickets(800, 2, "2013-04-01", 30, embedding=embeddings(np.random.default_rng(2), 800, 16, shift=1)),
    )
    assert {drift.column: drift.drifted for drift in report.watched} == dict.fromkeys(SEEN, False) | {"embedding": True}
