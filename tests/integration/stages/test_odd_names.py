"""Columns of any name pass through the whole lifecycle, and names that predictions need are converted or refused at its start."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SchemaError, SpecError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.predictions.query import summary
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_sets
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from tests.support.deployed import write
from tests.support.odd_names import NUMBERS, TEXTS
from tests.support.training import flights, training_set

KEY, TIME, DELAY, LABEL = "tail no.", "scheduled (UTC)", "delay, `final` [min]", "is late?"
EXPRESSION = "`delay, ``final`` [min]` > 15"


@pytest.fixture
def context(store):
    return StepContext(store)


def rows(count: int = 1_500, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    numbers = {name: np.round(random.normal(size=count), 1) for name in NUMBERS}
    texts = {name: random.choice(["a", "b", "c"], count) for name in TEXTS}
    signal = 2 * numbers["arrival delay"] - numbers["weight [kg]"] + 2 * (texts["carrier code"] == "a")
    return pa.table(
        {
            KEY: np.arange(count),
            TIME: pa.array(np.full(count, 1_365_000_000_000_000), pa.timestamp("us", "UTC")),
            **numbers,
            **texts,
            DELAY: 15 + 10 * (signal + random.logistic(size=count)),
        }
    )


def build(context, entities, **fields):
    spec = {
        "name": "odd_rows", "entities": entities, "timestamp": TIME, "keys": [KEY], "columns": [*NUMBERS, *TEXTS],
        "label": {"name": LABEL, "expression": EXPRESSION}, "split": "random", **fields,
    }  # fmt: skip
    return training_sets.run(parse(TrainingSetSpec, spec, "The test"), context)


@pytest.mark.plots
def test_columns_of_any_name_pass_through_the_whole_lifecycle(client, store, context):
    model = f"odd_{uuid.uuid4().hex[:8]}"
    built = build(context, write(store, "raw", rows(), "2013-03"))
    assert open_dataset(store, built.dataset).table().column_names == [KEY, TIME, *NUMBERS, *TEXTS, LABEL]
    trainers = ["linear_model.LogisticRegression", "ensemble.HistGradientBoostingClassifier"]
    made = [
        train.run(
            TrainSpec(dataset=built.dataset, model=model, trainer={"estimator": f"sklearn.{trainer}"}), context
        ).candidate
        for trainer in trainers
    ]
    assert [candidate.version for candidate in made] == [1, 2]
    gates = [
        {"metric": "roc_auc", "min": 0.8},
        {"metric": "roc_auc", "slices": list(TEXTS[:2]), "not_worse_than_champion_by": 0.5, "discover": True},
        {"behaviour": "direction", "feature": "arrival delay", "direction": "increasing", "tolerance": 0.5},
        {"max_single_feature_score": 0.99},
    ]
    verdict = evaluate.run(EvaluateSpec(candidates=made, gates=gates), context).verdict
    assert verdict.winner is not None, verdict.reason
    assert promote.run(PromoteSpec(verdict=verdict), context).promoted

    later = rows(seed=1)
    scoring = build(context, write(store, "raw", later, "2013-04"), name="odd_scoring", label=None, split=None)
    scored = score.run(ScoreSpec(model=model, dataset=scoring.dataset), context)
    spec = {
        "predictions": scored.dataset, "labels": {"name": "raw", "window": "2013-04"}, "on": [KEY],
        "label": {"name": LABEL, "expression": EXPRESSION}, "name": f"{model}_outcomes",
    }  # fmt: skip
    joined = join_labels.run(JoinLabelsSpec(**spec), context)
    assert joined.coverage == 1
    found = open_dataset(store, joined.dataset).table()
    order = np.argsort(found[KEY].to_numpy())
    assert (found["label"].to_numpy()[order] == (later[DELAY].to_numpy() > 15)).all()
    watched = monitor.run(MonitorSpec(model=model, dataset=joined.dataset), context)
    assert watched.metrics["roc_auc"] == pytest.approx(
        verdict.for_candidate(verdict.winner).metrics["roc_auc"], abs=0.06
    )
    assert watched.metrics["features_drifted"] <= 3
    logged = summary(PredictionLog(store, model), f"{model}_outcomes")
    assert {item.feature for item in logged.features} == {*NUMBERS, *TEXTS}


OURS = ("score", "prediction", "label", "model_name", "model_version", "scored_at", "latency_ms", "label_at")


@pytest.mark.plots
def test_features_with_the_names_of_columns_of_predictions_pass_through_the_whole_lifecycle(client, store, context):
    model = f"ours_{uuid.uuid4().hex[:8]}"

    def events(count: int, seed: int) -> pa.Table:
        random = np.random.default_rng(seed)
        numbers = {name: random.normal(size=count) for name in OURS}
        return pa.table(
            {
                KEY: np.arange(count),
                TIME: pa.array(np.full(count, 1_365_000_000_000_000), pa.timestamp("us", "UTC")),
                **numbers,
                "late": (2 * numbers["score"] - numbers["label"] + random.logistic(size=count) > 0).astype(int),
            }
        )

    fields = {"columns": list(OURS), "label": "late", "split": {"method": "group", "group": "label"}}
    built = build(context, write(store, "raw", events(1_500, 5), "2013-03"), **fields)
    names = [f"event__{name}" for name in OURS]
    assert built.features == names
    trainer = {"estimator": "sklearn.linear_model.LogisticRegression"}
    made = train.run(TrainSpec(dataset=built.dataset, model=model, trainer=trainer), context).candidate
    gates = [{"metric": "roc_auc", "min": 0.8}]
    verdict = evaluate.run(EvaluateSpec(candidates=[made], gates=gates), context).verdict
    assert promote.run(PromoteSpec(verdict=verdict), context).promoted

    later = events(1_500, 1)
    scoring = build(
        context, write(store, "raw", later, "2013-04"), name="scoring", columns=list(OURS), label=None, split=None
    )
    scored = score.run(ScoreSpec(model=model, dataset=scoring.dataset), context)
    spec = {
        "predictions": scored.dataset, "labels": {"name": "raw", "window": "2013-04"}, "on": [KEY], "label": "late",
        "labels_timestamp": TIME, "name": f"{model}_outcomes",
    }  # fmt: skip
    joined = join_labels.run(JoinLabelsSpec(**spec), context)
    found = open_dataset(store, joined.dataset).table().sort_by(KEY)
    assert found["label"].to_pylist() == later["late"].to_pylist()
    assert found["event__label"].to_pylist() == later["label"].to_pylist()
    assert found["event__score"].to_pylist() == later["score"].to_pylist()
    assert 0 <= min(found["score"].to_pylist()) < max(found["score"].to_pylist()) <= 1
    watched = monitor.run(MonitorSpec(model=model, dataset=joined.dataset), context)
    assert watched.metrics["roc_auc"] == pytest.approx(
        verdict.for_candidate(verdict.winner).metrics["roc_auc"], abs=0.06
    )
    assert watched.metrics["features_drifted"] == 0
    logged = summary(PredictionLog(store, model), f"{model}_outcomes")
    assert {item.feature for item in logged.features} == set(names)


def test_a_watched_column_with_such_a_name_is_renamed(store, context):
    table = rows(50).append_column("scored_at", pa.array(np.arange(50), pa.timestamp("s", "UTC")))
    built = build(context, write(store, "raw", table, "2013-03"), columns=["dep"], watched=["scored_at"])
    assert "event__scored_at" in open_dataset(store, built.dataset).manifest.column_names


def test_two_columns_of_one_name_are_refused(store, context):
    table = (
        rows(50).append_column("score", pa.array(np.arange(50))).append_column("event__score", pa.array(np.arange(50)))
    )
    with pytest.raises(SchemaError, match="several columns 'event__score'"):
        build(context, write(store, "raw", table, "2013-03"), columns=["score", "event__score"])


@pytest.mark.parametrize("name", ["score", "label", "scored_at"])
def test_a_key_that_predictions_have_themselves_is_refused_before_training(name, store, context):
    entities = write(store, "raw", rows(50).append_column(name, pa.array(np.arange(50))), "2013-03")
    with pytest.raises(SpecError, match=rf"'{name}'.*`AS`"):
        build(context, entities, keys=[name], columns=["dep"])


def test_a_training_set_with_such_a_feature_is_refused(client, store, context):
    parts = [flights(300, seed=seed).append_column("score", pa.array(np.arange(300))) for seed in (1, 2)]
    dataset = training_set(store, *parts, features=["distance", "score"])
    spec = TrainSpec(dataset=dataset, model="odd", trainer={"estimator": "sklearn.linear_model.LogisticRegression"})
    with pytest.raises(TrainingError, match="'score'"):
        train.run(spec, context)
