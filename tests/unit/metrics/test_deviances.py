"""Poisson, gamma and Tweedie deviances: names, values, the rows for which they are undefined, gates and monitoring."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from airflow_mlops.core.base import parse
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.evidence import Evidence, Measurement
from airflow_mlops.gates.rules import default_gates, parse_gates
from airflow_mlops.metrics.catalog import METRICS, find_metric, metrics_for, realised
from airflow_mlops.metrics.comparison import compare, estimate
from airflow_mlops.metrics.declarations import metric_name
from airflow_mlops.metrics.deviances import power_of
from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, losses, measure
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline, check_task, measure_one
from airflow_mlops.metrics.values import measure as measure_all
from airflow_mlops.models.trainers.spec import SearchTrainerSpec
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import metric_name as in_words
from airflow_mlops.stages.canary.spec import CanarySpec
from airflow_mlops.stages.canary.step import _metric as canary_metric
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.evaluate.verdict import choose, judge
from airflow_mlops.stages.monitor.performance import _metric
from airflow_mlops.stages.refit.checks import not_worse
from airflow_mlops.stages.train.spec import TrainSpec

DECLARED = {"metric": "tweedie_deviance", "power": 1.5}
NAME = "tweedie_deviance_p1.5"
DEVIANCES = {"poisson_deviance": 1, "gamma_deviance": 2, NAME: 1.5, "tweedie_deviance_p1.99": 1.99}
CONTRACT = ModelContract(task="regression", label="y", features=[], classes=[], dataset_name="d", dataset_id="i")


def rows(noise: float = 0.3, *, zeros: bool = False, weighted: bool = False, size: int = 300) -> Rows:
    random = np.random.default_rng(size)
    mean = np.exp(random.normal(size=size))
    truth = random.poisson(mean) * random.gamma(3.0, 1 / 3, size) + (0.0 if zeros else 0.1)
    value = mean * np.exp(noise * np.random.default_rng(1).normal(size=size))
    weight = random.lognormal(0, 1, size) * (random.random(size) < 0.8) if weighted else None
    return Rows("regression", truth.astype(float), value, value).weighted(weight)


def outcomes(found: Rows, groups: np.ndarray | None = None) -> Outcomes:
    return Outcomes(found.truth, found.predicted, np.zeros(len(found), dtype=bool), groups=groups)


@pytest.mark.parametrize("power", [1.01, 1.1, 1.5, 1.99, "1.5"])
def test_a_name_stands_for_one_power_and_is_valid_in_mlflow(power):
    from mlflow.utils.validation import _validate_metric_name

    name = metric_name({"metric": "tweedie_deviance", "power": power})
    assert power_of(name) == float(power)
    assert find_metric(name) == (name, ("regression",), False, False)
    assert metric_name(name) == name
    _validate_metric_name(name)


@pytest.mark.parametrize("power", [None, 1, 2, 1.001, 0.5, 3, math.nan, math.inf, True, "much", [1.5]])
def test_an_invalid_power_is_refused_in_one_sentence(power):
    for read in (lambda item: parse_gates([item]), lambda item: parse(Policy, item, "The policy")):
        with pytest.raises(
            SpecError, match="the power of tweedie_deviance must be a number from 1.01 to 1.99|power is (NaN|infinite)"
        ) as error:
            read({"metric": "tweedie_deviance", "max": 1.0, "power": power})
        assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    "wrong", ["tweedie_deviance", "tweedie_deviance_p1.50", "tweedie_deviance_p2", "poisson_deviances", {**DECLARED, "max": 1}]
)  # fmt: skip
def test_a_deviance_without_a_valid_name_is_refused(wrong):
    with pytest.raises(ValueError, match="deviance"):
        find_metric(metric_name(wrong))


def test_the_metric_is_read_wherever_metrics_are_named():
    (gate,) = parse_gates([{**DECLARED, "max": 0.4}])
    assert (gate.name, gate.metric) == (f"{NAME} at most 0.4", NAME)
    assert parse_gates([{"metric": NAME, "max": 0.4}]) == [gate]
    policy = Policy.model_validate({**DECLARED, "max": 0.4})
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    assert _metric(policy, CONTRACT) == NAME
    assert EvaluateSpec(candidates=[{"model": "m", "version": 1, "run_id": "r"}], metric=DECLARED).metric == NAME
    canary = CanarySpec(model="m", version=1, metric=DECLARED)
    assert canary_metric(canary, CONTRACT, CONTRACT) == NAME
    trainer = {"kind": "sklearn", "estimator": "sklearn.linear_model:PoissonRegressor"}
    space = {"alpha": {"kind": "float", "low": 0.1, "high": 1.0}}
    assert SearchTrainerSpec(trainer=trainer, space=space, trials=1, metric=DECLARED).metric == NAME
    train = TrainSpec(
        dataset={"name": "d", "id": "i", "rows": 1}, model="m", trainer=trainer, metrics=[DECLARED, "poisson_deviance"]
    )
    assert train.metrics == [NAME, "poisson_deviance"]
    assert (in_words(NAME), in_words("poisson_deviance")) == ("Tweedie deviance", "Poisson deviance")


def test_a_deviance_is_for_regressions_and_is_computed_only_where_it_is_named():
    (gate,) = parse_gates([{"metric": "poisson_deviance", "max": 0.4}])
    with pytest.raises(SpecError, match="is not a metric for binary tasks"):
        gate.suits("binary")
    with pytest.raises(SpecError, match="'poisson_deviance' is not a metric for binary tasks"):
        check_task(["my:cost", "poisson_deviance"], "binary")
    binary = CONTRACT.model_copy(update={"task": "binary", "classes": [0, 1], "positive": 1})
    with pytest.raises(SpecError, match="cannot be measured on predictions of a binary model"):
        _metric(Policy(metric="poisson_deviance"), binary)
    assert measure_all(rows()).keys() == {*metrics_for("regression")} == {"rmse", "mae", "r2"}
    assert [*measure_all(rows(), ["poisson_deviance", NAME])] == ["rmse", "mae", "r2", "poisson_deviance", NAME]
    assert realised("regression", [NAME, "mae", "rmse", "r2"]) == ["rmse", "mae", NAME]
    assert not {*METRICS} & {*DEVIANCES}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", DEVIANCES)
def test_values_are_those_of_scikit_learn(metric, weighted):
    power = DEVIANCES[metric]
    for zeros in (False,) if power == 2 else (False, True):
        found = rows(zeros=zeros, weighted=weighted)
        assert zeros == bool((found.truth == 0).any())
        expected = metrics.mean_tweedie_deviance(found.truth, found.predicted, sample_weight=found.weight, power=power)
        assert measure_all(found, [metric])[metric] == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert measure_one(metric, found) == measure_all(found, [metric])[metric]
        # The baseline predicts the mean.
        mean = np.full(len(found), np.average(found.truth, weights=found.weight))
        expected = metrics.mean_tweedie_deviance(found.truth, mean, sample_weight=found.weight, power=power)
        simple = baseline("regression", found.truth, [], own=[metric], weight=found.weight)
        assert simple[metric] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", DEVIANCES)
def test_the_interval_in_production_is_around_the_mean_loss(metric):
    found = rows()
    value, by_row = influence(metric, found)
    measured = measure(metric, outcomes(found), 0.95, "regression")
    loss = losses(metric, outcomes(found))
    assert measured.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(by_row * len(found), loss - value, atol=1e-6)
    assert measured.low < value < measured.high
    assert (measured.high - measured.low) / 2 == pytest.approx(1.96 * loss.std() / math.sqrt(len(loss)), rel=0.3)
    weight = rows(weighted=True).weight
    with_weights = measure(metric, outcomes(found).weighted(weight), 0.95, "regression")
    assert with_weights.value == pytest.approx(measure_one(metric, replace(found, weight=weight)), rel=1e-12)
    assert with_weights.high - with_weights.low > measured.high - measured.low
    # Rows that are copies of others carry no information.
    twice = found.take(np.tile(np.arange(len(found)), 2))
    clustered = measure(metric, outcomes(twice, np.tile(np.arange(len(found)), 2)), 0.95, "regression")
    assert clustered.high - clustered.low == pytest.approx(measured.high - measured.low, rel=0.1)


@pytest.mark.parametrize("metric", ["poisson_deviance", NAME])
def test_a_better_model_is_found_on_the_same_rows(metric):
    good, bad = rows(0.05), rows(0.8)
    (found,) = compare(find_metric(metric), good, bad, Resampling(len(good), rounds=400))
    assert found.improvement.lower(0.95) > 0
    assert found.improvement.value == pytest.approx(measure_one(metric, bad) - measure_one(metric, good))
    interval = estimate(metric, good, Resampling(len(good), rounds=400))
    assert interval.lower(0.95) < measure_one(metric, good) < interval.upper(0.95)


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        ("poisson_deviance", {4: -1.0, 7: -0.5}, r"2 of 300 labels are below 0 \(-1 in row 5, -0.5 in row 8\)"),
        (NAME, {4: -1.0}, r"1 of 300 labels are below 0 \(-1 in row 5\)"),
        ("gamma_deviance", dict.fromkeys(range(4), 0.0), r"4 of 300 labels are not above 0 \(0 in row 1, 0 in row 2, 0 in row 3, \.\.\.\)"),
    ],
)  # fmt: skip
def test_labels_for_which_a_deviance_is_undefined_are_refused(metric, labels, message):
    found = rows()
    for row, label in labels.items():
        found.truth[row] = label
    for refuses in (lambda: measure_all(found, [metric]), lambda: measure_one(metric, found)):
        with pytest.raises(EvaluationError, match=f"{metric} is undefined, because {message}"):
            refuses()
    with pytest.raises(UnmeasurableError, match=message):
        measure(metric, outcomes(found), 0.95, "regression")
    # A row with the weight 0 is not measured.
    weight = np.ones(len(found))
    weight[[*labels]] = 0
    kept = np.flatnonzero(weight)
    assert measure_one(metric, replace(found, weight=weight)) == pytest.approx(measure_one(metric, found.take(kept)))


def linear(bad: int = 3) -> Rows:
    """A model that predicts most rows exactly, and negative values for ``bad`` rows."""
    found = rows()
    value = found.truth.copy()
    value[:bad] = -0.2
    return replace(found, predicted=value, score=value)


def judged(number: int, found: Rows, champion: Rows | None = None):
    def measurement(name: str, item: Rows) -> Measurement:
        return Measurement(name, measure_all(item, ["poisson_deviance"]), rows=item)

    evidence = Evidence(
        task="regression",
        truth=found.truth,
        candidate=measurement(f"m v{number}", found),
        baseline=Measurement("baseline", baseline("regression", found.truth, [], own=["poisson_deviance"])),
        champion=None if champion is None else measurement("m v9", champion),
        resampling=Resampling(len(found), rounds=200),
    )
    return judge(ModelVersionRef(model="m", version=number, run_id="r"), default_gates("regression", "poisson_deviance"), evidence)  # fmt: skip


def test_a_candidate_with_negative_predictions_is_not_measured_and_cannot_win():
    wrong, right = judged(1, linear()), judged(2, rows())
    assert "poisson_deviance" not in wrong.metrics
    assert wrong.metrics["rmse"] < right.metrics["rmse"]
    assert (wrong.passed, right.passed) == (False, True)
    for gate in wrong.gates:
        assert gate.explanation == (
            "poisson_deviance cannot be computed, because 3 of 300 predictions of m v1 are not above 0 (-0.2 in row 1, -0.2 in row "
            "2, -0.2 in row 3). Available metrics: rmse, mae, r2."
        )
    by_version = {item.candidate: item for item in (wrong, right)}
    found = choose(
        [wrong, right], find_metric("poisson_deviance"), dict.fromkeys(by_version), Resampling(300, rounds=10)
    )
    assert found.best is right
    with pytest.raises(EvaluationError, match="3 of 300 predictions are not above 0"):
        measure_one("poisson_deviance", linear())
    with pytest.raises(UnmeasurableError, match="3 of 300 predictions are not above 0"):
        losses("poisson_deviance", outcomes(linear()))


def test_a_refit_with_negative_predictions_does_not_replace_the_judged_version():
    metric = find_metric("poisson_deviance")
    assert not_worse(metric, rows(), rows(0.2)).passed
    found = not_worse(metric, rows(), linear(1))
    assert not found.passed
    assert found.explanation == (
        "poisson_deviance cannot be computed, because 1 of 300 predictions are not above 0 (-0.2 in row 1)."
    )


def test_a_champion_with_negative_predictions_is_not_compared():
    found = judged(1, rows(), champion=linear(1))
    (gate,) = (gate for gate in found.gates if not gate.passed)
    assert "because 1 of 300 predictions of m v9 are not above 0 (-0.2 in row 1)" in gate.explanation
