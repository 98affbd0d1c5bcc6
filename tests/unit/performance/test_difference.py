"""The performance of a window is compared with training as two samples, of which one may be the best of several."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.core.contract import FeatureColumn, ModelContract, Task
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.realised import Outcomes, measure
from airflow_mlops.performance import at_training
from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.checks import is_worse
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.training import model_profile

TASKS: dict[str, Task] = {"roc_auc": "binary", "accuracy": "binary", "rmse": "regression", "mae": "regression"}
POLICY = Policy()


def world(random: np.random.Generator, metric: str, rows: int, models: int, noise: float) -> list[Outcomes]:
    """Labelled predictions of several similar models for the same rows."""
    if TASKS[metric] == "regression":
        shared = random.normal(size=rows) * noise
        errors = shared[:, None] + 0.3 * random.normal(size=(rows, models))
        return [Outcomes(np.zeros(rows), errors[:, model], np.zeros(rows, bool)) for model in range(models)]
    truth = random.random(rows) < 0.3
    shared = 0.7 * truth + noise * random.normal(size=rows)
    scores = shared[:, None] + 0.5 * random.normal(size=(rows, models))
    return [Outcomes(truth, scores[:, model], (scores[:, model] > 0.5) == truth) for model in range(models)]


def judged(
    random: np.random.Generator, metric: str, models: int, held_out: int, window: int, noise: float
) -> Performance:
    """Performance in a window of the model that was best on the held-out rows."""
    known = [measure(metric, item, 0.95, TASKS[metric]) for item in world(random, metric, held_out, models, 1.0)]
    sign = METRICS[metric].sign
    best = max(range(models), key=lambda model: sign * known[model].value)
    found = measure(metric, world(random, metric, window, models, noise)[best], 0.95, TASKS[metric])
    then = known[best]
    return Performance(
        metric=metric, value=found.value, low=found.low, high=found.high, labels=window, reference=then.value,
        reference_low=then.low, reference_high=then.high, compared=models,
    )  # fmt: skip


def as_exact(found: Performance) -> Performance:
    return found.model_copy(update={"reference_low": None, "reference_high": None})


@pytest.mark.parametrize("models", [2, 5])
@pytest.mark.parametrize("metric", ["roc_auc", "rmse"])
def test_an_unchanged_world_requests_retraining_in_at_most_5_percent_of_windows(metric, models):
    random, windows = np.random.default_rng(models), 250
    found = [judged(random, metric, models, 300, 3_000, 1.0) for _ in range(windows)]
    asked = sum(is_worse(item, POLICY) for item in found)
    # With a true rate of 5%, this many requests occur by chance in one of ten thousand runs.
    assert stats.binom.sf(asked - 1, windows, 0.05) > 1e-4
    # Without a tolerance, the difference itself is significant just as rarely.
    assert stats.binom.sf(sum(is_worse(item, Policy(tolerance=0)) for item in found) - 1, windows, 0.05) > 1e-4
    # The value at training is an estimate. If it were treated as exact, every fifth window would request retraining.
    assert sum(is_worse(as_exact(item), POLICY) for item in found) > 0.15 * windows


@pytest.mark.parametrize("metric", ["roc_auc", "rmse"])
def test_a_real_change_is_found(metric):
    random = np.random.default_rng(1)
    assert all(is_worse(judged(random, metric, 2, 2_000, 2_000, 3.0), POLICY) for _ in range(20))


@given(
    value=st.floats(0, 1), below=st.floats(0, 0.2), above=st.floats(0, 0.2), reference=st.floats(0, 1),
    held_out=st.floats(0, 0.2), models=st.integers(1, 20),
)  # fmt: skip
@settings(deadline=None)
def test_the_interval_grows_with_both_errors_and_with_the_number_of_models(
    value, below, above, reference, held_out, models
):
    def interval(spread: float, compared: int) -> tuple[float, float]:
        found = Performance(
            metric="roc_auc", value=value, low=value - below, high=value + above, labels=1, reference=reference,
            reference_low=reference - spread, reference_high=reference + spread, compared=compared,
        )  # fmt: skip
        return difference(found, 0.95)

    exact = interval(0.0, 1)
    assert exact == pytest.approx((value - below - reference, value + above - reference))
    for narrow, wide in ((exact, interval(held_out, 1)), (interval(held_out, 1), interval(held_out, models))):
        assert wide[0] <= narrow[0] + 1e-12
        assert narrow[1] <= wide[1] + 1e-12


def test_normal_intervals_give_the_normal_interval_of_a_difference():
    found = Performance(
        metric="rmse", value=3.0, low=2.7, high=3.3, labels=1, reference=2.0, reference_low=1.6, reference_high=2.4
    )
    assert difference(found, 0.95) == pytest.approx((0.5, 1.5))
    corrected = difference(found.model_copy(update={"compared": 5}), 0.95)
    half = 0.5 * stats.norm.ppf(1 - 0.05 / 10) / stats.norm.ppf(0.975)
    assert corrected == pytest.approx((1 - half, 1 + half))


def test_a_report_of_an_early_version_is_compared_as_before():
    stored = {"metric": "roc_auc", "value": 0.6, "low": 0.58, "high": 0.62, "reference": 0.66, "labels": 10}
    found = Performance.model_validate(stored)
    assert difference(found, 0.95) == pytest.approx((-0.08, -0.04))
    assert is_worse(found, POLICY)
    assert difference(Performance.model_validate({**stored, "reference": None}), 0.95) is None


def trained(metric: str, rows: int = 800):
    """The profile that TrainOperator stores with a model."""
    task, random = TASKS[metric], np.random.default_rng(5)
    x = random.normal(size=rows)
    truth = x + random.normal(size=rows) if task == "regression" else random.random(rows) < 1 / (1 + np.exp(-x))
    score = x if task == "regression" else 1 / (1 + np.exp(-x))
    predictions = Predictions(score if task == "regression" else score >= 0.5, score, None)
    contract = ModelContract(
        task=task, label="y", features=[FeatureColumn(name="x", kind="number")], dataset_name="d", dataset_id="0",
        classes=[] if task == "regression" else [False, True], positive=None if task == "regression" else True,
        metrics={metric: 0.0},
    )  # fmt: skip
    batches = pa.table({"x": x}).to_batches()
    outcomes = Outcomes(truth, score, (score >= 0.5) == truth)
    return model_profile(lambda: batches, lambda: batches, contract, truth, predictions, {}), outcomes


@pytest.mark.parametrize("metric", TASKS)
def test_the_profile_has_the_interval_on_the_held_out_rows(metric):
    known, outcomes = trained(metric)
    expected = measure(metric, outcomes, 0.95, TASKS[metric])
    found = at_training.interval(metric, expected.value, known, 0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    wide = at_training.interval(metric, expected.value, known, 0.99)
    assert wide.high - wide.low == pytest.approx((expected.high - expected.low) * 2.5758 / 1.9600, rel=1e-4)
    # A profile of an early version has only the losses by segment, from which nearly the same interval follows.
    early = type(known).model_validate({**known.model_dump(mode="json"), "intervals": {}})
    rough = at_training.interval(metric, expected.value, early, 0.95)
    assert (rough.low, rough.high) == pytest.approx((expected.low, expected.high), abs=0.02 * (1 + expected.value))
    nothing = early.model_copy(update={"segments": None})
    assert at_training.interval(metric, expected.value, nothing, 0.95) is None
    assert math.isfinite(rough.low)
