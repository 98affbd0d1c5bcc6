"""A custom metric by import path, and an expected cost, through training, search, evaluation and monitoring."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import MetricError, SpecError, TrainingError
from airflow_mlops.core.imports import source_hash
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.operators import EvaluateOperator, TrainOperator
from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.reproduce import step as reproduce
from airflow_mlops.stages.reproduce.spec import ReproduceSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import Int, Search, SklearnTrainer
from tests.support import own_metrics
from tests.support.deployed import write
from tests.support.training import flights, training_set

OWN = "tests.support.own_metrics"
COST, BRIER = f"{OWN}:cost", f"{OWN}:negative_brier"
EXPECTED = {"metric": "expected_cost", "false_positive": 1, "false_negative": 5}
EXPECTED_COST = "expected_cost_fp1_fn5"
TREE = "sklearn.tree.DecisionTreeClassifier"


@pytest.fixture
def model():
    return f"late_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def learn(client, store, model):
    dataset = training_set(store, flights(2_000, seed=1), flights(1_500, seed=2))

    def learn(trainer, **fields):
        spec = TrainSpec(dataset=dataset, model=model, trainer=trainer, **fields)
        provenance = Provenance(dag_id="d", task_id="t")
        return train.run(spec, StepContext(store, uuid.uuid4().hex, provenance=provenance))

    return learn


def tree(depth):
    return SklearnTrainer(TREE, params={"max_depth": depth, "min_samples_leaf": 20})


def test_training_logs_the_metric_and_the_hash_of_its_source(client, store, learn, tmp_path):
    made = learn(tree(3), metrics=[COST, BRIER, EXPECTED])
    assert made.metrics[EXPECTED_COST] == pytest.approx(made.metrics[COST])
    assert made.metrics[BRIER] == pytest.approx(-made.metrics["brier"])
    run = client.get_run(made.run_id)
    assert run.data.metrics[COST] == made.metrics[COST] > 0
    assert run.data.metrics[EXPECTED_COST] == made.metrics[EXPECTED_COST]
    code = json.loads(Path(client.download_artifacts(made.run_id, "code.json", str(tmp_path))).read_text())
    assert code[COST] == source_hash(own_metrics.cost)
    spec = ReproduceSpec(model=made.candidate.model, version=made.candidate.version)
    with pytest.raises(SpecError, match=COST):
        reproduce.run(spec, StepContext(store, uuid.uuid4().hex))
    again = reproduce.run(spec.model_copy(update={"allow_code": True}), StepContext(store, uuid.uuid4().hex))
    assert again.reproduced, again.summary
    assert {f"metric {COST}", f"metric {EXPECTED_COST}"} <= {item.what for item in again.comparisons}


def test_a_wrong_path_and_a_failing_metric_are_final_errors(learn):
    with pytest.raises(SpecError, match="no_such"):
        learn(tree(2), metrics=[f"{OWN}:no_such"])
    with pytest.raises(MetricError, match="own_metrics:broken.*KeyError"):
        learn(tree(2), metrics=[f"{OWN}:broken"])
    with pytest.raises(SpecError, match="metrics.0: 'roc_auc' is not the import path"):
        parse(TrainSpec, {"dataset": {}, "model": "m", "trainer": tree(2), "metrics": ["roc_auc"]}, "Task 'train'")


def test_a_search_minimizes_or_maximizes_the_metric(client, learn):
    space = {"max_depth": Int(1, 6)}
    trainer = SklearnTrainer(TREE, params={"min_samples_leaf": 20})
    for declared, metric, up in ((BRIER, BRIER, True), (COST, COST, False), (EXPECTED, EXPECTED_COST, None)):
        search = Search(trainer, space, trials=5, folds=3, metric=declared, greater_is_better=up, pruner=None)
        made = learn(search, calibration="sigmoid")
        # The trials are not calibrated, but the model that is trained with the best parameters is.
        params = client.get_run(made.run_id).data.params
        assert int(params["calibration_rows"]) + int(params["train_rows"]) == 2_000
        assert "(about 20% of them for the calibration)" in made.summary
        run = client.get_run(client.get_run(made.run_id).data.tags["mlops.search"])
        trials = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
        values = [trial.data.metrics[metric] for trial in trials]
        assert len(set(values)) > 1
        assert run.data.metrics[metric] == (max if up else min)(values)
    with pytest.raises(SpecError, match="greater_is_better"):
        Search(trainer, space, trials=5, metric=COST)


def test_gates_and_the_choice_of_the_winner(client, store, learn, tmp_path):
    deep, stump = learn(tree(6)).candidate, learn(tree(1)).candidate
    context = StepContext(store, uuid.uuid4().hex)
    own = {"metric": COST, "greater_is_better": False}
    gates = [
        {**own, "max": 2.0},
        {**own, "max": 2.0, "confidence": 0.95},
        {**own, "better_than_baseline_by": 0.0},
        {**own, "better_than_champion_by": 0.0},
        {**own, "slices": ["carrier"], "not_worse_than_champion_by": 0.5},
        {**EXPECTED, "max": 2.0, "confidence": 0.95},
        {**EXPECTED, "better_than_champion_by": 0.0},
    ]
    verdict = evaluate.run(EvaluateSpec(candidates=[deep, stump], gates=gates, **own), context).verdict
    costs = {item.candidate: item.metrics[COST] for item in verdict.candidates}
    assert costs[deep] < costs[stump]
    assert (verdict.winner, verdict.metric) == (deep, COST)
    assert verdict.baseline_metrics[COST] > costs[deep]
    assert all(item.metrics[EXPECTED_COST] == pytest.approx(item.metrics[COST]) for item in verdict.candidates)
    assert verdict.metric_code == {COST: source_hash(own_metrics.cost)}
    card = Path(client.download_artifacts(deep.run_id, "evaluation/model_card.md", str(tmp_path))).read_text()
    assert f"{costs[deep]:.4g}" in next(line for line in card.splitlines() if line.startswith("| tests.support.own"))

    client.set_registered_model_alias(deep.model, "champion", str(deep.version))
    verdict = evaluate.run(EvaluateSpec(candidates=[stump], gates=gates, **own), context).verdict
    assert verdict.winner is None
    results = {item.gate: item for item in verdict.candidates[0].gates}
    compared = [item for name, item in results.items() if "better than the champion" in name]
    assert len(compared) == 2
    for paired in compared:
        assert not paired.passed
        assert paired.improvement == pytest.approx(costs[deep] - costs[stump])
        assert paired.low < paired.improvement < paired.high
    sliced = next(item for name, item in results.items() if "slices" in name)
    assert {item.name for item in sliced.slices} >= {"carrier = AA", "carrier missing"}
    assert all(item.candidate is not None for item in sliced.slices)
    # With the opposite direction of the metric, the worse model wins.
    turned = {"metric": COST, "greater_is_better": True}
    verdict = evaluate.run(
        EvaluateSpec(candidates=[stump], gates=[{**turned, "better_than_champion_by": 0.0}], **turned), context
    ).verdict
    assert verdict.candidates[0].gates[0].passed


def test_mistakes_are_found_when_the_dag_is_parsed():
    for arguments, fact in (
        ({"metric": COST}, "greater_is_better"),
        ({"metric": "accuracy", "greater_is_better": True}, "greater_is_better"),
        ({"metric": "a b:c", "greater_is_better": True}, "package.module:function"),
        ({"gates": [{"metric": COST, "min": 1}]}, "Gate 1 .*greater_is_better"),
        ({"metric": {"metric": "expected_cost", "false_positive": 1}}, "must name both errors"),
        ({"metric": "expected_cost"}, "has no costs"),
        ({"gates": [{"metric": "expected_cost", "max": 1}]}, "Gate 1 .*must name both errors"),
    ):
        with pytest.raises(SpecError, match=fact):
            EvaluateOperator(task_id="evaluate", candidates=[], **arguments)
    with pytest.raises(SpecError, match="threshold of task 'train' .*did you mean 'maximise'"):
        TrainOperator(task_id="train", dataset={}, model="m", trainer=tree(2), threshold={"maximize": "f1"})
    TrainOperator(task_id="train", dataset={}, model="m", trainer=tree(2), threshold="{{ params.threshold }}")
    with pytest.raises(SpecError, match="calibration of task 'train' .*did you mean 'isotonic'"):
        TrainOperator(task_id="train", dataset={}, model="m", trainer=tree(2), calibration="isotonik")
    made = TrainOperator(
        task_id="train", dataset={}, model="m", trainer=tree(2), calibration="{{ params.calibration }}"
    )
    assert made.calibration == "{{ params.calibration }}"
    with pytest.raises(SpecError, match="policy: .*greater_is_better"):
        parse(MonitorSpec, {"model": "m", "policy": {"metric": COST}}, "Task 'monitor'")


def test_a_failing_metric_ends_an_evaluation_before_anything_is_logged(client, store, learn):
    made = learn(tree(2)).candidate
    gates = [{"metric": f"{OWN}:broken", "greater_is_better": True, "min": 0}]
    with pytest.raises(MetricError, match="own_metrics:broken.*KeyError"):
        evaluate.run(EvaluateSpec(candidates=[made], gates=gates), StepContext(store, uuid.uuid4().hex))
    assert "mlops.verdict" not in client.get_run(made.run_id).data.tags


@pytest.fixture
def labelled(client, store, learn, model):
    """``labelled(window, wrong)``: predictions of a champion with labels, a share ``wrong`` of which is flipped."""
    champion = learn(tree(6), metrics=[COST, EXPECTED]).candidate
    client.set_registered_model_alias(model, "champion", str(champion.version))
    reference = client.get_run(champion.run_id).data.metrics[COST]

    def labelled(window, wrong):
        data, context = flights(2_000, seed=7), StepContext(store=store)
        flipped = np.random.default_rng(0).random(2_000) < wrong
        late = pa.array(data["late"].to_numpy(zero_copy_only=False) ^ flipped)
        details = {"keys": ["flight"], "timestamp": None, "label": None}
        dataset = write(store, f"scoring_{model}", data.drop_columns(["late"]), window, details)
        made = score.run(ScoreSpec(model=model, dataset=dataset), context).dataset
        truth = write(store, f"truth_{model}", pa.table({"flight": data["flight"], "late": late}), window)
        spec = {"predictions": made, "labels": truth, "on": ["flight"], "label": "late", "name": f"{model}_outcomes"}
        return join_labels.run(JoinLabelsSpec(**spec), context).dataset

    return labelled, reference


def test_monitoring_judges_by_the_metric(store, model, labelled):
    outcomes, reference = labelled
    policy = {"metric": COST, "greater_is_better": False, "tolerance": 0.3}

    def watch(dataset):
        spec = MonitorSpec(model=model, dataset=dataset, policy=policy)
        return monitor.run(spec, StepContext(store=store)), dataset

    healthy, dataset = watch(outcomes("2013-04", 0.0))
    table = open_dataset(store, dataset).table(None, ["prediction", "label"])
    truth, predicted = (table[name].to_numpy(zero_copy_only=False).astype(int) for name in ("label", "prediction"))
    assert healthy.metrics[COST] == pytest.approx(own_metrics.cost(truth, predicted))
    assert healthy.metrics[f"{COST}_low"] < healthy.metrics[COST] < healthy.metrics[f"{COST}_high"]
    assert healthy.metrics[f"{COST}_reference"] == pytest.approx(reference)
    assert healthy.decision != "retrain", healthy.reason
    report = Report.model_validate(store.read_json(f"reports/{model}/2013-04.json"))
    assert (report.performance.metric, report.performance.higher_is_better) == (COST, False)
    assert report.estimated is None
    assert any("needs labels" in note for note in report.notes)

    expected = monitor.run(
        MonitorSpec(model=model, dataset=dataset, policy={**EXPECTED, "tolerance": 0.3}), StepContext(store=store)
    )
    assert expected.metrics[EXPECTED_COST] == pytest.approx(healthy.metrics[COST])
    assert expected.metrics[f"{EXPECTED_COST}_reference"] == pytest.approx(reference)
    assert expected.metrics[f"estimated_{EXPECTED_COST}"] > 0
    assert expected.decision != "retrain", expected.reason
    report = Report.model_validate(store.read_json(f"reports/{model}/2013-04.json"))
    assert (report.loss.metric, report.performance.higher_is_better) == (EXPECTED_COST, False)

    worse, _ = watch(outcomes("2013-05", 0.4))
    assert worse.metrics[f"{COST}_low"] > reference * 1.3
    assert worse.decision == "retrain"
    assert worse.metric == COST
    assert "cost" in worse.reason.lower()


def test_a_metric_that_was_not_measured_at_training_is_not_judged(store, model, labelled):
    outcomes, _ = labelled
    policy = {"metric": BRIER, "greater_is_better": True}
    spec = MonitorSpec(model=model, dataset=outcomes("2013-04", 0.0), policy=policy)
    monitor.run(spec, StepContext(store=store))
    report = Report.model_validate(store.read_json(f"reports/{model}/2013-04.json"))
    assert f"{BRIER} was not measured at training" in report.unmeasured


def test_a_linear_model_of_counts_is_measured_by_no_deviance_and_does_not_win(client, store, model, caplog):
    def counted(seed):
        table = flights(500, "regression", seed=seed)
        return table.set_column(6, "late", pa.array(np.round(np.exp(table["late"].to_numpy() / 2))))

    dataset, deviance = training_set(store, counted(1), counted(2), task="regression"), "poisson_deviance"
    tweedie = {"metric": "tweedie_deviance", "power": 1.5}

    def learn(estimator, **fields):
        trainer = fields.pop("trainer", None) or SklearnTrainer(f"sklearn.{estimator}")
        spec = TrainSpec(dataset=dataset, model=model, trainer=trainer, metrics=[deviance, tweedie], **fields)
        return train.run(spec, StepContext(store, uuid.uuid4().hex, provenance=Provenance(dag_id="d", task_id="t")))

    with caplog.at_level("INFO"):
        linear = learn("linear_model.LinearRegression")
    assert {*linear.metrics} == {"rmse", "mae", "r2"}
    assert "poisson_deviance was not measured, because" in caplog.text
    assert "predictions of LinearRegression are not above 0 (" in caplog.text
    poisson = learn("linear_model.PoissonRegressor")
    assert client.get_run(poisson.run_id).data.metrics["tweedie_deviance_p1.5"] > 0
    gates = [{"metric": deviance, "better_than_baseline_by": 0.0}, {**tweedie, "max": 9, "confidence": 0.95}]
    spec = EvaluateSpec(candidates=[linear.candidate, poisson.candidate], gates=gates, metric=deviance)
    verdict = evaluate.run(spec, StepContext(store, uuid.uuid4().hex)).verdict
    assert (verdict.winner, verdict.metric) == (poisson.candidate, deviance)
    unmeasured, winner = verdict.candidates
    assert winner.metrics[deviance] == pytest.approx(poisson.metrics[deviance], rel=1e-12)
    assert not any(gate.passed for gate in unmeasured.gates if "deviance" in gate.gate)
    # A trial without a value fails, so a search cannot choose it.
    search = Search(
        SklearnTrainer("sklearn.linear_model.Ridge"), {"alpha": Int(1, 2)}, trials=1, folds=2, metric=deviance
    )
    with pytest.raises(TrainingError, match="poisson_deviance is undefined, because .* predictions are not above 0"):
        learn("", trainer=search)
