"""The comparison of the champion with challengers: pooled gains, their significance, and the rate of false requests."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models.refitting import Refitted, refit
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec, TorchTrainerSpec, TrainerSpec
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.cross_fitting import Champion, cross_fit
from airflow_mlops.performance.gains import best_gain, compare, windows_after

V1 = ModelVersionRef(model="delays", version=1, run_id="r")
V2 = ModelVersionRef(model="delays", version=2, run_id="r")
NAMES = [f"x{number}" for number in range(4)]
OLD, NEW = np.array([1.0, -1.0, 0.5, 0.0]), np.array([-1.0, 1.0, 0.5, 1.0])
LINEAR = {
    "binary": SklearnTrainerSpec(estimator="sklearn.linear_model.LogisticRegression"),
    "regression": SklearnTrainerSpec(estimator="sklearn.linear_model.Ridge"),
}


def contract(task: str) -> ModelContract:
    return ModelContract(
        task=task,
        label="late",
        features=[FeatureColumn(name=name, kind="number") for name in NAMES],
        classes=[0, 1] if task == "binary" else [],
        positive=1 if task == "binary" else None,
        dataset_name="delays_training",
        dataset_id="0" * 64,
    )


def rows(count: int, weights: np.ndarray, task: str = "binary", seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 4))
    signal = features @ weights
    label = signal + random.normal(size=count)
    if task == "binary":
        label = (random.random(count) < 1 / (1 + np.exp(-signal))).astype(int)
    return pa.table({**dict(zip(NAMES, features.T, strict=True)), "label": label})


@cache
def linear_champion(task: str) -> Refitted:
    return refit(LINEAR[task], 0, contract(task), rows(2_000, OLD, task, seed=1))


def compared(current: pa.Table, task: str = "binary", trainer: TrainerSpec | None = None) -> Comparison:
    """Compare challengers with a champion that was trained on 2,000 rows of the old relation."""
    older, used = rows(2_000, OLD, task, seed=1), trainer or LINEAR[task]

    def fit(table: pa.Table) -> Refitted:
        return refit(used, 0, contract(task), table)

    model = fit(older) if trainer else linear_champion(task)
    pasts = {None: older, 3: older.slice(1_000), 1: older.slice(0, 0)}
    metric = "roc_auc" if task == "binary" else "rmse"
    return cross_fit({None: fit}, Champion(V1, model.contract, model.predict), current, pasts, metric, since_training=2)


def comparison(gain: float, error: float, champion: ModelVersionRef = V1, since_training: int | None = 2) -> Comparison:
    losses = np.array([1.0, 1.0])
    challenger = compare(losses, losses, None, 100, 0.7).model_copy(update={"gain": gain, "standard_error": error})
    return Comparison(
        champion=champion,
        metric="roc_auc",
        rows=100,
        value=0.5,
        loss=0.5,
        challengers=[challenger],
        since_training=since_training,
    )


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_changed_relation_is_found_in_its_first_window(task):
    found = compared(rows(500, NEW, task, seed=2), task)
    best = best_gain(found, [], 0.95, 0.02)
    # The old rows contradict the new ones, so training on the window alone is best.
    assert best is not None
    assert best.past == 1
    assert best.low > 0.3
    assert [item.trained_rows for item in found.challengers] == [2_250, 1_250, 250]


def test_an_unchanged_relation_rarely_requests_retraining():
    asked = sum(best_gain(compared(rows(400, OLD, seed=seed)), [], 0.95, 0.02) is not None for seed in range(2, 82))
    assert asked / 80 <= 0.05


def test_a_network_is_a_challenger_too():
    network = TorchTrainerSpec(epochs=2, params={"hidden": [8]}, device="cpu")
    found = compared(rows(300, NEW, seed=2), trainer=network)
    assert len(found.challengers) == 3
    assert max(item.gain for item in found.challengers) > 0


def test_the_values_are_metrics_of_the_same_rows():
    found = compared(rows(400, OLD, "regression", seed=2), "regression")
    everything, *_ = found.challengers
    assert found.value**2 == pytest.approx(found.loss)
    assert everything.value**2 == pytest.approx(found.loss - everything.gain)


def test_a_past_that_cannot_be_fitted_is_left_out_and_none_is_an_error():
    # In the window alone, each half has only one class.
    current = rows(400, OLD, seed=2)
    late = np.repeat([0, 1], 200)
    one_sided = current.set_column(4, "label", pa.array(late))
    with pytest.raises(UnmeasurableError):
        compared(one_sided)


def test_a_small_gain_that_lasts_is_significant_by_the_mean_of_several_windows():
    now, before = comparison(0.02, 0.012), [(since, comparison(0.02, 0.012)) for since in (1, 2, 3)]
    assert best_gain(now, [], 0.95, 0.02) is None
    pooled = best_gain(now, before, 0.95, 0.02)
    assert pooled is not None
    assert pooled.windows == 4
    assert pooled.share == pytest.approx(0.04)


def test_windows_of_another_champion_do_not_count():
    now, before = comparison(0.02, 0.012), [(since, comparison(0.02, 0.012, V2)) for since in (1, 2, 3)]
    assert best_gain(now, before, 0.95, 0.02) is None


@pytest.mark.parametrize(("gain", "found"), [(0.009, False), (0.011, True)])
def test_a_certain_gain_that_is_too_small_is_not_worth_retraining(gain, found):
    assert (best_gain(comparison(gain, 1e-6), [], 0.95, 0.02) is not None) is found


V3, V4 = (ModelVersionRef(model=V1.model, version=version, run_id="r") for version in (3, 4))


def first_windows(*gains: float) -> list[tuple[int, Comparison]]:
    """Comparisons of earlier champions with these gains (the share is twice as large) in the first window of each."""
    refs = zip((V2, V3, V4), gains, strict=False)
    return [(9 - at, comparison(gain, 0.001, ref, 1)) for at, (ref, gain) in enumerate(refs)]


@pytest.mark.parametrize("since_training", [1, 2, 7])
def test_only_the_gain_above_that_of_other_first_windows_counts(since_training):
    def asks(gain: float, earlier: list[tuple[int, Comparison]]) -> bool:
        return best_gain(comparison(gain, 0.001, since_training=since_training), earlier, 0.95, 0.02) is not None

    earlier = first_windows(0.1, 0.05, 0.3)
    assert not asks(0.109, earlier)
    assert asks(0.111, earlier)
    assert best_gain(comparison(0.111, 0.001), earlier, 0.95, 0.02).usual == pytest.approx(0.2)
    # A single first window does not define the usual gain, because the data may have changed in this window.
    assert asks(0.011, first_windows(0.1))
    assert asks(0.011, first_windows(-0.3, -0.2))
    # Later windows do not count, because they show how champions age. Other metrics do not count, because their losses differ.
    for field, value in (("since_training", 2), ("since_training", None), ("metric", "brier")):
        assert asks(0.011, [(at, known.model_copy(update={field: value})) for at, known in earlier])


def test_a_change_in_the_first_window_is_found_at_once_and_does_not_hide_itself_later():
    earlier = first_windows(0.05, 0.15)
    changed = comparison(0.2, 0.001, since_training=1)
    assert best_gain(changed, earlier, 0.95, 0.02) is not None
    second = best_gain(comparison(0.2, 0.001), [*earlier, (1, changed)], 0.95, 0.02)
    assert second is not None
    assert second.usual == pytest.approx(0.2)


def test_windows_that_old_versions_compared_may_request_retraining():
    old = comparison(0.2, 0.001, since_training=None)
    assert best_gain(old, [(1, comparison(0.2, 0.001, V2))], 0.95, 0.02) is not None


@pytest.mark.parametrize(
    ("trained_until", "window", "windows"),
    [("2013-01", "2013-02", 0), ("2013-01", "2013-03", 1), ("2013-02", "2013-04", 1), ("2012-12", "2013-04", 3)],
)
def test_windows_after_a_time_are_counted_in_months_of_any_length(trained_until, window, windows):
    ended = Window.model_validate(trained_until).end
    assert windows_after(ended, Window.model_validate(window)) == windows


def test_the_error_probability_is_divided_among_the_challengers():
    one = comparison(0.022, 0.01)
    assert best_gain(one, [], 0.95, 0.02) is not None
    three = one.model_copy(update={"challengers": one.challengers * 3})
    assert best_gain(three, [], 0.95, 0.02) is None


def test_no_challenger_predicts_rows_that_it_was_trained_on():
    # A fully grown tree memorizes labels that no feature explains.
    tree = SklearnTrainerSpec(estimator="sklearn.tree.DecisionTreeClassifier")
    found = compared(rows(400, np.zeros(4), seed=2), trainer=tree)
    assert all(abs(item.value - 0.5) < 0.1 for item in found.challengers)


def test_comparisons_of_old_reports_are_read():
    old = {**comparison(0.1, 0.01).model_dump(mode="json", exclude={"usual"}), "rests": True}
    assert Comparison.model_validate(old) == comparison(0.1, 0.01)
