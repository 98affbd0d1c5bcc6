"""Columns of any name pass through the whole lifecycle, and names that predictions need are refused at its start."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.prediction_log import PredictionLog
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
        "label": {"name": LABEL, "expression": EXPRESSION}, **fields,
    }  # fmt: skip
    return training_sets.run(parse(TrainingSetSpec, spec, "The test"), context)


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


@pytest.mark.parametrize("role", ["columns", "keys", "watched"])
@pytest.mark.parametrize("name", ["score", "prediction", "label", "label_at", "model_version", "scored_at"])
def test_a_column_that_predictions_have_themselves_is_refused_before_training(name, role, store, context):
    entities = write(store, "raw", rows(50).append_column(name, pa.array(np.arange(50))), "2013-03")
    with pytest.raises(SpecError, match=rf"'{name}'.*`AS`"):
        build(context, entities, **{role: [name]}, **({} if role == "columns" else {"columns": ["dep"]}))


def test_a_training_set_with_such_a_feature_is_refused(client, store, context):
    parts = [flights(300, seed=seed).append_column("score", pa.array(np.arange(300))) for seed in (1, 2)]
    dataset = training_set(store, *parts, features=["distance", "score"])
    spec = TrainSpec(dataset=dataset, model="odd", trainer={"estimator": "sklearn.linear_model.LogisticRegression"})
    with pytest.raises(TrainingError, match="'score'"):
        train.run(spec, context)
