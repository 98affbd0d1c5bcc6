"""Challengers with a real registry: monitoring trains them on the newest rows, and requests retraining if one is better."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, datasets_inside
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.backtest import step as backtest
from airflow_mlops.stages.backtest.spec import BacktestResult, BacktestSpec
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorResult, MonitorSpec
from airflow_mlops.stages.monitor.trainings import MAX_SECONDS, training_of
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import FunctionTrainer, SklearnTrainer
from tests.support.deployed import scoring_set, write
from tests.support.processes import run_here

LINEAR = SklearnTrainer("sklearn.linear_model.LogisticRegression")
TREE = SklearnTrainer("sklearn.tree.DecisionTreeClassifier", params={"max_depth": 4})
OWN = "def fit(X, y, *, params, seed):\n    from sklearn.linear_model import LogisticRegression as L\n    return L().fit(X, y)\n"


def flights(month: int, seed: int, sign: float = 1.0, rows: int = 600, steps: bool = False) -> pa.Table:
    """Flights of a month. ``arr_delay`` grows with ``sign * distance``.

    :param steps: whether it grows with the sign of ``distance * wind`` instead, which no linear model can learn
    """
    random = np.random.default_rng(seed)
    distance, wind, noise = random.normal(size=rows), random.normal(size=rows), random.logistic(size=rows)
    signal = 2 * np.sign(distance * wind) if steps else sign * distance
    days = random.integers(0, 27 * 86_400, rows)
    times = np.datetime64(f"2013-{month:02}-01", "us") + np.sort(days).astype("m8[s]")
    return pa.table(
        {
            "flight": np.arange(rows),
            "time_hour": pa.array(times, pa.timestamp("us", "UTC")),
            "distance": distance,
            "wind": wind,
            "arr_delay": 15 + 10 * (signal + noise),
        }
    )


def trained(
    client,
    store: ArtifactStore,
    trainer,
    times: pa.DataType | None = None,
    until: int = 3,
    model: str | None = None,
    details: dict[str, Any] | None = None,
) -> ModelVersionRef:
    """Train a champion on the months from January on.

    :param times: type of the event times in the training set
    :param until: the last month
    :param model: name of the model; by default a new one
    :param details: further details of the training set
    """
    ref = training_set(store, times, until, details)
    model = model or f"delays_{uuid.uuid4().hex[:8]}"
    made = candidate(store, ref, model, trainer)
    client.set_registered_model_alias(model, "champion", str(made.version))
    return made


def training_set(
    store: ArtifactStore, times: pa.DataType | None = None, until: int = 3, details: dict[str, Any] | None = None
) -> DatasetRef:
    data = pa.concat_tables([flights(month, seed=month) for month in range(1, until + 1)])
    # BuildTrainingSetOperator writes the label in this form. JoinLabelsOperator writes booleans.
    late = pa.array((data["arr_delay"].to_numpy() > 15).astype(np.int64))
    data = data.drop_columns(["arr_delay"]).append_column("late", late)
    if times is not None:
        data = data.set_column(1, "time_hour", data["time_hour"].cast(times))
    features = ["distance", "wind"]
    known = {"label": "late", "task": "binary", "features": features, "timestamp": "time_hour", "keys": ["flight"]}
    with DatasetWriter(store, "delays_training") as writer:
        writer.write(data.slice(0, 1_200), "train")
        writer.write(data.slice(1_200), "test")
        window = Window.model_validate(f"2013-01..2013-{until:02}")
        return writer.commit(window=window, details={**known, **(details or {})})[0].ref


def candidate(store: ArtifactStore, ref: DatasetRef, model: str, trainer) -> ModelVersionRef:
    context = StepContext(store, f"results/{uuid.uuid4().hex}.json")
    return train.run(TrainSpec(dataset=ref, model=model, trainer=trainer), context).candidate


def decided(store: ArtifactStore, *trainers) -> list[ModelVersionRef]:
    """Train and evaluate a candidate with each trainer, and promote the first that is at most one standard error worse."""
    ref, model = training_set(store), f"delays_{uuid.uuid4().hex[:8]}"
    made = [candidate(store, ref, model, trainer) for trainer in trainers]
    context = StepContext(store, f"results/{uuid.uuid4().hex}.json")
    gates = [{"metric": "roc_auc", "min": 0.6}]
    verdict = evaluate.run(EvaluateSpec(dataset=ref, candidates=made, gates=gates), context).verdict
    promoted = promote.run(PromoteSpec(verdict=verdict), context).champion
    assert promoted == made[0]
    return made


@pytest.fixture
def check(client, store) -> Callable[..., MonitorResult]:
    def check(champion: ModelVersionRef, window: str, data: pa.Table, trainer=None, **policy) -> MonitorResult:
        context = StepContext(store=store)
        scored = scoring_set(store, data.drop_columns(["arr_delay"]), window)
        made = score.run(ScoreSpec(model=champion.model, dataset=scored), context).dataset
        joined = JoinLabelsSpec(
            predictions=made, labels=write(store, "flights", data.select(["flight", "arr_delay"]), window), on=["flight"],
            label={"name": "late", "expression": "arr_delay > 15"}, name=f"{champion.model}_outcomes",
        )  # fmt: skip
        labelled: DatasetRef = join_labels.run(joined, context).dataset
        return monitor.run(MonitorSpec(model=champion.model, dataset=labelled, policy=policy, trainer=trainer), context)

    return check


def report(store, champion, window: str) -> Report:
    return Report.model_validate(store.read_json(f"reports/{champion.model}/{window}.json"))


def test_a_changed_relation_requests_retraining_and_an_unchanged_one_does_not(client, store, check):
    champion = trained(client, store, LINEAR)
    unchanged = check(champion, "2013-04", flights(4, seed=4))
    assert unchanged.decision != "retrain", unchanged.reason
    compared = report(store, champion, "2013-04").challenger
    assert compared is not None
    assert compared.champion == champion
    assert [(item.past, item.trained_rows) for item in compared.challengers] == [(None, 2_100), (3, 1_500), (1, 300)]
    assert compared.best is None

    changed = check(champion, "2013-05", flights(5, seed=5, sign=-1.0))
    assert changed.decision == "retrain", changed.reason
    assert changed.request is not None
    assert changed.request.triggers == ["challenger"]
    found = report(store, champion, "2013-05").challenger
    assert found is not None
    assert found.best is not None
    assert found.best.past == 1
    # The training set, April, and half of May.
    assert found.challengers[0].trained_rows == 1_800 + 600 + 300


@pytest.mark.parametrize("times", [pa.string(), pa.date32(), pa.timestamp("ns")])
def test_event_times_of_any_form_select_the_rows_of_the_last_windows(client, store, check, times):
    champion = trained(client, store, LINEAR, times)
    check(champion, "2013-04", flights(4, seed=4))
    compared = report(store, champion, "2013-04").challenger
    assert compared is not None
    assert [item.trained_rows for item in compared.challengers] == [2_100, 1_500, 300]


def test_a_recorded_trainer_that_is_not_installed_does_not_stop_monitoring(client, store, check):
    champion = trained(client, store, LINEAR)
    client.log_dict(
        champion.run_id, {"trainer": {"estimator": "xgboost.absent.Classifier"}, "seed": 0}, "training.json"
    )
    check(champion, "2013-04", flights(4, seed=4))
    written = report(store, champion, "2013-04")
    assert written.performance is not None
    assert written.challenger is None
    assert any("xgboost.absent.Classifier" in note for note in written.notes)
    with pytest.raises(SpecError):
        check(champion, "2013-05", flights(5, seed=5), trainer=SklearnTrainer("xgboost.absent.Classifier"))


def test_worse_performance_that_retraining_would_not_improve_is_watched(client, store, check):
    champion = trained(client, store, LINEAR)
    check(champion, "2013-04", flights(4, seed=4))
    noisy = flights(5, seed=5)
    random = np.random.default_rng(0).permutation(noisy.num_rows)
    noisy = noisy.set_column(4, "arr_delay", noisy["arr_delay"].take(pa.array(random)))
    result = check(champion, "2013-05", noisy)
    assert result.decision == "watch"
    assert "retraining would not help" in result.headline
    # Without challengers, worse performance alone is enough for a retraining request.
    assert check(champion, "2013-05", noisy, probe=None).decision == "retrain"


def test_a_change_in_the_first_window_after_a_retraining_requests_retraining_at_once(client, store, check):
    replaced = trained(client, store, LINEAR)
    check(replaced, "2013-04", flights(4, seed=4))
    champion = trained(client, store, LINEAR, until=4, model=replaced.model)
    first = check(champion, "2013-05", flights(5, seed=5, sign=-1.0))
    assert first.decision == "retrain", first.reason
    compared = report(store, champion, "2013-05").challenger
    assert compared is not None
    assert (compared.champion, compared.since_training, compared.usual) == (champion, 1, 0)
    assert compared.best is not None


def test_the_first_comparison_of_a_champion_measures_the_version_that_it_replaced(client, store, check):
    replaced = trained(client, store, LINEAR)
    april, may = flights(4, seed=4), flights(5, seed=5)
    check(replaced, "2013-04", april)
    check(replaced, "2013-05", may)
    before = report(store, replaced, "2013-05").challenger
    assert before.replaced_loss is None
    champion = trained(client, store, TREE, until=4, model=replaced.model)
    check(champion, "2013-05", may)
    first = report(store, champion, "2013-05").challenger
    assert first.champion == champion
    assert first.replaced_loss == pytest.approx(before.loss, abs=1e-9)
    assert first.replaced_loss != pytest.approx(first.loss, abs=1e-4)
    check(champion, "2013-06", flights(6, seed=6))
    assert report(store, champion, "2013-06").challenger.replaced_loss is None
    narrow = trained(client, store, LINEAR, until=4, model=replaced.model, details={"features": ["distance"]})
    check(narrow, "2013-06", flights(6, seed=6))
    written = report(store, narrow, "2013-06")
    assert (written.challenger.champion, written.challenger.replaced_loss) == (narrow, None)
    assert any("'wind'" in note for note in written.notes)
    # A rollback does not count as a training.
    client.set_registered_model_alias(replaced.model, "champion", str(replaced.version))
    check(replaced, "2013-07", flights(7, seed=7))
    assert report(store, replaced, "2013-07").challenger.replaced_loss is None
    # A replaced version that cannot be read does not stop monitoring.
    client.set_registered_model_alias(replaced.model, "champion", str(champion.version))
    client.delete_model_version(replaced.model, str(replaced.version))
    check(champion, "2013-05", may)
    written = report(store, champion, "2013-05")
    assert (written.challenger.champion, written.challenger.replaced_loss) == (champion, None)
    assert any("last training" in note for note in written.notes)


def test_challengers_of_a_champion_with_decaying_weights_have_these_weights(client, store, check):
    until = Window.model_validate("2013-03").end
    weights = {"half_life_seconds": 10 * 86_400, "until": until.isoformat(), "mean": {"train": 0.1, "test": 0.5}}
    plain, decaying = (trained(client, store, LINEAR, details=details) for details in ({}, {"weights": weights}))
    data = flights(4, seed=4, sign=-1.0)
    for champion in (plain, decaying):
        check(champion, "2013-04", data)
    without, with_weights = (report(store, champion, "2013-04").challenger for champion in (plain, decaying))
    assert without is not None
    assert with_weights is not None
    # With the weights, half of the window counts more than the three months before it. The challenger that is trained
    # on the window alone does not change.
    assert with_weights.challengers[0].value > without.challengers[0].value + 0.1
    assert with_weights.challengers[2].value == pytest.approx(without.challengers[2].value, abs=1e-6)


def test_an_absolute_bound_requests_retraining_unless_challengers_are_no_better(client, store, check):
    champion = trained(client, store, LINEAR)
    data = flights(4, seed=4)
    assert check(champion, "2013-04", data, min=0.5).decision == "healthy"
    watched = check(champion, "2013-04", data, min=0.95)
    assert watched.decision == "watch"
    assert "retraining would not help" in watched.headline
    assert "at least 0.950 is allowed" in watched.headline
    asked = check(champion, "2013-04", data, min=0.95, probe=None)
    assert asked.decision == "retrain"
    assert asked.request.triggers == ["performance"]
    with pytest.raises(SpecError, match="set `min` instead"):
        check(champion, "2013-04", data, max=0.95)


def test_the_level_of_earlier_windows_is_a_standard(client, store, check):
    champion = trained(client, store, LINEAR)
    settings = {"probe": None, "tolerance": 0.5, "best_recent": "P120D"}
    for month in (4, 5, 6):
        check(champion, f"2013-{month:02}", flights(month, seed=month), **settings)
    assert report(store, champion, "2013-06").performance.recent is None
    check(champion, "2013-07", flights(7, seed=7), **settings)
    known = report(store, champion, "2013-07").performance.recent
    assert (known.version, known.windows) == (champion.version, 3)
    assert known.low < 0 < known.high
    # Only June begins within the 40 days before July, but a level needs three windows.
    check(champion, "2013-07", flights(7, seed=7), **settings | {"best_recent": "P40D"})
    assert report(store, champion, "2013-07").performance.recent is None


def test_probe_limits_how_often_challengers_are_trained(client, store, check):
    champion = trained(client, store, LINEAR)
    for month in (4, 5, 6):
        check(champion, f"2013-{month:02}", flights(month, seed=month), probe="P45D")
    compared = [report(store, champion, f"2013-{month:02}").challenger is not None for month in (4, 5, 6)]
    assert compared == [True, False, True]


def test_copies_of_flights_are_one_cluster_for_challengers_and_in_a_backtest(client, store, check):
    champion = trained(client, store, LINEAR)
    copies = pa.concat_tables([flights(4, seed=4, rows=150)] * 4).set_column(0, "flight", pa.array(np.arange(600)))
    check(champion, "2013-04", copies, groups="distance")
    compared = report(store, champion, "2013-04").challenger
    assert [item.clusters for item in compared.challengers] == [pytest.approx(150, rel=0.1)] * 3
    spec = {"model": champion.model, "policy": {"groups": "customer"}}
    with pytest.raises(SpecError, match="customer"):
        backtest.run(BacktestSpec(**spec), StepContext(store=store))


def test_code_of_a_user_runs_only_if_the_operator_names_it(client, store, check, tmp_path, monkeypatch):
    (tmp_path / "own_fit.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = FunctionTrainer("own_fit:fit")
    champion = trained(client, store, own)
    check(champion, "2013-04", flights(4, seed=4))
    written = report(store, champion, "2013-04")
    assert written.challenger is None
    assert any("set `trainer`" in note for note in written.notes)
    check(champion, "2013-04", flights(4, seed=4), trainer=own)
    assert report(store, champion, "2013-04").challenger is not None


def test_a_champion_whose_run_is_absent_or_unknown_has_no_trainer(client, store):
    champion = trained(client, store, LINEAR)
    absent = champion.model_copy(update={"run_id": uuid.uuid4().hex})
    with pytest.raises(UnmeasurableError, match=absent.run_id):
        training_of(absent, None, client)
    assert training_of(champion.model_copy(update={"run_id": ""}), None, client) is None


def names(written: Report) -> list[str | None]:
    """The trainers of the challengers, in order."""
    compared = written.challenger
    assert compared is not None
    return [*dict.fromkeys(item.trainer.name if item.trainer else None for item in compared.challengers)]


def test_a_change_that_another_candidate_can_learn_requests_retraining(client, store, check):
    champion, _ = decided(store, LINEAR, TREE)
    unchanged = check(champion, "2013-04", flights(4, seed=4))
    assert unchanged.decision != "retrain", unchanged.reason
    before = report(store, champion, "2013-04")
    assert names(before) == [None, "DecisionTreeClassifier"]
    assert len(before.challenger.challengers) == 6

    changed = flights(5, seed=5, steps=True)
    # No challenger with the champion's trainer alone is better.
    alone = check(champion, "2013-05", changed, trainer=LINEAR)
    assert alone.decision == "watch"
    assert "retraining would not help" in alone.headline
    asked = check(champion, "2013-05", changed)
    assert asked.decision == "retrain"
    assert asked.request.triggers == ["challenger"]
    best = report(store, champion, "2013-05").challenger.best
    assert best.trainer.name == "DecisionTreeClassifier"
    assert best.low > 0.1
    # A backtest trains and chooses among the same trainers.
    found = backtest.run(BacktestSpec(model=champion.model), StepContext(store=store))
    (replayed,) = [item for item in found.strategies if item.strategy == "policy"]
    assert [step.trained for step in replayed.steps] == [False, True]


def test_trainers_that_cost_too_much_or_run_code_of_a_user_are_left_out(client, store, check, tmp_path, monkeypatch):
    (tmp_path / "own_fit.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    # The same trainer with another name is not another trainer.
    renamed = SklearnTrainer("sklearn.linear_model.LogisticRegression", name="logistic")
    deep = SklearnTrainer("sklearn.tree.DecisionTreeClassifier", params={"max_depth": 5}, name="deep")
    champion, _, own, costly, other = decided(store, LINEAR, renamed, FunctionTrainer("own_fit:fit"), TREE, deep)
    data = flights(4, seed=4)
    # Challengers are fitted to 2 * (1800 + 1200 + 0) + 3 * 600 rows. The candidate was fitted to 1200 rows. So
    # challengers take 6.5 times the candidate's time.
    client.log_metric(costly.run_id, "fit_seconds", MAX_SECONDS / 6.4)
    client.log_metric(other.run_id, "fit_seconds", MAX_SECONDS / 6.6)
    check(champion, "2013-04", data)
    written = report(store, champion, "2013-04")
    assert names(written) == [None, "deep"]
    left_out = [next(note for note in written.notes if f"the trainer of {item}," in note) for item in (own, costly)]
    assert "own_fit:fit" in left_out[0]
    # If a trainer is not installed, only this trainer is left out.
    client.log_dict(other.run_id, {"trainer": {"estimator": "xgboost.absent.Classifier"}, "seed": 0}, "training.json")
    client.log_metric(costly.run_id, "fit_seconds", 1.0)
    check(champion, "2013-04", data)
    written = report(store, champion, "2013-04")
    assert names(written) == [None, "DecisionTreeClassifier"]


def test_a_window_that_the_champion_was_trained_on_is_not_compared(client, store, check):
    champion = trained(client, store, LINEAR)
    check(champion, "2013-03", flights(3, seed=3))
    written = report(store, champion, "2013-03")
    assert written.challenger is None
    assert any("trained on rows of this window" in note for note in written.notes)


def test_a_backtest_of_the_stored_windows_shows_what_the_policy_would_have_done(
    client, store, check, airflow_db, monkeypatch, capsys
):
    from airflow.cli.cli_parser import get_parser

    run_here(monkeypatch)
    champion = trained(client, store, LINEAR)
    for month, sign in ((4, 1.0), (5, 1.0), (6, -1.0), (7, -1.0)):
        check(champion, f"2013-{month:02}", flights(month, seed=month, sign=sign), probe=None)
    words = [
        "mlops",
        "backtest",
        champion.model,
        "--from",
        "2013-04",
        "--to",
        "2013-07",
        "--store",
        store.url,
        "-o",
        "json",
    ]
    args = get_parser().parse_args(words)
    args.func(args)
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["window"] for row in rows] == ["2013-04", "2013-05", "2013-06", "2013-07"]
    # June is the first window with the new relation: the policy trains after it, and July is predicted well again.
    assert [row["triggers"] for row in rows] == ["", "", "challenger", ""]
    assert [row["roc_auc policy"].endswith("*") for row in rows] == [False, False, True, False]
    never, policy = (float(rows[3][f"roc_auc {name}"].split()[0]) for name in ("never", "policy"))
    assert never < 0.4
    assert policy > 0.6
    assert "never: mean roc_auc" in printed.err
    versions = client.search_model_versions(f"name = '{champion.model}'")
    assert len(versions) == 1
    page, written = sorted(store.keys(f"backtests/{champion.model}"))
    assert printed.err.rstrip().endswith(f"Page: {store.url_of(page)}")
    assert f"{champion.model} · backtest of 2013-04 to 2013-07" in store.read_bytes(page).decode()
    found = BacktestResult.model_validate(store.read_json(written))
    (replayed,) = [item for item in found.strategies if item.strategy == "policy"]
    assert [step.helped for step in replayed.steps] == [None, None, True, None]
    assert found.fits > 0
    # If most predictions of a window have no label yet, the backtest knows only the labels that monitoring knew.
    june = Window.model_validate("2013-06")
    (before,) = datasets_inside(store, f"{champion.model}_outcomes", june)
    table = before.table(None)
    labels = table["label"]
    few = pa.array([label if row % 5 < 2 else None for row, label in enumerate(labels.to_pylist())], labels.type)
    with DatasetWriter(store, before.manifest.name) as writer:
        writer.write(table.set_column(table.column_names.index("label"), "label", few))
        writer.commit(window=june, details=before.manifest.details)
    for least, compared in ((0.5, [True, True, False, True]), (0.4, [True] * 4)):
        spec = BacktestSpec(model=champion.model, policy={"min_coverage": least, "min_labels": 100})
        steps = backtest.run(spec, StepContext(store=store)).strategies[2].steps
        assert [step.compared for step in steps] == compared


def test_a_backtest_runs_code_of_a_user_only_if_its_file_names_it(
    client, store, check, airflow_db, tmp_path, monkeypatch, capsys
):
    from airflow.cli.cli_parser import get_parser

    (tmp_path / "own_fit.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    champion = trained(client, store, FunctionTrainer("own_fit:fit"))
    for month in (4, 5):
        check(champion, f"2013-{month:02}", flights(month, seed=month), probe=None)
    words = ["mlops", "backtest", champion.model, "--to", "2013-04", "--store", store.url, "-o", "json"]
    args = get_parser().parse_args(words)
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="set `?--trainer"):
        run_here(patch)
        args.func(args)
    (tmp_path / "trainer.yaml").write_text("function: own_fit:fit\n")
    args = get_parser().parse_args([*words, "--trainer", str(tmp_path / "trainer.yaml")])
    args.func(args)
    assert [row["window"] for row in json.loads(capsys.readouterr().out)] == ["2013-04"]
