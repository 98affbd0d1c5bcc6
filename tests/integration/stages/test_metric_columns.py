"""Costs in a column, and groups of a ranking, from training through gates and scoring to monitoring, with a real MLflow."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import ndcg_score

from airflow_mlops.core.errors import MetricColumnError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import Int, Search, SklearnTrainer
from tests.support.deployed import write
from tests.support.training import FEATURES, flights, training_set

COST = {"metric": "expected_cost", "false_positive": 1, "false_negative": "amount"}
NAME = "expected_cost_fp1_fn-amount"
TREE = SklearnTrainer("sklearn.tree.DecisionTreeClassifier", params={"max_depth": 4, "min_samples_leaf": 20})


def with_amounts(rows: int, seed: int, **values) -> pa.Table:
    amount = np.random.default_rng(seed).lognormal(1, 1, rows)
    return flights(rows, seed=seed).append_column("amount", values.get("amount", pa.array(amount)))


def mean_cost(rows: pa.Table, model: OnnxModel) -> float:
    predicted = np.asarray(model.predict(rows).prediction, dtype=bool)
    late, amount = rows["late"].to_numpy(), rows["amount"].to_numpy()
    return float((1.0 * (predicted & ~late) + amount * (late & ~predicted)).mean())


def test_costs_in_a_column_from_the_search_to_monitoring(client, store, tmp_path):
    dataset, model = training_set(store, with_amounts(900, 1), with_amounts(400, 2)), f"late_{uuid.uuid4().hex[:8]}"

    def context():
        return StepContext(store, f"results/{uuid.uuid4().hex}.json")

    def fit(**fields):
        spec = TrainSpec(**{"dataset": dataset, "model": model, "trainer": TREE, "metrics": [COST], **fields})
        return train.run(spec, context())

    plain = fit()
    trees = SklearnTrainer("sklearn.tree.DecisionTreeClassifier", params={"min_samples_leaf": 20})
    search = Search(trees, {"max_depth": Int(1, 4)}, trials=2, folds=2, metric=COST, pruner=None)
    made = fit(trainer=search, threshold={"cost": {"false_positive": 1, "false_negative": "amount"}})
    found = OnnxModel.load(download(client, made.candidate))
    test = open_dataset(store, dataset).table("test")
    assert made.metrics[NAME] == pytest.approx(mean_cost(test, found))
    assert found.contract.threshold < 0.5
    assert "column 'amount'" in found.contract.threshold_choice.rule
    # The threshold that was chosen by the costs is better than 0.5.
    assert made.metrics[NAME] < plain.metrics[NAME]

    gates = [
        {**COST, "max": 2.0, "confidence": 0.95},
        {**COST, "better_than_champion_by": 0.0},
        {**COST, "slices": ["carrier"], "not_worse_than_champion_by": 0.5},
    ]
    spec = EvaluateSpec(candidates=[plain.candidate, made.candidate], gates=gates[:1], metric=COST)
    verdict = evaluate.run(spec, context()).verdict
    assert (verdict.winner, verdict.metric) == (made.candidate, NAME)
    assert verdict.baseline_metrics[NAME] == pytest.approx((~test["late"].to_numpy()).mean())
    gate = verdict.candidates[1].gates[0]
    assert gate.low < gate.measured < gate.high
    assert gate.measured == pytest.approx(made.metrics[NAME])
    card = Path(client.download_artifacts(made.run_id, "evaluation/model_card.md", str(tmp_path))).read_text()
    assert f"{made.metrics[NAME]:.4g}" in next(line for line in card.splitlines() if NAME in line)
    client.set_registered_model_alias(model, "champion", str(plain.candidate.version))
    compared = evaluate.run(EvaluateSpec(candidates=[made.candidate], gates=gates, metric=COST), context()).verdict
    assert compared.champion_metrics[NAME] == pytest.approx(plain.metrics[NAME])

    client.set_registered_model_alias(model, "champion", str(made.candidate.version))
    rows, details = with_amounts(400, 3), {"keys": ["flight"], "timestamp": None, "features": FEATURES}

    def report(scored):
        name = uuid.uuid4().hex[:8]
        window, labels = write(store, f"s{name}", scored, "2024-05", details), write(store, f"l{name}", rows, "2024-05")
        predictions = score.run(ScoreSpec(model=model, dataset=window, name=f"p{name}"), context()).dataset
        joined = JoinLabelsSpec(predictions=predictions, labels=labels, on=["flight"], label="late", name=f"o{name}")
        outcomes = join_labels.run(joined, context()).dataset
        policy = {**COST, "probe": None, "min_labels": 100, "max": 3.0}
        monitor.run(MonitorSpec(model=model, dataset=outcomes, policy=policy), context())
        return Report.model_validate(store.read_json(f"reports/{model}/2024-05.json"))

    unlabelled = rows.drop_columns(["late"])
    seen = report(unlabelled)
    realised = seen.performance
    assert realised.value == pytest.approx(mean_cost(rows, found))
    assert realised.low < realised.value < realised.high
    assert realised.reference == pytest.approx(made.metrics[NAME])
    assert realised.reference_low < realised.reference < realised.reference_high
    assert "estimates support only costs that are numbers" in " ".join(seen.notes)
    without = report(unlabelled.drop_columns(["amount"]))
    assert without.performance is None
    assert "the predictions do not have column 'amount'" in without.unmeasured
    gaps = pa.array([None, -1.0, *rows["amount"].to_pylist()[2:]])
    broken = report(unlabelled.drop_columns(["amount"]).append_column("amount", gaps))
    assert broken.performance is None
    assert "column 'amount', which the metric needs, is null in 1 row and negative in 1 row" in broken.unmeasured

    # A training without valid costs fails before the fit.
    holes = training_set(store, with_amounts(100, 1), with_amounts(100, 2, amount=pa.array([None] * 99 + [1.0])))
    with pytest.raises(MetricColumnError, match="null in 99 rows"):
        fit(dataset=holes)


def test_a_ranking_from_training_to_monitoring(client, store):
    name, metric = "ndcg_k3_by-query", {"metric": "ndcg", "k": 3, "group": "query"}
    model = f"relevance_{uuid.uuid4().hex[:8]}"

    def queries(rows: int, seed: int) -> pa.Table:
        table = flights(rows, "regression", seed)
        # Relevance from 0 to 4, by queries of ten rows.
        relevance = np.clip(np.round(table["late"].to_numpy() + 1), 0, 4)
        table = table.set_column(table.schema.get_field_index("late"), "late", pa.array(relevance))
        return table.append_column("query", pa.array([f"q{number // 10}" for number in range(rows)]))

    def by_hand(rows: pa.Table, value: np.ndarray) -> float:
        gain, query = np.exp2(rows["late"].to_numpy()) - 1, np.array(rows["query"].to_pylist())
        each = [(query == one) for one in np.unique(query)]
        return float(np.mean([ndcg_score([gain[one]], [value[one]], k=3) for one in each if gain[one].any()]))

    def context():
        return StepContext(store, f"results/{uuid.uuid4().hex}.json")

    dataset = training_set(store, queries(900, 1), queries(400, 2), task="regression")
    trees = SklearnTrainer("sklearn.tree.DecisionTreeRegressor", params={"max_depth": 4, "min_samples_leaf": 20})
    spec = TrainSpec(dataset=dataset, model=model, trainer=trees, metrics=[metric])
    made = train.run(spec, context())
    found = OnnxModel.load(download(client, made.candidate))
    test = open_dataset(store, dataset).table("test")
    assert made.metrics[name] == pytest.approx(by_hand(test, found.predict(test).score))
    gates = [{**metric, "min": 0.1, "confidence": 0.95}, {**metric, "better_than_baseline_by": 0.05}]
    verdict = evaluate.run(EvaluateSpec(candidates=[made.candidate], gates=gates, metric=metric), context()).verdict
    assert verdict.winner == made.candidate
    assert verdict.baseline_metrics[name] < made.metrics[name]

    client.set_registered_model_alias(model, "champion", str(made.candidate.version))
    rows, details = queries(400, 3), {"keys": ["flight"], "timestamp": None, "features": FEATURES}
    window, labels = (
        write(store, "asked", rows.drop_columns(["late"]), "2024-05", details),
        write(store, "clicked", rows),
    )
    predictions = score.run(ScoreSpec(model=model, dataset=window, name="ranked"), context()).dataset
    joined = JoinLabelsSpec(predictions=predictions, labels=labels, on=["flight"], label="late", name="judged")
    outcomes = join_labels.run(joined, context()).dataset
    policy = {**metric, "probe": None, "min_labels": 100}
    monitor.run(MonitorSpec(model=model, dataset=outcomes, policy=policy), context())
    seen = Report.model_validate(store.read_json(f"reports/{model}/2024-05.json"))
    assert seen.performance.value == pytest.approx(by_hand(rows, found.predict(rows).score))
    assert seen.performance.low < seen.performance.value < seen.performance.high
    assert seen.performance.reference == pytest.approx(made.metrics[name])
