"""Candidates over several windows, judged on the same rows; the winner is fitted again on all rows and promoted."""

from __future__ import annotations

import json
import tempfile
import uuid
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models import contracts
from airflow_mlops.models.calibration import calibrate
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry.integrity import file_hashes
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import champion, download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.refit import step as refit
from airflow_mlops.stages.refit.spec import RefitSpec
from airflow_mlops.stages.reproduce import step as reproduce
from airflow_mlops.stages.reproduce.spec import ReproduceSpec
from airflow_mlops.stages.rollback import step as rollback
from airflow_mlops.stages.rollback.spec import RollbackSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.trainers import SklearnTrainer
from tests.support import training as support
from tests.support.months import write_months
from tests.support.training import timed

MONTHS = [f"2013-{number:02}" for number in range(1, 8)]
# In May, the relation between amount and label is reversed.
SLOPES = [2, 2, 2, 2, -2, -2, -2]
ROLLING = {"kind": "rolling", "length": "P2M"}
EXPANDING = {"kind": "expanding", "since": "2013-01"}
DECAY = {"kind": "decay", "half_life": "P10D"}
LOGISTIC = SklearnTrainer("sklearn.linear_model.LogisticRegression", {"C": 1.0})
GATES = [{"metric": "roc_auc", "min": 0.6}]


class Chain:
    """The steps of a training DAG in one store, for one model."""

    def __init__(self, store):
        self.store, self.model = store, f"late_{uuid.uuid4().hex[:8]}"
        write_months(store, MONTHS, 300, SLOPES)

    @property
    def context(self):
        return StepContext(self.store, f"results/{uuid.uuid4().hex}.json")

    def build(self, window, month="2013-06", split=None):
        spec = TrainingSetSpec(
            name="training",
            entities={"name": "orders", "window": month},
            window=window,
            timestamp="at",
            columns=["amount", "hour"],
            keys=["order"],
            label="late",
            split=split or {"method": "time", "test_size": "15D"},
        )
        return training_set.run(spec, self.context).dataset

    def train(self, dataset, trainer=LOGISTIC, **fields):
        spec = TrainSpec(dataset=dataset, model=self.model, trainer=trainer, **fields)
        return train.run(spec, self.context).candidate

    def judge(self, *candidates, gates=GATES, **fields):
        return evaluate.run(EvaluateSpec(candidates=list(candidates), gates=gates, **fields), self.context).verdict

    def refit(self, verdict, context=None):
        return refit.run(RefitSpec(verdict=verdict), context or self.context)

    def promote(self, verdict):
        return promote.run(PromoteSpec(verdict=verdict), self.context)

    def chain(self, window=ROLLING, month="2013-06", **fields):
        verdict = self.judge(self.train(self.build(window, month), **fields))
        return verdict.winner, self.refit(verdict)


@pytest.fixture
def chain(client, store):
    return Chain(store)


def artifact(client, ref, file):
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(ref.run_id, file, folder)).read_text()


def test_candidates_over_several_windows_are_judged_on_the_same_rows_and_the_gates_choose(client, chain):
    rolling, expanding, decay = (chain.build(window) for window in (ROLLING, EXPANDING, DECAY))
    recent, everything, weighted = (chain.train(dataset) for dataset in (rolling, expanding, decay))
    verdict = chain.judge(recent, everything, weighted)
    # After the change in May, what a model learned before May is wrong.
    assert verdict.winner in (recent, weighted)
    auc = {item.candidate: item.metrics["roc_auc"] for item in verdict.candidates}
    assert auc[everything] < 0.4 < 0.8 < min(auc[recent], auc[weighted])
    # All candidates were measured on the rows that every training set holds out.
    held_out = [
        open_dataset(chain.store, ref).table("test")["order"].to_pylist() for ref in (rolling, expanding, decay)
    ]
    assert held_out[0] == held_out[1] == held_out[2]
    assert verdict.dataset_id in (expanding.id, decay.id)
    run = client.get_run(weighted.run_id).data
    assert run.tags["mlops.window_rule"] == run.params["window_rule"] == "Decay(half_life=P10D)"
    assert run.params["window"] == "2013-01-01T00:00:00Z/2013-07-01T00:00:00Z"
    assert client.get_run(recent.run_id).data.params["window"] == "2013-05-01T00:00:00Z/2013-07-01T00:00:00Z"
    assert "with the same held-out rows" in artifact(client, recent, "evaluation/model_card.md")


def test_the_metrics_do_not_depend_on_the_other_candidates(chain):
    recent, everything = (chain.train(chain.build(window)) for window in (ROLLING, EXPANDING))
    together = chain.judge(recent, everything)
    for candidate in (recent, everything):
        assert chain.judge(candidate).for_candidate(candidate).metrics == together.for_candidate(candidate).metrics


def test_candidates_with_different_held_out_rows_are_refused(chain):
    share = {"method": "time", "test_size": 0.3}
    rolling, expanding = chain.build(ROLLING, split=share), chain.build(EXPANDING, split=share)
    first, second = chain.train(rolling), chain.train(expanding)
    with pytest.raises(
        SpecError, match="trained on different datasets, and the rows of their split parts 'test' differ"
    ):
        chain.judge(first, second)
    # The larger training set holds out more rows. The smaller training set contains some of these rows in its part
    # ``train``.
    with pytest.raises(SpecError, match=f"{first} was trained on"):
        chain.judge(first, second, dataset=expanding)
    # No model has seen the rows that the smaller training set holds out.
    assert chain.judge(first, second, dataset=rolling).winner == first


def test_held_out_rows_with_different_values_are_refused(chain, store):
    first = chain.train(chain.build(ROLLING))
    write_months(store, MONTHS[5:6], 300, [-1.9])
    with pytest.raises(SpecError, match="the values of 'late' in their split parts 'test' differ"):
        chain.judge(first, chain.train(chain.build(EXPANDING)))


@pytest.mark.plots
def test_the_winner_is_fitted_again_on_all_rows_and_promoted(client, chain):
    dataset = chain.build(ROLLING)
    judged = chain.train(dataset, tags={"mlops.code_version": "1.2", "team": "flights"})
    verdict = chain.judge(judged)
    result = chain.refit(verdict)
    new = result.verdict.winner
    assert new is not None
    assert (new.model, new.version) == (judged.model, judged.version + 1)
    found = result.verdict.refit
    assert (found.judged, found.version, found.rows, found.passed) == (judged, new, dataset.rows, True)
    assert [check.gate for check in found.checks] == [
        "same signature", "stable predictions", "roc_auc not worse on the held-out rows"
    ]  # fmt: skip

    # The model is equal to a model that is fitted to all rows.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = open_dataset(chain.store, dataset).table()
    frame = table.select(["amount", "hour"]).to_pandas().astype(np.float32)
    expected = make_pipeline(StandardScaler(), LogisticRegression(random_state=0)).fit(frame, table["late"].to_numpy())
    score = OnnxModel.load(download(client, new)).predict(table).score
    np.testing.assert_allclose(score, expected.predict_proba(frame)[:, 1], atol=1e-4)

    # The contract has the metrics of the judged version, and the run only metrics with other names.
    stored, before = (contracts.read(client, chain.store, ref) for ref in (new, judged))
    assert stored.contract.refit_of == judged.version
    assert stored.contract.metrics == before.contract.metrics
    assert stored.profile["features"]["rows"] == dataset.rows
    assert stored.profile["scores"] == before.profile["scores"]
    assert stored.profile["importance"] == before.profile["importance"]
    run = client.get_run(new.run_id).data
    assert "roc_auc" not in run.metrics
    assert run.metrics["in_sample_roc_auc"] > 0.5
    assert (run.params["train_rows"], run.params["test_rows"]) == (str(dataset.rows), "0")
    assert (run.tags["mlops.code_version"], run.tags["team"]) == ("1.2", "flights")

    # The two versions and their runs name each other.
    versions = [client.get_model_version(judged.model, str(ref.version)) for ref in (judged, new)]
    assert versions[0].tags["mlops.refit"] == str(new.version)
    assert (versions[1].tags["mlops.refit_of"], versions[1].tags["mlops.judged_run"]) == (
        str(judged.version),
        judged.run_id,
    )
    assert client.get_run(judged.run_id).data.tags["mlops.refit"] == str(new.version)
    assert run.tags["mlops.refit_of"] == str(judged.version)
    card = artifact(client, new, "evaluation/model_card.md")
    assert card.startswith(f"# {new}\n\n{new} is {judged}, fitted again on all {dataset.rows:,} rows")
    assert f"reproduce {new.model} {new.version}" in card
    assert "data:image/png" in artifact(client, new, "evaluation/model_card.html")
    assert "fitted again" in versions[1].description

    done = chain.promote(result.verdict)
    assert (done.promoted, done.champion) == (True, new)
    assert done.metrics == verdict.for_candidate(judged).metrics
    assert champion(client, chain.model) == new
    (entry,) = Ledger(chain.store, chain.model).entries()
    assert (entry.champion, entry.refit.judged, entry.refit.version) == (new, judged, new)
    assert entry.files == file_hashes(download(client, new))
    assert {*entry.card} == {"model_card.html", "model_card.md", "verdict.json"}
    assert [origin.version for origin in entry.origins] == [judged.version, new.version]
    assert f"as v{new.version}" in entry.reason


def test_a_retry_registers_nothing_more(client, chain):
    verdict = chain.judge(chain.train(chain.build(ROLLING)))
    context = chain.context
    first, second = chain.refit(verdict, context), chain.refit(verdict, context)
    assert (first.verdict, first.run_id) == (second.verdict, second.run_id)
    # Another run on the same data gives the identical version.
    third = chain.refit(verdict)
    assert third.verdict.winner == first.verdict.winner
    assert third.run_id != first.run_id
    assert len(client.search_model_versions(f"name = '{chain.model}'")) == 2


def test_two_tries_at_once_register_one_version(client, chain, monkeypatch):
    verdict = chain.judge(chain.train(chain.build(ROLLING)))
    context, real, inner = chain.context, refit.record.log_model, []

    def overtaken(*args):
        made = real(*args)
        monkeypatch.setattr(refit.record, "log_model", real)
        # The other try registers its model and deletes this one.
        inner.append(chain.refit(verdict, context))
        return made

    monkeypatch.setattr(refit.record, "log_model", overtaken)
    outer = chain.refit(verdict, context)
    assert (outer.run_id, outer.verdict.winner) == (inner[0].run_id, inner[0].verdict.winner)
    assert len(client.search_model_versions(f"name = '{chain.model}'")) == 2
    experiment_id = client.get_run(outer.run_id).info.experiment_id
    assert len(client.search_logged_models([experiment_id], f"source_run_id = '{outer.run_id}'")) == 1
    assert chain.promote(outer.verdict).champion == outer.verdict.winner


def test_a_refit_that_predicts_something_else_is_not_registered(client, chain, monkeypatch):
    verdict = chain.judge(chain.train(chain.build(ROLLING)))
    monkeypatch.setattr("airflow_mlops.stages.refit.checks.LIMIT", 1e-6)
    result = chain.refit(verdict)
    assert result.verdict.winner == verdict.winner
    assert (result.verdict.refit.version, result.verdict.refit.passed) == (None, False)
    assert len(client.search_model_versions(f"name = '{chain.model}'")) == 1
    done = chain.promote(result.verdict)
    assert (done.promoted, done.champion) == (True, verdict.winner)
    (entry,) = Ledger(chain.store, chain.model).entries()
    assert (entry.refit.passed, entry.refit.judged) == (False, verdict.winner)
    assert "stays the winner" in entry.reason


def test_a_refit_with_a_class_that_only_the_held_out_rows_have_is_not_registered(chain, store):
    from tests.support.training import flights
    from tests.support.training import training_set as written

    test = flights(300, "multiclass", seed=2)
    late = test["late"].to_pylist()
    place = test.schema.get_field_index("late")
    rare = test.set_column(
        place, "late", pa.array(["cancelled" if number < 5 else late[number] for number in range(300)])
    )
    forest = SklearnTrainer("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 10, "max_depth": 5})
    candidate = chain.train(written(store, flights(600, "multiclass", seed=1), rare, task="multiclass"), forest)
    result = chain.refit(chain.judge(candidate, gates=[{"metric": "accuracy", "min": 0.1}]))
    assert result.verdict.winner == candidate
    assert "cancelled" in result.verdict.refit.reason


def test_without_a_winner_nothing_is_fitted(chain):
    verdict = chain.judge(chain.train(chain.build(EXPANDING)))
    result = chain.refit(verdict)
    assert (result.verdict, result.run_id) == (verdict, "")
    assert not chain.promote(result.verdict).promoted


def test_a_refit_is_reproduced(chain):
    judged, result = chain.chain(DECAY)
    for ref in (judged, result.verdict.winner):
        done = reproduce.run(ReproduceSpec(model=ref.model, version=ref.version), chain.context)
        assert done.reproduced, done.summary
    named = {item.what for item in done.comparisons}
    assert "metric in_sample_roc_auc" in named
    assert "metric roc_auc" not in named


def test_a_refit_is_rolled_back_and_to(client, chain):
    _, first = chain.chain(month="2013-06")
    chain.promote(first.verdict)
    challenger = chain.train(chain.build(EXPANDING, "2013-07"))
    verdict = chain.judge(challenger, gates=[{"metric": "roc_auc", "min": 0}, {"champion": "ignore"}])
    if verdict.winner is None:  # the baselines are better than a model of January to April
        challenger = chain.train(chain.build(DECAY, "2013-07"))
        verdict = chain.judge(challenger, gates=[{"metric": "roc_auc", "min": 0}, {"champion": "ignore"}])
    second = chain.refit(verdict)
    chain.promote(second.verdict)
    assert champion(client, chain.model) == second.verdict.winner
    back = rollback.run(RollbackSpec(model=chain.model, reason="It was wrong."), chain.context)
    assert back.champion == first.verdict.winner
    again = RollbackSpec(model=chain.model, reason="It was right.", to_version=second.verdict.winner.version)
    assert rollback.run(again, chain.context).champion == second.verdict.winner


def test_a_champion_that_knows_the_held_out_rows_is_represented_by_the_version_that_was_judged(client, chain):
    judged, result = chain.chain()
    chain.promote(result.verdict)
    # The same month again: the champion was fitted to its held-out rows, but the judged version was not.
    challenger = chain.train(chain.build(DECAY))
    verdict = chain.judge(challenger, gates=[{"metric": "roc_auc", "min": 0.0}])
    assert verdict.champion == result.verdict.winner
    assert verdict.champion_metrics == result.verdict.for_candidate(judged).metrics
    assert f"v{judged.version}" in verdict.policy
    # The version came from another registry, where the number of the judged version means another version.
    client.set_model_version_tag(chain.model, str(result.verdict.winner.version), "mlops.source_version", "2")
    received = chain.judge(challenger, gates=[{"metric": "roc_auc", "min": 0.0}])
    assert (received.winner, received.champion_metrics) == (None, {})
    client.delete_model_version_tag(chain.model, str(result.verdict.winner.version), "mlops.source_version")
    # A month later, the held-out rows are new to the champion.
    later = chain.judge(chain.train(chain.build(ROLLING, "2013-07")), gates=[{"metric": "roc_auc", "min": 0.0}])
    assert later.champion == result.verdict.winner
    assert f"v{judged.version}" not in later.policy
    gate = [{"max_single_feature_score": 1.0}]
    leaked = chain.judge(result.verdict.winner, gates=gate, dataset=chain.build(DECAY))
    assert leaked.winner is None


def test_versions_that_cannot_be_fitted_again_or_evaluated_are_refused(client, chain, tmp_path):
    from tests.support import candidates

    _, result = chain.chain()
    with pytest.raises(SpecError, match="is a refit on all rows of dataset"):
        chain.judge(result.verdict.winner)
    data = candidates.training_set(chain.store)
    other = f"other_{uuid.uuid4().hex[:8]}"
    verdict = chain.judge(candidates.register(client, tmp_path / "foreign", data, (2, 0), model=other))
    with pytest.raises(RegistryError, match="cannot be fitted again"):
        chain.refit(verdict)


def test_a_refit_runs_no_code_that_somebody_wrote_into_the_run(client, chain, tmp_path):
    verdict = chain.judge(chain.train(chain.build(ROLLING)))
    recorded = json.loads(artifact(client, verdict.winner, "training.json"))
    marker = tmp_path / "executed"
    attack = {"estimator": "subprocess.Popen", "params": {"args": ["touch", str(marker)]}}
    client.log_dict(verdict.winner.run_id, {**recorded, "trainer": attack}, "training.json")
    with pytest.raises(SpecError, match="subprocess.Popen"):
        chain.refit(verdict)
    assert not marker.exists()


def test_a_verdict_and_an_entry_without_a_refit_are_still_read(chain):
    verdict = chain.judge(chain.train(chain.build(ROLLING)))
    content = json.loads(verdict.model_dump_json(exclude={"refit"}))
    assert PromoteSpec(verdict=content).verdict == verdict


@pytest.mark.plots
def test_the_threshold_that_was_chosen_is_shown_and_kept(client, chain):
    cost = {"false_positive": 1, "false_negative": 3}
    named = {"metric": "expected_cost", **cost}
    judged = chain.train(chain.build(ROLLING), threshold={"cost": cost}, metrics=[named])
    contract = OnnxModel.load(download(client, judged)).contract
    choice = contract.threshold_choice
    assert 0 < contract.threshold != 0.5
    assert choice.rule == "least cost (false positive 1, false negative 3)"
    run = client.get_run(judged.run_id).data
    assert run.params["threshold"] == str(contract.threshold)
    assert int(run.params["train_rows"]) == 4 * int(run.params["threshold_rows"]) == 4 * choice.rows
    measured = run.metrics["expected_cost_fp1_fn3"]
    verdict = chain.judge(judged, gates=[*GATES, {**named, "max": measured}], metric=named)
    assert verdict.metric == "expected_cost_fp1_fn3"
    card = artifact(client, judged, "evaluation/model_card.md")
    assert f"chosen on {choice.rows:,} training rows to which the model was not fitted (the newest rows)" in card
    assert f"| {contract.threshold:.4g} | {choice.point.precision:.4g} | {choice.point.recall:.4g} |" in card
    assert "threshold.png" in card

    new = chain.refit(verdict).verdict.winner
    kept = OnnxModel.load(download(client, new)).contract
    assert (kept.threshold, kept.threshold_choice) == (contract.threshold, choice)
    assert kept.refit_of == judged.version
    for version in (judged.version, new.version):
        again = reproduce.run(ReproduceSpec(model=chain.model, version=version), chain.context)
        assert again.reproduced, again.summary


@pytest.mark.plots
def test_a_calibrated_model_is_shown_scored_and_kept(client, chain):
    dataset = chain.build(EXPANDING, month="2013-04")
    judged = chain.train(dataset, calibration="sigmoid")
    model = OnnxModel.load(download(client, judged))
    calibration = model.contract.calibration
    run = client.get_run(judged.run_id).data
    assert (run.params["calibration"], int(run.params["calibration_rows"])) == ("sigmoid", calibration.rows)
    assert int(run.params["train_rows"]) == pytest.approx(4 * calibration.rows, abs=4)
    assert run.metrics["log_loss"] == calibration.after["log_loss"]
    assert run.metrics["uncalibrated_log_loss"] == calibration.before["log_loss"]
    verdict = chain.judge(judged)
    card = artifact(client, judged, "evaluation/model_card.md")
    assert f"by the method sigmoid, on {calibration.rows:,} training rows to which the model was not fitted" in card
    assert f"| ece | {calibration.before['ece']:.4g} | {calibration.after['ece']:.4g} |" in card
    # MLflow's own function predicts as scoring does. The estimator alone does not.
    rows = open_dataset(chain.store, dataset).table("test")
    features = rows.select([feature.name for feature in model.contract.features]).to_pandas().astype(float)
    uri = f"models:/{judged.model}/{judged.version}"
    found = model.predict(rows)
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(uri).predict(features), found.prediction)
    own = mlflow.sklearn.load_model(uri).predict_proba(features)
    np.testing.assert_allclose(calibrate("sigmoid", calibration.maps, own), found.probabilities, atol=1e-5)
    assert ((own[:, 1] >= 0.5) != found.prediction).any()

    new = chain.refit(verdict).verdict.winner
    kept = OnnxModel.load(download(client, new)).contract
    assert (kept.calibration, kept.refit_of) == (calibration, judged.version)
    for version in (judged.version, new.version):
        again = reproduce.run(ReproduceSpec(model=chain.model, version=version), chain.context)
        assert again.reproduced, again.summary


def test_prediction_intervals_are_shown_scored_and_kept(client, chain):
    data = timed(260, 2, "regression")
    dataset = support.training_set(chain.store, timed(400, 1, "regression"), data, task="regression", timestamp="at")
    judged = chain.train(dataset, SklearnTrainer("sklearn.linear_model.Ridge"), interval=0.9)
    contract = OnnxModel.load(download(client, judged)).contract
    interval, run = contract.interval, client.get_run(judged.run_id).data
    assert (run.params["interval"], run.params["interval_rows"], run.params["train_rows"]) == ("0.9", "80", "320")
    assert run.params["interval_margin"] == str(interval.margin)
    covered = run.metrics["interval_coverage"]
    assert covered == contract.metrics["interval_coverage"] == pytest.approx(0.9, abs=0.08)
    known = json.loads((download(client, judged) / "mlops/profile.json").read_text())["intervals"]["interval_coverage"]
    assert known["low"] < known["value"] == covered < known["high"]

    gates = [{"metric": "interval_coverage", "min": 0.8}, {"metric": "interval_width", "max": 3 * interval.margin}]
    verdict = chain.judge(judged, gates=gates)
    card = artifact(client, judged, "evaluation/model_card.md")
    assert f"A prediction interval is the prediction ± {interval.margin:.4g}." in card
    assert "It should contain 90% of the labels. The width was found from the residuals of 80 training rows" in card
    assert f"| interval_coverage | {covered:.4g} |" in card

    # A verdict of a canary, which ranks by the mean squared error.
    new = chain.refit(verdict.model_copy(update={"metric": "mse"})).verdict.winner
    kept = OnnxModel.load(download(client, new)).contract
    assert (kept.interval, kept.refit_of, kept.metrics) == (interval, judged.version, contract.metrics)
    assert client.get_run(new.run_id).data.metrics["in_sample_interval_coverage"] > 0.8
    again = reproduce.run(ReproduceSpec(model=chain.model, version=new.version), chain.context)
    assert again.reproduced, again.summary

    spec = ScoreSpec(model=chain.model, dataset=dataset, part="test", version=new.version)
    scored = open_dataset(chain.store, score.run(spec, chain.context).dataset).table(None)
    np.testing.assert_array_equal(scored["prediction_lower"], scored["score"].to_numpy() - interval.margin)
    np.testing.assert_array_equal(scored["prediction_upper"], scored["score"].to_numpy() + interval.margin)


def test_a_refit_of_a_model_of_a_sample_draws_from_all_rows_and_every_record_says_so(client, chain):
    dataset = chain.build(ROLLING)
    trainer = SklearnTrainer("sklearn.linear_model.LogisticRegression", {"C": 1.0}, max_rows=100)
    spec = TrainSpec(dataset=dataset, model=chain.model, trainer=trainer)
    made = train.run(spec, chain.context)
    rows = dataset.parts["train"]
    assert (made.training_sample.rows, made.training_sample.of) == (100, rows)
    assert f"100 of {rows:,} rows" in made.summary
    params = client.get_run(made.run_id).data.params
    assert (params["train_rows"], params["sampled_from_rows"]) == ("100", str(rows))
    verdict = chain.judge(made.candidate, gates=[{"metric": "roc_auc", "min": 0.5}])
    assert f"100 of {rows:,} rows" in artifact(client, made.candidate, "evaluation/model_card.md")
    result = chain.refit(verdict)
    found = result.verdict.refit
    assert (found.rows, found.sampled_from) == (100, dataset.rows)
    assert f"100 of all {dataset.rows:,} rows" in found.reason
    assert client.get_run(result.run_id).data.params["train_rows"] == "100"
    again = reproduce.run(ReproduceSpec(model=chain.model, version=made.candidate.version), chain.context)
    assert again.reproduced


def test_a_model_that_learns_from_batches_is_fitted_again_and_reproduced(client, chain):
    params = {"loss": "log_loss", "learning_rate": "constant", "eta0": 0.01}
    trainer = SklearnTrainer("sklearn.linear_model.SGDClassifier", params, batch_rows=128, epochs=5)
    dataset = chain.build(ROLLING)
    made = chain.train(dataset, trainer)
    run = client.get_run(made.run_id).data.params
    assert (run["batch_rows"], run["epochs"], run["train_rows"]) == ("128", "5", str(dataset.parts["train"]))
    found = chain.refit(chain.judge(made)).verdict.refit
    assert (found.passed, found.rows, found.sampled_from) == (True, dataset.rows, None)
    for version in (found.judged, found.version):
        again = reproduce.run(ReproduceSpec(model=chain.model, version=version.version), chain.context)
        assert again.reproduced, again.summary
