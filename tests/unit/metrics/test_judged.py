"""The metric by which a model is judged if nobody names one: at training, in evaluations, canaries and monitoring."""

from __future__ import annotations

import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.metrics import judged
from airflow_mlops.models.trainers.objectives import own_metric
from airflow_mlops.models.trainers.spec import SearchTrainerSpec
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.canary.spec import CanarySpec
from airflow_mlops.stages.canary.step import _metric as canary_metric
from airflow_mlops.stages.monitor.challengers import metric_of
from airflow_mlops.stages.monitor.performance import _metric as monitored
from airflow_mlops.stages.search.step import _default as searched
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import (
    CatBoostTrainer,
    Categorical,
    Float,
    FunctionTrainer,
    LightGBMTrainer,
    Search,
    SklearnTrainer,
    XGBoostTrainer,
)

NDCG, POISSON = "ndcg_k10_by-query", "poisson_deviance"
FORECAST = {"forecast": {"horizon": 1}, "task": "regression"}
MEASURED = {"rmse": 1.0, "mae": 1.0, "mase": 1.0, "smape": 1.0, POISSON: 1.0, NDCG: 1.0, "pinball_a0.9": 1.0}


def contract(judged_by: str | None = None, *measured: str, task: str = "regression") -> ModelContract:
    metrics = {name: MEASURED.get(name, 0.5) for name in ["rmse", "mae", *filter(None, [judged_by]), *measured]}
    return ModelContract(
        task=task, label="y", features=[], dataset_name="d", dataset_id="0", metrics=metrics, judged_by=judged_by
    )


HISTOGRAMS, EBM = "sklearn.ensemble.HistGradientBoostingRegressor", "interpret.glassbox.ExplainableBoostingRegressor"


@pytest.mark.parametrize(
    ("trainer", "metric"),
    [
        (LightGBMTrainer({"objective": "poisson"}), POISSON),
        (LightGBMTrainer({"objective": "gamma"}), "gamma_deviance"),
        (LightGBMTrainer({"objective": "tweedie"}), "tweedie_deviance_p1.5"),
        (LightGBMTrainer({"objective": "tweedie", "tweedie_variance_power": 1.2}), "tweedie_deviance_p1.2"),
        (LightGBMTrainer({"objective": "tweedie", "tweedie_variance_power": "{{ params.p }}"}), None),
        (LightGBMTrainer({"objective": "quantile", "alpha": 0.1}), "pinball_a0.1"),
        (LightGBMTrainer({"objective": "regression"}), None),
        (LightGBMTrainer({}), None),
        (LightGBMTrainer({}, group="query"), NDCG),
        (LightGBMTrainer({}, group="the query"), None),
        (XGBoostTrainer({"objective": "count:poisson"}), POISSON),
        (XGBoostTrainer({"objective": "reg:gamma"}), "gamma_deviance"),
        (XGBoostTrainer({"objective": "reg:tweedie", "tweedie_variance_power": 1.7}), "tweedie_deviance_p1.7"),
        (CatBoostTrainer({"loss_function": "Poisson"}), POISSON),
        (CatBoostTrainer({"loss_function": "Tweedie:variance_power=1.3"}), "tweedie_deviance_p1.3"),
        (CatBoostTrainer({"loss_function": "RMSE"}), None),
        (SklearnTrainer(HISTOGRAMS, {"loss": "gamma"}), "gamma_deviance"),
        (SklearnTrainer(HISTOGRAMS, {"loss": "poisson"}), POISSON),
        (SklearnTrainer(HISTOGRAMS), None),
        (SklearnTrainer("sklearn.linear_model.PoissonRegressor"), POISSON),
        (SklearnTrainer("sklearn.linear_model.GammaRegressor"), "gamma_deviance"),
        (SklearnTrainer("sklearn.linear_model.TweedieRegressor", {"power": 1.5}), "tweedie_deviance_p1.5"),
        (SklearnTrainer("sklearn.linear_model.TweedieRegressor", {"power": 1}), POISSON),
        (SklearnTrainer("sklearn.linear_model.TweedieRegressor"), None),
        (SklearnTrainer("sklearn.linear_model.TweedieRegressor", {"power": 3}), None),
        (SklearnTrainer("sklearn.ensemble.RandomForestRegressor", {"criterion": "poisson"}), POISSON),
        (SklearnTrainer("sklearn.ensemble.RandomForestRegressor"), None),
        (SklearnTrainer(EBM, {"objective": "tweedie_deviance:variance_power=1.6"}), "tweedie_deviance_p1.6"),
        (SklearnTrainer(EBM, {"objective": "gamma_deviance"}), "gamma_deviance"),
        (FunctionTrainer("mine:fit"), None),
    ],
)
def test_the_objective_of_a_trainer_says_what_its_predictions_mean(trainer, metric):
    spec = TrainSpec(dataset={"name": "d"}, model="m", trainer=trainer)
    assert own_metric(spec.trainer) == metric


@pytest.mark.parametrize(
    ("measured", "details", "learned", "known", "metric"),
    [
        (["rmse"], {}, None, True, None),
        (["rmse", POISSON], {}, POISSON, True, POISSON),
        # A deviance is among the measured metrics, but the objective is the mean squared error.
        (["rmse", POISSON], {}, None, True, None),
        # The author of code with an unknown objective declares it.
        (["rmse", POISSON], {}, None, False, POISSON),
        (["rmse", POISSON, "gamma_deviance"], {}, None, False, None),
        # A model with predictions below 0 has no deviance.
        (["rmse"], {}, POISSON, True, None),
        (["rmse", "mase", "smape"], FORECAST, None, True, "mase"),
        # The series never changed.
        (["rmse", "smape"], FORECAST, None, True, "smape"),
        (["rmse", "mase", "smape", POISSON], FORECAST, POISSON, True, "mase"),
        (["rmse", "mase", "smape", "pinball_a0.9"], FORECAST, "pinball_a0.9", True, "pinball_a0.9"),
        (["rmse", NDCG], {}, NDCG, True, NDCG),
        (["rmse", NDCG], {}, None, True, NDCG),
    ],
)
def test_training_chooses_the_metric_among_those_that_it_could_measure(measured, details, learned, known, metric):
    assert judged.chosen("regression", measured, details, learned=learned, known=known) == metric
    assert judged.chosen("binary", measured, details, learned=learned, known=known) is None


def test_every_place_judges_a_model_by_its_own_metric():
    canary = CanarySpec(model="m", version=2)
    for own, row_by_row in ((POISSON, POISSON), ("mase", "smape"), (None, "rmse"), ("pinball_a0.9", "pinball_a0.9")):
        model = contract(own, "smape")
        default = own or "rmse"
        assert judged.default_metric(model) == judged.default_metric(model, logged=True) == default
        assert judged.common_metric([model, model]) == monitored(Policy(), model) == default
        assert metric_of(Policy(), model) == canary_metric(canary, model, model) == row_by_row
        assert judged.headline_metrics("regression", model.metrics, own)[0] in (default, "smape")
    ranking = contract(NDCG)
    assert monitored(Policy(), ranking) == judged.common_metric([ranking]) == NDCG
    # Challengers cannot learn rankings, and a regression of the relevance has no column of groups in its rows.
    assert metric_of(Policy(), ranking) == "rmse"
    with pytest.raises(SpecError, match="some rows of a group"):
        canary_metric(canary, ranking, ranking)
    assert canary_metric(CanarySpec(model="m", version=2, metric="mae"), ranking, ranking) == "mae"


def test_contracts_of_earlier_releases_are_judged_as_before():
    for measured in ((), (POISSON,), ("mase", "smape"), (NDCG,)):
        model = contract(None, *measured)
        assert judged.default_metric(model) == monitored(Policy(max=30), model) == metric_of(Policy(), model) == "rmse"
        assert canary_metric(CanarySpec(model="m", version=2, max_loss=1), model, model) == "rmse"
    assert judged.default_metric(contract(None, "pinball_a0.9")) == "pinball_a0.9"
    assert judged.default_metric(contract(task="multiclass")) == "roc_auc_ovr"
    assert judged.default_metric(contract(None, "accuracy", task="multiclass"), logged=True) == "accuracy"


def test_models_of_the_mean_are_compared_by_rmse_and_others_not_at_all():
    counts, mean, ranking = contract(POISSON), contract(), contract(NDCG)
    assert judged.common_metric([counts, mean]) == judged.common_metric([counts, mean], logged=True) == "rmse"
    assert canary_metric(CanarySpec(model="m", version=2), counts, mean) == "rmse"
    for other in (ranking, contract("pinball_a0.9")):
        with pytest.raises(judged.NoCommonMetricError) as error:
            judged.common_metric([mean, other])
        assert error.value.metrics == sorted(["rmse", other.judged_by])
        with pytest.raises(SpecError, match="Set `metric`"):
            canary_metric(CanarySpec(model="m", version=2), mean, other)


@pytest.mark.parametrize("own", [POISSON, "mase", NDCG])
def test_an_absolute_bound_without_a_metric_is_not_read_in_another_unit(own):
    bound = {"min": 0.5} if own == NDCG else {"max": 30}
    with pytest.raises(SpecError, match=f"judged by {own} instead of rmse"):
        monitored(Policy(**bound), contract(own))
    assert monitored(Policy(metric="rmse", max=30), contract(own)) == "rmse"
    if own != NDCG:
        with pytest.raises(SpecError, match="max_loss.*instead of rmse"):
            canary_metric(CanarySpec(model="m", version=2, max_loss=1), contract(own), contract(own))


def test_a_search_optimises_the_metric_by_which_its_best_model_is_judged():
    poisson, power = LightGBMTrainer({"objective": "poisson"}), XGBoostTrainer({"objective": "reg:tweedie"})
    rate = {"learning_rate": Float(0.1, 0.3)}

    def metric(trainer, space, details, task="regression"):
        return searched(SearchTrainerSpec.model_validate(Search(trainer, space, trials=1)), details, task)

    assert metric(poisson, rate, {}) == POISSON
    assert metric(poisson, rate, FORECAST) == "mase"
    assert metric(LightGBMTrainer({}), {"objective": Categorical(["poisson", "regression"])}, {}) == "rmse"
    assert metric(power, {"tweedie_variance_power": Float(1.1, 1.9)}, {}) == "rmse"
    assert metric(LightGBMTrainer({}), rate, {}, "binary") == "roc_auc"


def test_intervals_around_a_quantile_are_refused():
    def spec(alpha, **fields):
        trainer = LightGBMTrainer({"objective": "quantile", "alpha": alpha})
        return TrainSpec(dataset={"name": "d"}, model="m", trainer=trainer, interval=0.9, **fields)

    with pytest.raises(ValueError, match=r"quantile 0\.9.*symmetric"):
        spec(0.9)
    assert spec(0.5).interval.coverage == 0.9
    declared = [{"metric": "quantile_coverage_gap", "alpha": 0.1}]
    with pytest.raises(ValueError, match=r"quantile 0\.1.*symmetric"):
        TrainSpec(dataset={"name": "d"}, model="m", trainer=FunctionTrainer("m:fit"), metrics=declared, interval=0.9)
