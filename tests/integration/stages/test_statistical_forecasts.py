"""Statistical forecasts as features, as baselines of gates and as a candidate, in two worlds whose truth is known."""

from __future__ import annotations

import uuid
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.registry.records.verdict import Verdict
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.forecast_rows import step as forecast_rows
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.trainers import FunctionTrainer, LightGBMTrainer

# Only one of the processes that collect this file runs it, so the libraries are not imported here.
pytestmark = pytest.mark.skipif(
    not (find_spec("lightgbm") and find_spec("statsforecast")), reason="lightgbm or statsforecast is not installed"
)
START, SHOPS, DAYS, HORIZON = date(2024, 1, 1), 25, 84, 7
# The model without a trend: fitting one form takes a tenth of the time of a search over all forms.
ETS = {"AutoETS": {"model": "ANA"}}
BETTER_THAN_ETS = {"metric": "mase", "better_than_baseline_by": "5%", "baseline": "AutoETS"}
BETTER_THAN_NAIVE = {"metric": "mase", "better_than_baseline_by": 0, "confidence": 0.95}


def unchanged(features, labels, params, seed):
    """Fit a model that predicts the column ``params["column"]``."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    column = params["column"]
    return make_pipeline(make_column_transformer(("passthrough", [column])), LinearRegression()).fit(
        features, features[column]
    )


def exponential_smoothing() -> pa.Table:
    """Values of ETS(A,N,A): a level that moves slowly, a weekly season, and noise. No model forecasts them better."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 4, (SHOPS, DAYS))
    level = 100 + 40 * random.random((SHOPS, 1)) + 0.1 * np.cumsum(noise, axis=1) - 0.1 * noise
    season = random.normal(0, 10, (SHOPS, 7))[:, np.arange(DAYS) % 7]
    return table(level + season + noise, np.zeros((SHOPS, DAYS)))


def promotions() -> pa.Table:
    """Values that rise with promotions, which are planned in advance and which no past value shows."""
    random = np.random.default_rng(1)
    planned = random.random((SHOPS, DAYS + HORIZON)) < 0.3
    level = 100 + 40 * random.random((SHOPS, 1))
    values = level + 30 * planned + random.normal(0, 3, planned.shape)
    values[:, DAYS:] = np.nan
    return table(values, planned)


def table(values, planned) -> pa.Table:
    shop, day = np.nonzero(np.ones(values.shape))
    return pa.table(
        {
            "shop": [f"shop {each}" for each in shop],
            "day": [START + timedelta(days=int(each)) for each in day],
            "units": values[shop, day],
            "promotion": planned[shop, day].astype(int),
        }
    )


@pytest.fixture
def step(client, store):
    def call(module, spec, fields):
        return module.run(parse(spec, fields, "The step"), StepContext(store, f"results/{uuid.uuid4().hex}.json"))

    return call


def train_set(step, store, values: pa.Table, **fields):
    with DatasetWriter(store, "values") as writer:
        writer.write(values)
        entities = writer.commit()[0].ref
    rows = {
        "name": "rows", "entities": entities, "series": "shop", "time": "day", "value": "units", "every": "P1D",
        "horizon": HORIZON, "season": 7, "lags": [1, 7], "rolling": [14], "models": [ETS], **fields,
    }  # fmt: skip
    built = step(forecast_rows, ForecastRowsSpec, {**rows, "stride": 5})
    split = {"method": "time", "test_size": "18D"}
    chosen = {"name": "set", "entities": built.dataset, "timestamp": "origin", "keys": ["shop", "day"], "split": split}
    chosen |= {"columns": built.features, "label": "units", "task": "regression"}
    return rows, step(training_set, TrainingSetSpec, chosen).dataset


def fit(step, model, dataset, trainer):
    return step(train, TrainSpec, {"dataset": dataset, "model": model, "trainer": trainer}).candidate


def judged(step, candidates, *gates) -> Verdict:
    fields = {"candidates": candidates, "gates": gates, "groups": "shop", "metric": "mase"}
    return step(evaluate, EvaluateSpec, fields).verdict


def test_exponential_smoothing_is_the_candidate_on_series_for_which_it_is_optimal(step, store, client, tmp_path):
    model = f"smooth_{uuid.uuid4().hex[:8]}"
    rows, dataset = train_set(step, store, exponential_smoothing())
    boosted = fit(step, model, dataset, LightGBMTrainer(rounds=40, params={"num_leaves": 7}))
    verdict = judged(step, [boosted], BETTER_THAN_NAIVE, BETTER_THAN_ETS)
    # The model beats the seasonal-naive forecast, but not the statistical one.
    assert [gate.passed for gate in verdict.candidates[0].gates[:2]] == [True, False]
    assert verdict.winner is None
    test = open_dataset(store, dataset).table("test")
    truth, forecast, scale = (test[column].to_numpy() for column in ("units", "AutoETS", "mase_scale"))
    assert verdict.statistical_metrics["AutoETS"]["mase"] == pytest.approx(np.mean(np.abs(truth - forecast) / scale))
    assert verdict.statistical_metrics["AutoETS"]["mase"] < verdict.baseline_metrics["mase"]

    column = fit(step, model, dataset, FunctionTrainer(f"{__name__}.unchanged", {"column": "AutoETS"}))
    verdict = judged(step, [boosted, column], BETTER_THAN_NAIVE)
    assert verdict.winner == column, verdict.reason
    card = Path(client.download_artifacts(boosted.run_id, "evaluation/model_card.md", str(tmp_path))).read_text()
    head, row = (
        next(line for line in card.splitlines() if line.startswith(f"| {name} |")) for name in ("Metric", "mase")
    )
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert float(cells["AutoETS |"].rstrip(" |")) == pytest.approx(
        verdict.statistical_metrics["AutoETS"]["mase"], rel=1e-3
    )
    with pytest.raises(SpecError, match="AutoETS"):
        judged(step, [column], {**BETTER_THAN_ETS, "baseline": "AutoTheta"})
    assert step(promote, PromoteSpec, {"verdict": verdict}).promoted
    newest = step(forecast_rows, ForecastRowsSpec, {**rows, "name": "scoring", "origins": "newest"})
    scored = open_dataset(store, step(score, ScoreSpec, {"model": model, "dataset": newest.dataset}).dataset).table()
    forecasts = {
        (row["shop"], row["day"]): row["AutoETS"] for row in open_dataset(store, newest.dataset).table().to_pylist()
    }
    assert [row["prediction"] for row in scored.to_pylist()] == pytest.approx(
        [forecasts[row["shop"], row["day"]] for row in scored.to_pylist()], rel=1e-5
    )


def test_a_model_with_known_promotions_beats_the_statistical_forecast(step, store):
    model = f"plan_{uuid.uuid4().hex[:8]}"
    _, dataset = train_set(step, store, promotions(), known=["promotion"])
    boosted = fit(step, model, dataset, LightGBMTrainer(rounds=40, params={"num_leaves": 7}))
    verdict = judged(step, [boosted], BETTER_THAN_NAIVE, {**BETTER_THAN_ETS, "confidence": 0.95})
    assert verdict.winner == boosted, verdict.reason
    gate = verdict.candidates[0].gates[1]
    assert gate.improvement == pytest.approx(
        verdict.statistical_metrics["AutoETS"]["mase"] - verdict.candidates[0].metrics["mase"]
    )
