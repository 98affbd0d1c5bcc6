"""Candidates and the champion are measured on the same rows by a real MLflow's models, and judged by gates."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from airflow_mlops.core.errors import EvaluationError, SchemaError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.models import contracts
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import candidates as evaluate_candidates
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.measurement import importance
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from tests.support.candidates import held_out, register, training_set

GOOD, WEAK, USELESS, NOT_A_NUMBER = (2, 0), (1, 2), (0, 0), (float("nan"), 0)


@pytest.fixture
def context(tmp_path):
    return StepContext(store=ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def model():
    """A registered model of this test alone."""
    return f"delays_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make(client, context, model, tmp_path):
    """``make(dataset, weights)`` registers one more version."""

    def make(dataset, weights, **options):
        folder = tmp_path / uuid.uuid4().hex
        return register(client, folder, dataset, weights, **{"model": model, **options})

    return make


def judge(context, *candidates, **options):
    return evaluate.run(EvaluateSpec(candidates=list(candidates), **options), context)


def test_the_best_candidate_wins_and_metrics_are_those_of_the_held_out_part(context, make):
    dataset = training_set(context.store)
    weak, good = make(dataset, WEAK), make(dataset, GOOD)
    result = judge(context, weak, good)
    verdict = result.verdict
    assert verdict.winner == good
    assert result.run_id == good.run_id
    table = open_dataset(context.store, dataset).table("test")
    expected = roc_auc_score(table["label"].to_numpy(), table["distance"].to_numpy())
    assert verdict.for_candidate(good).metrics["roc_auc"] == pytest.approx(expected, abs=1e-6)
    assert verdict.for_candidate(weak).metrics["roc_auc"] < expected
    assert verdict.baseline_metrics["roc_auc"] == 0.5
    assert verdict.champion is None
    assert [gate.explanation for gate in verdict.for_candidate(good).gates][1] == "There is no champion yet."
    assert "no champion yet" in verdict.policy
    assert verdict.for_candidate(good).reason == f"Passed every gate with roc_auc {expected:.4g}."
    reason = verdict.for_candidate(weak).reason
    assert f"roc_auc {verdict.for_candidate(weak).metrics['roc_auc']:.4g}" in reason
    assert f"{good} is better ({expected:.4g})" in reason
    assert "Evaluated 2 candidates on 1,000 held-out rows of delays_training. " in result.summary
    assert f"{good} passed every gate with roc_auc {expected:.4g} (no champion yet)." in result.summary


def test_the_champion_is_measured_on_the_same_rows(client, context, make):
    dataset = training_set(context.store)
    champion, worse = make(dataset, GOOD), make(dataset, WEAK)
    client.set_registered_model_alias(champion.model, "champion", str(champion.version))
    verdict = judge(context, worse, dataset=dataset).verdict
    assert verdict.champion == champion
    assert verdict.champion_metrics["roc_auc"] > verdict.for_candidate(worse).metrics["roc_auc"]
    assert verdict.winner is None
    assert not verdict.for_candidate(worse).passed
    assert "required: above 0)" in verdict.reason
    # If the champion is also a candidate, it is neither better nor worse than itself.
    again = judge(context, champion, worse).verdict
    assert again.winner is None
    assert again.for_candidate(champion).gates[1].improvement == 0
    gates = [{"metric": "roc_auc", "better_than_champion_by": -0.001}]
    assert judge(context, champion, worse, gates=gates).verdict.winner == champion


def test_a_version_remembers_from_how_many_models_it_was_selected(client, context, make):
    dataset = training_set(context.store)
    champion, weak, good = make(dataset, (2, 1)), make(dataset, WEAK), make(dataset, GOOD)

    def compared(ref) -> int:
        return contracts.read(client, context.store, ref).compared

    assert compared(good) == 1
    judge(context, weak, good)
    assert (compared(weak), compared(good)) == (2, 2)
    client.set_registered_model_alias(champion.model, "champion", str(champion.version))
    judge(context, champion, weak, good)
    # The candidates are three new versions and the champion. The recorded facts about the champion do not change.
    assert (compared(champion), compared(weak), compared(good)) == (1, 4, 4)
    # An evaluation on other rows does not select by the metrics at training, so the number of compared models stays.
    other = training_set(context.store, name="other")
    judge(context, good, dataset=other)
    assert compared(good) == 4


def test_a_candidate_that_fails_a_gate_cannot_win(context, make):
    dataset = training_set(context.store)
    good = make(dataset, GOOD)
    gates = [{"metric": "roc_auc", "min": 0.6}, {"metric": "log_loss", "max": 0.01}]
    result = judge(context, good, gates=gates)
    assert result.verdict.winner is None
    # Two gates are added to the declared gates: not worse than the champion, and better than a simple model.
    assert [gate.passed for gate in result.verdict.for_candidate(good).gates] == [True, False, True, True]
    assert result.verdict.reason.startswith(f"No candidate passed every gate: v{good.version}: log_loss")
    assert result.run_id == good.run_id


def test_a_candidate_that_cannot_be_trained_again_fails_the_gate_and_not_the_task(context, make):
    dataset = training_set(context.store)
    good = make(dataset, GOOD)
    verdict = judge(context, good, gates=[{"reproducible": True}]).verdict
    assert verdict.winner is None
    for fact in (f"{good} cannot be reproduced", good.run_id, "training.json"):
        assert fact in verdict.reason


def test_a_candidate_that_beats_no_baseline_is_refused_whatever_gates_are_declared(context, make):
    dataset = training_set(context.store)
    useless = make(dataset, USELESS)
    verdict = judge(context, useless, gates=[{"metric": "accuracy", "min": 0.1}]).verdict
    tree = verdict.tree_metrics["roc_auc"]
    assert 0.7 < tree < 0.9
    assert verdict.winner is None
    reason = verdict.for_candidate(useless).reason
    assert reason.startswith("Failed: roc_auc 0.5 is not better than baseline (0.5)")
    assert f"a decision tree of depth 3 ({tree:.4g})" in reason
    # Without rows to fit a tree to, the other baseline remains.
    only = training_set(context.store, name="only", test=held_out(), parts=("test",))
    verdict = judge(context, make(only, USELESS), gates=[{"metric": "accuracy", "min": 0.1}]).verdict
    assert (verdict.winner, verdict.tree_metrics) == (None, {})


@pytest.mark.plots
def test_every_kind_of_gate_judges_a_registered_model(client, context, make, tmp_path):
    dataset = training_set(context.store)
    champion, good = make(dataset, (2, 1)), make(dataset, GOOD)
    client.set_registered_model_alias(champion.model, "champion", str(champion.version))
    gates = [
        {"metric": "average_precision", "better_than_champion_by": 0.0},
        {"metric": "log_loss", "slices": ["distance", "wind"], "not_worse_than_champion_by": 0.05, "discover": True},
        {"metric": "ece", "max": 0.1, "confidence": 0.9},
        {"behaviour": "direction", "feature": "distance", "direction": "increasing"},
        {"behaviour": "invariance", "feature": "wind"},
        {"fairness": "equalized_odds", "sensitive": "wind", "max_difference": 0.2},
        {"max_latency_ms": 1_000, "rows": 10},
        {"max_size_mb": 1},
    ]
    verdict = judge(context, good, gates=gates).verdict
    assert verdict.winner == good, verdict.reason
    assert "champion v1" in verdict.policy
    found = verdict.for_candidate(good).gates
    assert sum(item.rows for item in found[1].slices if "discovered" not in item.name) == 2_000
    file = client.download_artifacts(good.run_id, "evaluation/verdict.json", str(tmp_path))
    with open(file) as kept:
        assert json.load(kept)["candidates"][0]["gates"][1]["slices"] == [
            item.model_dump(mode="json") for item in found[1].slices
        ]
    # If the roles are exchanged, each gate that forbids the use of the wind refuses the model that uses it.
    client.set_registered_model_alias(champion.model, "champion", str(good.version))
    refused = judge(context, champion, gates=gates).verdict.for_candidate(champion)
    assert [item.passed for item in refused.gates] == [False, False, True, True, False, False, True, True, True]


def test_a_gate_that_does_not_suit_the_task_is_an_error(context, make):
    dataset = training_set(context.store, "regression")
    good = make(dataset, GOOD, task="regression")
    declared = {"fairness": "equalized_odds", "sensitive": "wind", "max_difference": 0.2}
    with pytest.raises(SpecError, match="applies to binary tasks, but the ML task is regression"):
        judge(context, good, gates=[declared])


def test_all_models_are_measured_for_the_same_positive_class(client, context, make):
    dataset = training_set(context.store)
    other, good = make(dataset, GOOD, positive=False), make(dataset, GOOD)
    client.set_registered_model_alias(other.model, "champion", str(other.version))
    verdict = judge(context, good).verdict
    # The two models differ only in their positive class.
    assert verdict.champion_metrics == pytest.approx(verdict.candidates[0].metrics)
    assert verdict.winner is None
    assert verdict.policy is None or "could not be measured" not in verdict.policy
    both = judge(context, good, other).verdict
    assert both.candidates[0].metrics == pytest.approx(both.candidates[1].metrics)


def test_of_candidates_that_differ_by_at_most_one_standard_error_the_first_in_the_list_wins(context, make):
    dataset = training_set(context.store)
    # The second feature is noise, and a weight close to 0 hardly changes the order of the rows.
    one, other = make(dataset, GOOD), make(dataset, (2, 0.001))
    first, second = judge(context, one, other).verdict, judge(context, other, one).verdict
    assert (first.winner, second.winner) == (one, other)
    value = {ref: first.for_candidate(ref).metrics["roc_auc"] for ref in (one, other)}
    better = max(value, key=value.__getitem__)
    assert value[one] != value[other]
    # Only a verdict whose winner does not have the best value mentions the better candidate.
    for verdict in (first, second):
        assert ("standard error" in verdict.reason) == (verdict.winner != better)


def test_the_metric_that_decides_can_be_chosen(context, make):
    dataset = training_set(context.store)
    # With doubled weights, the order of the scores is the same, but the probabilities are overconfident.
    sure, honest = make(dataset, (4, 0)), make(dataset, GOOD)
    assert judge(context, sure, honest).verdict.winner == sure
    assert judge(context, sure, honest, metric="log_loss").verdict.winner == honest


@pytest.mark.parametrize(
    ("task", "plots"),
    [
        ("binary", {"roc", "precision_recall", "calibration", "confusion", "importance"}),
        ("multiclass", {"roc", "confusion", "importance"}),
        ("regression", {"residuals", "importance"}),
    ],
)
@pytest.mark.plots
def test_verdict_plots_and_tags_are_in_each_candidates_run(task, plots, client, context, make, tmp_path):
    dataset = training_set(context.store, task)
    good, useless = make(dataset, GOOD, task=task), make(dataset, USELESS, task=task)
    result = judge(context, good, useless)
    assert result.verdict.winner == good
    assert result.reports == [f"runs:/{good.run_id}/evaluation", f"runs:/{useless.run_id}/evaluation"]
    for candidate, outcome in ((good, "won"), (useless, "failed")):
        names = {
            item.path.removeprefix("evaluation/") for item in client.list_artifacts(candidate.run_id, "evaluation")
        }
        assert names == {"verdict.json", "model_card.md", "model_card.html", *(f"{plot}.png" for plot in plots)}
        tags = client.get_run(candidate.run_id).data.tags
        assert tags["mlops.verdict"] == outcome
        assert tags["mlops.evaluated_on"] == dataset.id
    file = client.download_artifacts(useless.run_id, "evaluation/verdict.json", str(tmp_path))
    with open(file) as kept:
        assert json.load(kept) == result.verdict.model_dump(mode="json")


def test_the_importance_of_a_useful_feature_is_above_that_of_noise(context, client, make):
    dataset = training_set(context.store)
    good = make(dataset, GOOD)
    folder = download(client, good)
    part = evaluate_candidates.split_part(EvaluateSpec(candidates=[good]), {good: folder}, context)
    data = evaluate_candidates.held_out(part)
    candidate = evaluate_candidates.load(folder, good, data, allow_pyfunc=False)
    found = importance(candidate, data, find_metric("roc_auc"))
    assert found["distance"] > 0.2
    assert found["wind"] == 0


def test_a_champion_that_cannot_be_loaded_leads_to_a_refusal_and_not_to_an_error(client, context, make, tmp_path):
    dataset = training_set(context.store)
    broken, good = make(dataset, GOOD), make(dataset, GOOD)
    run = client.get_run(broken.run_id)
    (tmp_path / "MLmodel").write_text("{}")
    other = client.create_run(run.info.experiment_id)
    client.log_artifact(other.info.run_id, str(tmp_path / "MLmodel"), "model")
    made = client.create_model_version(broken.model, f"{other.info.artifact_uri}/model", other.info.run_id)
    client.set_registered_model_alias(broken.model, "champion", made.version)
    verdict = judge(context, good).verdict
    assert verdict.winner is None
    assert verdict.champion.version == int(made.version)
    assert verdict.champion_metrics == {}
    assert f"The champion {verdict.champion} could not be measured" in verdict.reason
    # Without a gate on the champion, a worse candidate is still refused, unless a gate ignores the champion.
    bound = {"metric": "roc_auc", "min": 0.6}
    assert judge(context, good, gates=[bound]).verdict.winner is None
    alone = judge(context, good, gates=[bound, {"champion": "ignore"}]).verdict
    assert alone.winner == good
    assert alone.reason.endswith("(champion v3 could not be measured).")


def test_a_worse_model_replaces_the_champion_only_if_a_gate_allows_it(client, context, make):
    dataset = training_set(context.store)
    champion, worse = make(dataset, GOOD), make(dataset, WEAK)
    client.set_registered_model_alias(champion.model, "champion", str(champion.version))
    bound = {"metric": "roc_auc", "min": 0.5}
    refused = judge(context, worse, gates=[bound]).verdict
    assert refused.winner is None
    bounded, compared, _ = refused.for_candidate(worse).gates
    assert (bounded.passed, compared.passed) == (True, False)
    assert compared.asked == refused.champion_metrics["roc_auc"]
    # The metric that ranks the candidates is compared.
    (_, compared, _) = judge(context, worse, gates=[bound], metric="log_loss").verdict.for_candidate(worse).gates
    assert compared.asked == refused.champion_metrics["log_loss"]
    allowed = judge(context, worse, gates=[bound, {"champion": "ignore"}]).verdict
    assert allowed.winner == worse
    assert "ignore the champion" in allowed.policy


def test_a_champion_with_missing_features_is_not_measured(client, context, make):
    dataset = training_set(context.store)
    old, new = make(dataset, (1, 0, 1), features=("distance", "wind", "rain")), make(dataset, GOOD)
    client.set_registered_model_alias(old.model, "champion", str(old.version))
    verdict = judge(context, new).verdict
    assert verdict.winner is None
    assert "needs the feature 'rain', which dataset 'delays_training' does not have" in verdict.reason


def test_a_candidate_with_missing_features_is_an_error(context, make):
    dataset = training_set(context.store)
    with pytest.raises(SchemaError, match="needs the feature 'rain', which dataset 'delays_training' does not have"):
        judge(context, make(dataset, (1, 1), features=("distance", "rain")))


def test_predictions_that_are_not_finite_are_an_error(context, make):
    dataset = training_set(context.store)
    broken = make(dataset, NOT_A_NUMBER)
    with pytest.raises(
        EvaluationError,
        match=rf"{broken} cannot be measured on split part 'test' of dataset 'delays_training'.* 1,000 of 1,000 .* NaN",
    ):
        judge(context, broken)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (held_out().slice(0, 0), "Split part 'test' of dataset 'delays_training' has no rows"),
        (held_out().set_column(3, "label", pa.array([True] * 1_000)), "All 1,000 labels are True"),
        (
            held_out().set_column(3, "label", pa.array([None, *[True, False, True] * 333])),
            "1 of 1,000 labels are null",
        ),
    ],
)
def test_held_out_data_without_two_labelled_classes_is_an_error(test, message, context, make):
    dataset = training_set(context.store, test=test)
    with pytest.raises(EvaluationError, match=message):
        judge(context, make(dataset, GOOD))


def test_mismatching_candidates_data_and_gates_are_an_error(context, make):
    dataset, numbers = training_set(context.store), training_set(context.store, "regression", name="numbers")
    good, other = make(dataset, GOOD), make(dataset, GOOD, model=f"other_{uuid.uuid4().hex[:8]}")
    with pytest.raises(SpecError, match=f"{good.model}, {other.model}|{other.model}, {good.model}"):
        judge(context, good, other)
    with pytest.raises(
        SchemaError, match=r"'label' \(binary\).*dataset 'numbers' has the label 'label' \(regression\)"
    ):
        judge(context, good, dataset=numbers)
    with pytest.raises(SpecError, match="'rmse' is not a metric for binary tasks: choose one of roc_auc"):
        judge(context, good, gates=[{"metric": "rmse", "max": 1}])
    with pytest.raises(SpecError, match="trained on different datasets"):
        judge(context, good, make(numbers, GOOD, task="regression"))


def test_evaluating_on_another_dataset_is_logged(context, make, caplog):
    first, second = training_set(context.store), training_set(context.store, name="later")
    with caplog.at_level("INFO", logger="airflow_mlops.stages"):
        judge(replace(context), make(first, GOOD), dataset=second)
    assert "trained on another dataset" in caplog.text


def test_clusters_widen_the_bounds_of_gates(client, context, make):
    rows = held_out().append_column("customer", pa.array(["only one"] * 1_000))
    dataset = training_set(context.store, test=rows, parts=("test",))
    champion, better = make(dataset, (2, 1)), make(dataset, GOOD)
    client.set_registered_model_alias(champion.model, "champion", str(champion.version))
    gates = [{"metric": "roc_auc", "better_than_champion_by": 0}]
    assert judge(context, better, gates=gates, groups="flight").verdict.winner == better
    # All rows belong to one cluster, so there is no confidence bound.
    assert judge(context, better, gates=gates, groups="customer").verdict.winner is None
    with pytest.raises(SpecError, match="'shop', which is not a column"):
        judge(context, better, gates=gates, groups="shop")
