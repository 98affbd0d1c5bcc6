"""Challengers of several trainers: when one of another trainer requests retraining, and how often it does by chance."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.performance.challenger import Challenger, Comparison, OtherTrainer
from airflow_mlops.performance.cross_fitting import Champion, Recipe, Trained, compare_all, cross_fit
from airflow_mlops.performance.gains import best_gain, compare
from airflow_mlops.policy.details.challengers import challengers_of
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.backtest.replay import Replay
from benchmarks.worlds import CHANGE, HISTORY, MONITORED, simulated

V1 = ModelVersionRef(model="delays", version=1, run_id="r")
TREES, NETWORK = OtherTrainer(name="trees", id="a"), OtherTrainer(name="network", id="b")
METRIC = {"binary": "roc_auc", "regression": "rmse"}


def test_a_change_that_only_another_trainer_can_learn_requests_retraining_in_its_first_window():
    for seed in range(3):
        made = simulated("other kind", 500, "regression", seed)
        world = Replay(made.fits, made.contract, made.periods, HISTORY, 0, "rmse")
        assert world.winner(HISTORY - 1).trainer is None
        policy = world.policy(Policy())
        assert next(number for number, step in enumerate(policy.steps, HISTORY) if step.trained) == CHANGE
        # The training after the change chooses the model with products.
        assert world.winner(CHANGE).trainer.name == "products"
        alone = Replay({None: made.fits[None]}, made.contract, made.periods, HISTORY, 0, "rmse")
        assert policy.mean_loss < 0.9 * alone.policy(Policy()).mean_loss


@pytest.mark.parametrize(("task", "seeds"), [("regression", 5), ("binary", 2)])
def test_an_unchanged_world_with_three_trainers_rarely_requests_retraining(task, seeds):
    metric, asked = METRIC[task], 0
    for seed in range(seeds):
        world = simulated("none, 3 kinds", 300, task, seed)
        tables = [period.rows for period in world.periods]
        model = world.fits[None](pa.concat_tables(tables[:HISTORY]))
        champion = Champion(V1, model.contract, model.predict)
        compared: list[tuple[int, Comparison]] = []
        for number in range(HISTORY, HISTORY + MONITORED):
            older = {None: tables[:number], 3: tables[number - 2 : number], 1: tables[:0]}
            pasts = {past: pa.concat_tables([tables[0].slice(0, 0), *known]) for past, known in older.items()}
            found = cross_fit(world.fits, champion, tables[number], pasts, metric, number - HISTORY + 1)
            assert len(found.challengers) == 9
            asked += best_gain(found, [(number - at, item) for at, item in compared], 0.95, 0.02) is not None
            compared.append((number, found))
    # At most 5% of windows; the measured rate is below 1%, because challengers with fewer rows are worse than the champion.
    assert asked / (seeds * MONITORED) <= 0.05


def test_nine_challengers_as_good_as_the_champion_request_retraining_with_the_stated_probability():
    random, asked, windows = np.random.default_rng(0), 0, 400
    recipes = [Recipe(trainer, past) for trainer in (None, TREES, NETWORK) for past in (None, 3, 1)]
    for _ in range(windows):
        level = random.chisquare(1, size=300)
        known, *others = level + random.normal(scale=0.5, size=(10, 300))
        trained = Trained(dict(zip(recipes, others, strict=True)), dict.fromkeys(recipes, 300))
        asked += best_gain(compare_all(V1, known, trained, "rmse", 2), [], 0.95, 0.0) is not None
    # About half of 5% is expected, with a standard error of 0.8%. Without the correction, it is 13%.
    assert 0.005 <= asked / windows <= 0.05


def challenger(trainer: OtherTrainer | None, gain: float, error: float) -> Challenger:
    losses = np.array([1.0, 1.0])
    found = compare(losses, losses, None, 100, 0.7, trainer=trainer)
    return found.model_copy(update={"gain": gain, "standard_error": error})


def comparison(*challengers: Challenger) -> Comparison:
    return Comparison(
        champion=V1, metric="roc_auc", rows=100, value=0.5, loss=1.0, challengers=[*challengers], since_training=3
    )


def test_a_gain_is_pooled_with_gains_of_the_same_trainer_only():
    now = comparison(challenger(None, 0.0, 0.01), challenger(TREES, 0.05, 0.03))
    own = [(1, comparison(challenger(None, 0.2, 0.001), challenger(TREES, 0.0, 0.03)))]
    assert best_gain(now, own, 0.95, 0.02).trainer is None
    trees = [(1, comparison(challenger(None, 0.0, 0.01), challenger(TREES, 0.2, 0.001)))]
    assert best_gain(now, trees, 0.95, 0.02).trainer == TREES


def test_the_best_of_several_trainers_must_exceed_the_margin_by_what_the_choice_alone_gives():
    error = 0.004
    alone = comparison(challenger(None, 0.021, error))
    assert best_gain(alone, [], 0.95, 0.02).share == pytest.approx(0.021)
    others = [challenger(TREES, 0.0, error), challenger(NETWORK, 0.0, error)]
    assert best_gain(comparison(*alone.challengers, *others), [], 0.95, 0.02) is None
    found = best_gain(comparison(challenger(None, 0.03, error), *others), [], 0.95, 0.02)
    assert 0.02 <= found.share < 0.03


def test_the_best_of_equal_trainers_is_above_the_true_gain_in_at_most_half_of_the_windows():
    random, gain, error = np.random.default_rng(0), 0.1, 0.01
    above = 0
    for _ in range(1_000):
        drawn = [challenger(trainer, random.normal(gain, error), error) for trainer in (None, TREES, NETWORK)]
        above += best_gain(comparison(*drawn), [], 0.95, 0.02).share > gain
    # The standard error is 0.016. Without the correction, the share is 7 in 8.
    assert above / 1_000 <= 0.55


def test_reports_of_old_versions_have_challengers_of_the_champions_trainer():
    old = comparison(challenger(None, 0.0, 0.01)).model_dump(mode="json")
    for item in old["challengers"]:
        del item["trainer"]
    read = Comparison.model_validate(old)
    assert read.challengers[0].trainer is None
    assert best_gain(comparison(challenger(None, 0.05, 0.03)), [(1, read)], 0.95, 0.02) is None


def test_the_details_name_all_trainers_if_there_are_several():
    found = comparison(challenger(None, 0.0, 0.001), challenger(TREES, 0.1, 0.001))
    best = best_gain(found, [], 0.95, 0.02)
    values, reduction, others = challengers_of(found.model_copy(update={"best": best}), Policy())
    assert "challengers (the champion's trainer) trained on " in values
    assert "(trees)" in reduction
    assert others.startswith("Challengers (trees) trained on ")
    alone = comparison(challenger(None, 0.1, 0.001))
    assert "(" not in challengers_of(alone.model_copy(update={"best": None}), Policy())[0]


@pytest.mark.parametrize(("metric", "halves"), [("roc_auc", True), ("f1", True), ("accuracy", False), ("rmse", False)])
def test_the_details_say_whether_a_metric_is_the_mean_of_two_halves(metric, halves):
    found = comparison(challenger(None, 0.0, 0.001)).model_copy(update={"metric": metric})
    assert ("of the two halves" in challengers_of(found, Policy())[0]) is halves
