"""Pinball losses: names, values, intervals, the baseline, and the trainers and models that they judge by default."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_pinball_loss

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.metrics.catalog import find_metric, realised
from airflow_mlops.metrics.declarations import metric_name
from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.judged import default_metric
from airflow_mlops.metrics.quantiles import alpha_of
from airflow_mlops.metrics.realised import Outcomes, losses, measure
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline, measure_one
from airflow_mlops.metrics.values import measure as measure_all
from airflow_mlops.models.trainers.spec import SearchTrainerSpec, check_trainer
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.canary.spec import CanarySpec
from airflow_mlops.stages.canary.step import _metric as canary_metric
from airflow_mlops.stages.monitor.challengers import metric_of
from airflow_mlops.stages.monitor.performance import _metric
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.train.step import _shown
from airflow_mlops.trainers import Int, Search, XGBoostTrainer

NAME, DECLARED = "pinball_a0.9", {"metric": "pinball", "alpha": 0.9}
RANDOM = np.random.default_rng(0)
TRUTH, VALUE = RANDOM.normal(size=400), RANDOM.normal(1, 1, 400)


def test_a_declaration_is_read_everywhere_and_has_one_name():
    assert metric_name(DECLARED) == NAME
    assert alpha_of(NAME) == 0.9
    assert (alpha_of("pinball_a0.90"), alpha_of("pinball"), alpha_of("rmse")) == (None, None, None)
    (gate,) = parse_gates([{**DECLARED, "max": 1}])
    assert gate.metric == NAME
    assert Policy(metric=NAME).metric == NAME
    found = find_metric(NAME)
    assert (found.tasks, found.higher_is_better) == (("regression",), False)
    assert realised("regression", ["rmse", NAME]) == ["rmse", NAME]
    with pytest.raises(ValueError, match="no quantile"):
        find_metric("pinball")
    # A template renders to text.
    assert metric_name({"metric": "pinball", "alpha": "0.9"}) == NAME
    for alpha in (None, 0, 1.0, 1.5, True, "nine", float("nan"), 10**400):
        with pytest.raises(ValueError, match="alpha is"):
            metric_name({"metric": "pinball", "alpha": alpha})


def test_values_and_influences_are_those_of_the_losses():
    rows = Rows("regression", TRUTH, VALUE, VALUE)
    expected = mean_pinball_loss(TRUTH, VALUE, alpha=0.9)
    assert measure_one(NAME, rows) == pytest.approx(expected)
    assert measure_all(rows, [NAME])[NAME] == pytest.approx(expected)
    value, by_row = influence(NAME, rows)
    each = np.maximum(0.9 * (TRUTH - VALUE), -0.1 * (TRUTH - VALUE))
    assert value == pytest.approx(expected)
    assert by_row * len(TRUTH) == pytest.approx(each - expected, abs=1e-6)
    weight = RANDOM.random(400)
    weighted = mean_pinball_loss(TRUTH, VALUE, alpha=0.9, sample_weight=weight)
    assert measure_one(NAME, rows.weighted(weight)) == pytest.approx(weighted)
    outcomes = Outcomes(TRUTH, VALUE, np.zeros(400, dtype=bool))
    assert losses(NAME, outcomes) == pytest.approx(each)
    found = measure(NAME, outcomes, 0.95, "regression")
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high


def test_the_baseline_is_the_quantile_of_the_labels():
    found = baseline("regression", TRUTH, [], own=[NAME])[NAME]
    assert found == pytest.approx(min(mean_pinball_loss(TRUTH, np.full(400, item), alpha=0.9) for item in TRUTH))
    weight = np.where(TRUTH > 0, 5.0, 1.0)
    found = baseline("regression", TRUTH, [], own=[NAME], weight=weight)[NAME]
    least = min(mean_pinball_loss(TRUTH, np.full(400, item), alpha=0.9, sample_weight=weight) for item in TRUTH)
    assert found == pytest.approx(least)


TRAINERS = [
    ({"kind": "lightgbm", "params": {"objective": "quantile", "alpha": 0.2}}, "pinball_a0.2"),
    ({"kind": "lightgbm", "params": {"objective": "quantile"}}, "pinball_a0.9"),
    ({"kind": "xgboost", "params": {"objective": "reg:quantileerror", "quantile_alpha": 0.8}}, "pinball_a0.8"),
    ({"kind": "xgboost", "params": {"objective": "reg:quantileerror", "quantile_alpha": ["0.25"]}}, "pinball_a0.25"),
    ({"kind": "xgboost", "params": {"objective": "reg:quantileerror", "quantile_alpha": "[0.3]"}}, "pinball_a0.3"),
    ({"kind": "xgboost", "params": {"objective": "reg:squarederror", "quantile_alpha": 0.8}}, None),
    ({"kind": "catboost", "params": {"loss_function": "Quantile:alpha=0.7"}}, "pinball_a0.7"),
    ({"kind": "catboost", "params": {"loss_function": "Quantile"}}, "pinball_a0.5"),
    (
        {
            "kind": "sklearn",
            "estimator": "sklearn.ensemble.HistGradientBoostingRegressor",
            "params": {"loss": "quantile", "quantile": 0.8},
        },
        "pinball_a0.8",
    ),
    ({"kind": "sklearn", "estimator": "sklearn.linear_model.QuantileRegressor", "params": {}}, "pinball_a0.5"),
    ({"kind": "lightgbm", "params": {"objective": "regression_l1", "alpha": 0.2}}, None),
]


@pytest.mark.parametrize(("trainer", "metric"), TRAINERS)
def test_a_quantile_objective_is_judged_by_its_own_loss_and_never_silently_by_rmse(trainer, metric):
    spec = TrainSpec.model_validate({"dataset": {"name": "d"}, "model": "m", "trainer": trainer})
    assert spec.metrics == ([metric] if metric else [])
    assert TrainSpec.model_validate(spec.model_dump(mode="json")).metrics == spec.metrics
    search = {"trainer": trainer, "space": {"learning_rate": {"kind": "float", "low": 0.1, "high": 1.0}}, "trials": 1}
    if metric is not None:
        with pytest.raises(ValueError, match="pinball"):
            SearchTrainerSpec.model_validate(search)
        SearchTrainerSpec.model_validate({**search, "metric": metric})


@pytest.mark.parametrize(
    ("trainer", "space", "message"),
    [
        ({"kind": "lightgbm", "params": {"objective": "quantile"}}, {"alpha": [0.8, 0.9]}, "'alpha' is in `space`"),
        ({"kind": "lightgbm"}, {"objective": ["regression", "quantile"]}, "'objective' is in `space`"),
        (
            {"kind": "xgboost", "params": {"objective": "reg:quantileerror"}},
            {"quantile_alpha": [0.8, 0.9]},
            "without the quantile",
        ),
        ({"kind": "lightgbm", "params": {"objective": "huber"}}, {"alpha": [0.8, 0.9]}, None),
    ],
)
def test_the_quantile_is_not_searched(trainer, space, message):
    choices = {name: {"kind": "categorical", "choices": values} for name, values in space.items()}
    search = {"trainer": trainer, "space": choices, "trials": 1, "metric": DECLARED}
    if message is None:
        SearchTrainerSpec.model_validate(search)
        return
    with pytest.raises(ValueError, match=message):
        SearchTrainerSpec.model_validate(search)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"quantile_alpha": "0.1, 0.9"}, r"'0\.1, 0\.9'.*one model for each quantile"),
        ({"quantile_alpha": []}, "one model for each quantile"),
        ({}, "without the quantile"),
        ({"quantile_alpha": 1.5}, "1\\.5"),
        ({"quantile_alpha": True}, "True"),
    ],
)
def test_xgboost_learns_exactly_one_quantile(params, message):
    trainer = {"kind": "xgboost", "params": {"objective": "reg:quantileerror", **params}}
    with pytest.raises(ValueError, match=message):
        TrainSpec.model_validate({"dataset": {"name": "d"}, "model": "m", "trainer": trainer})


def test_several_quantiles_in_one_model_are_refused_when_the_dag_is_parsed():
    params = {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]}
    with pytest.raises(SpecError, match=r"\[0\.1, 0\.9\].*one model for each quantile"):
        check_trainer(XGBoostTrainer(params), "The trainer")
    # A template is rendered later.
    rendered_later = XGBoostTrainer({**params, "quantile_alpha": "{{ params.alpha }}"})
    check_trainer(rendered_later, "The trainer")
    Search(rendered_later, {"max_depth": Int(1, 3)}, trials=1, metric=DECLARED)


def test_a_model_of_one_quantile_is_monitored_by_its_loss():
    measured = {"rmse": 1.0, "mae": 1.0, NAME: 0.2}
    contract = ModelContract(
        task="regression", label="y", dataset_name="d", dataset_id="0", features=[], metrics=measured
    )
    assert default_metric(contract) == NAME
    assert default_metric(contract.model_copy(update={"metrics": {**measured, "pinball_a0.1": 0.2}})) == "rmse"
    assert _metric(Policy(), contract) == metric_of(Policy(), contract) == NAME
    assert _metric(Policy(metric="mae"), contract) == "mae"
    canary = CanarySpec(model="m", version=1)
    assert canary_metric(canary, contract, contract) == NAME
    mean = contract.model_copy(update={"metrics": {"rmse": 1.0}})
    assert canary_metric(canary, mean, mean) == "rmse"
    with pytest.raises(SpecError, match="different quantiles"):
        canary_metric(canary, contract, mean)


def test_a_search_without_a_metric_is_refused_if_the_metrics_declare_a_quantile():
    search = {
        "kind": "search",
        "trainer": {"kind": "function", "function": "mine:fit"},
        "space": {"rate": {"kind": "float", "low": 0.1, "high": 1.0}},
        "trials": 1,
    }
    spec = {"dataset": {"name": "d"}, "model": "m", "metrics": [DECLARED]}
    with pytest.raises(ValueError, match=r"the quantile 0\.9, which the search cannot judge by rmse"):
        TrainSpec.model_validate({**spec, "trainer": search})
    TrainSpec.model_validate({**spec, "trainer": {**search, "metric": DECLARED}})


OTHER_CODE = [
    {"kind": "function", "function": "mine:fit"},
    {"kind": "notebook", "notebook": "mine.ipynb"},
    {"kind": "project", "project": "mine"},
    {"kind": "torch", "module": "mine:Network"},
]


@pytest.mark.parametrize("trainer", OTHER_CODE)
def test_the_author_of_other_code_declares_the_quantile_by_a_metric(trainer):
    spec = {"dataset": {"name": "d"}, "model": "m", "trainer": trainer}
    gap = {"metric": "quantile_coverage_gap", "alpha": 0.9}

    def metrics(*declared) -> list[str]:
        return TrainSpec.model_validate({**spec, "metrics": list(declared)}).metrics

    assert metrics(DECLARED) == [NAME]
    # The gap does not choose a model, so the loss of the same quantile is measured, too.
    assert metrics(gap) == ["quantile_coverage_gap_a0.9", NAME]
    assert metrics(DECLARED, gap) == [NAME, "quantile_coverage_gap_a0.9"]
    assert metrics() == []
    assert metrics("poisson_deviance") == ["poisson_deviance"]
    for other in ({"metric": "pinball", "alpha": 0.1}, {**gap, "alpha": 0.1}):
        with pytest.raises(ValueError, match=r"0\.1 and 0\.9, but a model predicts one quantile"):
            metrics(DECLARED, other)


def test_a_metric_of_another_quantile_than_that_of_the_objective_is_refused():
    trainer = {"kind": "lightgbm", "params": {"objective": "quantile", "alpha": 0.2}}
    spec = {"dataset": {"name": "d"}, "model": "m", "trainer": trainer, "metrics": [DECLARED]}
    with pytest.raises(ValueError, match=r"the quantile 0\.9, and the objective learns the quantile 0\.2"):
        TrainSpec.model_validate(spec)


def test_the_summary_of_a_training_names_the_metrics_of_the_quantile_only():
    measured = {"rmse": 1.0, "mae": 1.0, "r2": 0.1, NAME: 0.2, "quantile_coverage_gap_a0.9": 0.01}
    assert _shown("regression", measured) == [NAME, "quantile_coverage_gap_a0.9"]
    assert _shown("regression", {"rmse": 1.0, "mae": 1.0, "mase": 0.9}) == ["mase", "rmse", "mae"]
    assert _shown("binary", {"roc_auc": 1.0, "brier": 0.1, "f1": 0.5, "ece": 0.1}) == ["roc_auc", "brier", "f1"]
