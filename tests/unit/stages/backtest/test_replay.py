"""Replays of strategies over windows whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import Ridge

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.windows import Window
from airflow_mlops.models.refitting import Refitted, refit
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec
from airflow_mlops.performance import cross_fitting
from airflow_mlops.performance.gains import MIN_TRAININGS
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.backtest import replay as replays
from airflow_mlops.stages.backtest.replay import Period, Replay
from airflow_mlops.stages.backtest.spec import BacktestSpec
from airflow_mlops.stages.monitor import challengers
from airflow_mlops.stages.monitor.challengers import metric_of

START, MONTH = datetime(2020, 1, 1, tzinfo=timezone.utc), timedelta(days=30)
CONTRACT = ModelContract(
    task="regression",
    label="demand",
    features=[FeatureColumn(name="x", kind="number")],
    dataset_name="replay",
    dataset_id="0" * 64,
)
TRAINER = SklearnTrainerSpec(estimator="sklearn.linear_model.Ridge")


def periods(slopes: list[float], rows_each: int = 300) -> list[Period]:
    """One window for each slope of the relation between ``x`` and the label."""
    random = np.random.default_rng(0)
    found = []
    for number, slope in enumerate(slopes):
        x = random.normal(size=rows_each)
        rows = pa.table({"x": x, "label": slope * x + random.normal(size=rows_each)})
        found.append(Period(Window(start=START + number * MONTH, end=START + (number + 1) * MONTH), rows))
    return found


def replay(slopes: list[float], delay: int = 0, rows_each: int = 300) -> Replay:
    def fit(rows: pa.Table) -> Refitted:
        return refit(TRAINER, 0, CONTRACT, rows)

    return Replay({None: fit}, CONTRACT, periods(slopes, rows_each), 3, delay, "rmse")


@pytest.mark.parametrize("delay", [0, 2])
def test_the_policy_trains_once_after_a_change(delay):
    world = replay([1.0] * 6 + [-1.0] * 6, delay)
    policy = world.policy(Policy())
    # Window 6 is the first with the new relation; its labels arrive ``delay`` windows later.
    assert [number for number, step in enumerate(policy.steps, 3) if step.trained] == [6 + delay]
    assert policy.steps[3 + delay].triggers == ["challenger"]
    assert world.every_window().trainings == 9 - delay
    never = world.never()
    assert never.trainings == 0
    assert policy.mean_loss < 0.8 * never.mean_loss


def test_no_strategy_is_better_than_the_oracle():
    world = replay([1.0, 1.0, 1.0, 1.2, 0.8, -1.0, -1.0, 1.0, 1.0])
    oracle = world.oracle()
    for other in (world.never(), world.every_window(), world.policy(Policy())):
        assert all(mine.loss <= theirs.loss for mine, theirs in zip(oracle.steps, other.steps, strict=True))


@pytest.mark.parametrize("delay", [0, 2])
def test_no_strategy_knows_a_window_before_its_labels_have_arrived(delay):
    world = replay([1.0] * 6 + [-1.0] * 6, delay)
    changed = 6 - 3
    never = [step.loss for step in world.never().steps]
    for strategy in (world.every_window(), world.policy(Policy()), world.oracle()):
        losses = [step.loss for step in strategy.steps]
        # The first window with the new relation, and those before its labels arrive, are predicted by the old relation.
        early = range(changed, changed + delay + 1)
        assert all(losses[number] > 0.8 * never[number] for number in early)
        assert losses[changed + delay + 1] < 0.8 * never[changed + delay + 1]


def test_a_training_helped_if_the_replaced_model_would_have_lost_more():
    steps = replay([1.0] * 6 + [-1.0] * 6).policy(Policy()).steps
    assert [step.helped for step in steps if step.trained] == [True]
    # A single window has another relation. The model that was trained on it is worse in all later windows.
    every = replay([1.0] * 5 + [-1.0] + [1.0] * 3).every_window()
    after = every.steps[5 - 3]
    assert after.helped is False
    assert every.false_asks >= 1
    # No later window judges the last training.
    assert every.steps[-1].helped is None
    assert every.judged_asks == every.trainings - 1


def test_a_relation_that_is_new_in_every_window_stops_requests_because_trainings_do_not_pay():
    asked = [step.trained for step in replay([*np.random.default_rng(5).normal(size=40)]).policy(Policy()).steps]
    # The first trainings show that trainings do not pay.
    assert sum(asked[:12]) >= MIN_TRAININGS
    assert sum(asked[-20:]) <= 2


def test_compared_windows_are_counted():
    world = replay([1.0] * 9)
    assert world.policy(Policy()).comparisons == 6
    assert world.policy(Policy(probe=None)).comparisons == 0
    # Windows begin every 30 days.
    assert world.policy(Policy.model_validate({"probe": "P60D"})).comparisons == 3


def test_windows_with_too_few_labels_are_not_compared():
    world = replay([1.0] * 6 + [-1.0] * 3, rows_each=150)
    policy = world.policy(Policy())
    assert (policy.comparisons, policy.trainings) == (0, 0)
    assert world.policy(Policy(min_labels=150)).comparisons == 6


def test_windows_in_which_too_few_predictions_have_a_label_are_not_compared():
    world = replay([1.0] * 6 + [-1.0] * 3)
    world.periods = [replace(period, coverage=0.4) for period in world.periods]
    policy = world.policy(Policy())
    assert (policy.comparisons, policy.trainings) == (0, 0)
    assert world.policy(Policy(min_coverage=0.4)).comparisons == 6


def test_a_window_without_labels_has_no_value_and_its_rows_train_no_model():
    world = replay([1.0] * 6 + [-1.0] * 4)
    unlabelled = (5, 9)
    world.periods = [
        replace(period, rows=period.rows.slice(0, 0), coverage=0.0) if number in unlabelled else period
        for number, period in enumerate(world.periods)
    ]
    for strategy in (world.never(), world.every_window(), world.policy(Policy()), world.oracle()):
        missing = [number for number, step in enumerate(strategy.steps, 3) if step.value is None]
        assert (missing, [step.loss is None for step in strategy.steps].count(True)) == ([5, 9], 2)
        assert strategy.mean_loss > 0
        assert strategy.mean_value > 0
    assert [number for number, step in enumerate(world.policy(Policy()).steps, 3) if step.trained] == [6]


def test_a_window_in_which_the_metric_is_not_defined_has_no_value():
    """All labels of window 5 are of one class, so it has no ROC AUC."""
    contract = CONTRACT.model_copy(update={"task": "binary", "classes": [False, True], "positive": True})
    trainer = SklearnTrainerSpec(estimator="sklearn.linear_model.LogisticRegression")
    found = []
    for number, period in enumerate(periods([1.0] * 8)):
        label = pa.array(np.asarray(period.rows["label"]) > 0) if number != 5 else pa.array([False] * 300)
        found.append(replace(period, rows=period.rows.set_column(1, "label", label)))
    world = Replay({None: lambda rows: refit(trainer, 0, contract, rows)}, contract, found, 3, 0, "roc_auc")
    for strategy in (world.never(), world.every_window(), world.policy(Policy()), world.oracle()):
        assert [number for number, step in enumerate(strategy.steps, 3) if step.value is None] == [5]
        assert strategy.mean_value > 0.5
    assert [*world.unmeasured] == [found[5].window]


@pytest.mark.parametrize(
    ("measured", "wanted", "metric"),
    [
        ({"f1": 0.5, "roc_auc": 0.7, "accuracy": 0.8}, None, "roc_auc"),
        ({"f1": 0.5, "balanced_accuracy": 0.6, "accuracy": 0.8}, None, "accuracy"),
        ({"f1": 0.5, "balanced_accuracy": 0.6, "accuracy": 0.8}, "f1", "f1"),
        ({}, None, "roc_auc"),
    ],
)
def test_the_default_metric_is_one_that_the_champion_has(measured, wanted, metric):
    binary = {"task": "binary", "classes": [False, True], "positive": True, "metrics": measured}
    assert metric_of(Policy(metric=wanted), CONTRACT.model_copy(update=binary)) == metric


def test_the_limits_of_the_policy_hold():
    world = replay([1.0] * 4 + [-1.0, 1.0] * 4)
    limited = world.policy(Policy.model_validate({"cooldown": "90D"}))
    trained = [step.window.end for step in limited.steps if step.trained]
    assert 1 <= len(trained) < world.policy(Policy()).trainings
    assert all(later - earlier >= timedelta(days=90) for earlier, later in zip(trained, trained[1:], strict=False))


def test_max_age_requests_retraining_without_challengers():
    policy = Policy.model_validate({"retrain_on": [], "max_age": "P80D"})
    steps = replay([1.0] * 9).policy(policy).steps
    assert [step.trained for step in steps] == [False, False, True, False, False, True]
    assert steps[2].triggers == ["age"]


@pytest.mark.parametrize("policy", [{"probe": None}, {"retrain_on": ["performance", "drift"]}])
def test_a_policy_without_a_trigger_that_a_backtest_can_replay_is_refused(policy):
    with pytest.raises(ValueError, match="max_age"):
        BacktestSpec(model="delays", policy=policy)
    BacktestSpec(model="delays", policy={**policy, "max_age": timedelta(days=60)})


def test_a_series_that_moves_in_every_window_trains_in_at_most_every_second_window():
    random = np.random.default_rng(1)
    world = replay([*random.normal(scale=3, size=16)])
    policy = world.policy(Policy())
    assert policy.trainings >= 3
    assert policy.trainings <= (world.every_window().trainings + 1) / 2


def test_training_follows_a_change_at_once_and_chooses_pasts_whose_models_last():
    changed = replay([1.0] * 6 + [-1.0] * 6)
    assert changed.winner(6).past == 1
    # Cross-fitted losses are smallest for the window alone, but such models do not predict the next window.
    moving = replay([*np.random.default_rng(1).normal(scale=3, size=16)])
    assert all(moving.winner(number).past != 1 for number in range(8, 16))


def test_copies_of_rows_of_one_group_do_not_look_like_a_relation_that_challengers_learn():
    tree = SklearnTrainerSpec(estimator="sklearn.tree.DecisionTreeRegressor")
    groups = np.tile(np.arange(60), 5)
    windows = [
        Period(item.window, pa.concat_tables([item.rows.slice(0, 60)] * 5), groups) for item in periods([0.0] * 7)
    ]

    def trainings(windows: list[Period]) -> int:
        def fit(rows: pa.Table) -> Refitted:
            return refit(tree, 0, CONTRACT, rows)

        return Replay({None: fit}, CONTRACT, windows, 3, 0, "rmse").policy(Policy()).trainings

    assert trainings(windows) == 0
    assert trainings([Period(item.window, item.rows) for item in windows]) > 0


def test_challengers_are_compared_on_the_same_sample_as_in_monitoring(monkeypatch):
    monkeypatch.setattr(challengers, "MAX_ROWS", 100)
    seen = []

    def train(fits, current, older, metric, groups):
        seen.append((current, older, groups))
        return cross_fitting.train(fits, current, older, metric, groups)

    monkeypatch.setattr(replays, "train", train)
    world = replay([1.0] * 6)
    world.periods = [replace(item, groups=np.arange(300)) for item in world.periods]
    assert any(step.compared for step in world.policy(Policy()).steps)
    numbers = {id(item.compared.rows): number for number, item in enumerate(world.periods)}
    chosen = challengers.chosen(300)
    assert len(chosen) == 100
    for current, older, groups in seen:
        number = numbers[id(current)]
        assert current.equals(world.periods[number].rows.take(pa.array(chosen)))
        assert groups.tolist() == chosen.tolist()
        before = pa.concat_tables([item.rows for item in world.periods[:number]] or [current.slice(0, 0)])
        assert older[None].equals(challengers.sampled(before))
        assert all(table.num_rows <= 100 for table in older.values())
    # The value of a window is measured on all of its rows.
    never = world.never().steps[-1]
    x, label = (world.periods[-1].rows[name].to_numpy() for name in ("x", "label"))
    fitted = Ridge(random_state=0).fit(
        *(
            np.concatenate([item.rows[name].to_numpy() for item in world.periods[:3]]).reshape(shape)
            for name, shape in (("x", (-1, 1)), ("label", -1))
        )
    )
    assert never.loss == pytest.approx(np.square(fitted.predict(x[:, None]) - label).mean(), rel=1e-4)


def test_windows_of_a_replaced_model_do_not_count_for_persistence():
    world = replay([*np.random.default_rng(1).normal(scale=3, size=16)])
    policy = world.policy(Policy.model_validate({"persistence": {"k": 2, "n": 3}}))
    trained = [number for number, step in enumerate(policy.steps) if step.trained]
    assert len(trained) >= 2
    # The policy needs two windows with a trigger, both of the new model. So the next training is at least two windows
    # later.
    assert min(np.diff(trained)) >= 2
