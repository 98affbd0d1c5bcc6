"""The gates of the example on real flights of 2013 refuse a model that was trained on the wrong three months."""

from __future__ import annotations

import importlib
import uuid
from pathlib import Path

import pytest

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.client import connect
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.ingest import step as ingest
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.trainers import SklearnTrainer

DAGS = Path(__file__).parents[3] / "dags"
TREES = SklearnTrainer(
    "sklearn.ensemble.HistGradientBoostingClassifier",
    params={"max_iter": 40, "learning_rate": 0.1, "max_leaf_nodes": 15},
)


@pytest.fixture
def example(monkeypatch):
    """The module that the example DAGs share: gates, label, columns, paths."""
    monkeypatch.syspath_prepend(DAGS)
    return importlib.import_module("flights")


@pytest.mark.slow
def test_training_on_all_months_replaces_an_old_model_and_on_three_months_does_not(
    example, mlflow_connection, tmp_path
):
    store, model = ArtifactStore(f"file://{tmp_path}/store"), f"flights_{uuid.uuid4().hex[:8]}"
    client = connect(MLflowTarget(), from_environment)

    def context():
        return StepContext(store, f"results/{uuid.uuid4().hex}.json")

    for window in ("2013-01..2013-03", "2013-04..2013-06", "2013-07..2013-09", "2013-10"):
        source = {"files": [f"zip://flights.csv::{example.DATA}/flights.csv.zip"], "null_values": ["NA"]}
        ingest.run(IngestSpec(name="flights", time_column="time_hour", window=window, **source), context())

    def learned_from(window, split):
        data = training_set.run(
            TrainingSetSpec(
                name="months",
                entities={"name": "flights", "window": window},
                timestamp="time_hour",
                label=example.LABEL,
                columns=example.SCHEDULE_COLUMNS,
                keys=example.KEYS,
                split=split,
            ),
            context(),
        ).dataset
        return data, train.run(TrainSpec(dataset=data, model=model, trainer=TREES), context()).candidate

    october = {"method": "time", "test_size": "31D"}
    held_out, all_months = learned_from("2013-01..2013-10", october)
    _, last_three = learned_from("2013-07..2013-10", october)
    _, first_three = learned_from("2013-01..2013-03", {"method": "hash", "test_size": 0.05})

    def decide(candidate):
        gates = [*example.GATES, {"max_single_feature_score": 0.99}]
        spec = EvaluateSpec(candidates=[candidate], dataset=held_out, gates=gates)
        verdict = evaluate.run(spec, context()).verdict
        return verdict, promote.run(PromoteSpec(verdict=verdict), context())

    verdict, decision = decide(first_three)
    assert decision.promoted, verdict.reason

    verdict, decision = decide(all_months)
    assert decision.promoted, verdict.reason
    assert models.champion(client, model) == all_months
    assert verdict.candidates[0].gates[2].low > 0

    verdict, decision = decide(last_three)
    assert not decision.promoted
    assert models.champion(client, model) == all_months
    (found,) = verdict.candidates
    assert [gate.gate for gate in found.gates if not gate.passed] == ["roc_auc better than the champion"]
    assert found.gates[2].high < 0
