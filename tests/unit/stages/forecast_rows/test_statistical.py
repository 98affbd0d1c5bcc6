"""Statistical forecasts of forecast rows: fitted to the past alone, equal in training and scoring, with rules for failures."""

from __future__ import annotations

import os
import pickle
from contextlib import contextmanager
from datetime import date, timedelta
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import EmptyWindowError, SpecError, TrainingError
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.forecast_rows import statistical
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsSpec
from airflow_mlops.stages.forecast_rows.statistical import Part
from airflow_mlops.stages.forecast_rows.step import run
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec

# Only one of the processes that collect this file runs it, so the library is not imported here.
pytestmark = pytest.mark.skipif(find_spec("statsforecast") is None, reason="statsforecast is not installed")
START, HORIZON, SEASON = date(2024, 1, 1), 3, 2
SES = {"SimpleExponentialSmoothing": {"alpha": 0.3, "alias": "ses"}}
SEASONAL = {"SeasonalWindowAverage": {"window_size": 2, "alias": "seasonal"}}


@pytest.fixture(scope="module")
def store():
    return ArtifactStore("memory://statistical")


def build(store, series: dict[str, list[float | None]], **fields):
    """Build rows of daily values from :data:`START`. A missing value has no row."""
    known = [(n, START + timedelta(d), v) for n, vs in series.items() for d, v in enumerate(vs) if v is not None]
    shops, days, values = zip(*known, strict=True)
    with DatasetWriter(store, "sales") as writer:
        writer.write(pa.table({"shop": shops, "day": days, "units": pa.array(values, pa.float64())}))
        entities = writer.commit()[0].ref
    usual = {
        "name": "rows", "entities": entities, "series": "shop", "time": "day", "value": "units", "every": "P1D", "horizon": HORIZON,
        "season": SEASON, "lags": [1], "models": [SES, SEASONAL],
    }  # fmt: skip
    result = run(parse(ForecastRowsSpec, {**usual, **fields}, "The step"), StepContext(store=store))
    return result, open_dataset(store, result.dataset).table().to_pylist()


def expected(values: list[float | None], first: int, origin: int, step: int) -> tuple[float, float] | None:
    """Both forecasts, from a list of values up to the origin alone; ``None`` if there are too few known values."""
    from statsforecast.models import SeasonalWindowAverage, SimpleExponentialSmoothing

    past = values[first : origin + 1]
    while past[-1] is None:
        past = past[:-1]
    if sum(value is not None for value in past) < 2 * SEASON:
        return None
    for n, value in enumerate(past):
        past[n] = value if value is not None else past[n - SEASON] if n >= SEASON else past[n - 1]
    # Steps without a value before the origin are forecast as well.
    ahead = origin + 1 - first - len(past) + step
    models = SimpleExponentialSmoothing(0.3), SeasonalWindowAverage(SEASON, 2)
    return tuple(float(model.forecast(y=np.array(past), h=ahead)["mean"][-1]) for model in models)


def with_values(series: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    return {name: values for name, values in series.items() if any(value is not None for value in values)}


VALUES = st.lists(st.one_of(st.none(), st.integers(-5, 5).map(float)), min_size=1, max_size=14)


# Examples are small. Shrinking one takes minutes.
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(one=VALUES, two=VALUES, cut=st.integers(3, 12), shift=st.sampled_from([None, 7.0]))
def test_forecasts_use_only_values_up_to_the_origin(store, one, two, cut, shift):
    series = with_values({"b c": one, "a": two})
    later = with_values(
        {n: [*vs[:cut], *(None if None in (v, shift) else v + shift for v in vs[cut:])] for n, vs in series.items()}
    )
    if not later:
        return
    try:
        (result, rows), (_, changed) = build(store, series), build(store, later)
    except EmptyWindowError:
        return
    missing = set()
    for row in rows:
        values, origin = series[row["shop"]], (row["origin"] - START).days
        first = next(day for day, value in enumerate(values) if value is not None)
        wanted = expected(values, first, origin, row["step"])
        if wanted is None:
            wanted = (row["seasonal_naive"],) * 2
            missing.add((row["shop"], origin))
        assert (row["ses"], row["seasonal"]) == pytest.approx(wanted, abs=1e-12), row
    assert result.fallbacks == ({"ses": len(missing), "seasonal": len(missing)} if missing else {})
    before, after = (
        {
            (row["shop"], row["origin"], row["step"]): (row["ses"], row["seasonal"])
            for row in found
            if row["origin"] < START + timedelta(cut)
        }
        for found in (rows, changed)
    )
    both = before.keys() & after.keys()
    assert {key: before[key] for key in both} == {key: after[key] for key in both}


def test_scoring_has_the_forecasts_of_training(store):
    random = np.random.default_rng(0)
    values = [float(v) for v in random.poisson(9, 40)]
    series = {"a": values, "late": [*values[:38], None, None]}
    result, scored = build(store, series, origins="newest", models=["AutoTheta", SES])
    manifest = open_dataset(store, result.dataset).manifest
    assert manifest.details["statsforecast"] == version("statsforecast")
    assert result.features[-3:] == ["seasonal_naive", "AutoTheta", "ses"]
    assert not result.fallbacks
    _, trained = build(store, {name: [*each, *values[:3]] for name, each in series.items()}, models=["AutoTheta", SES])
    again = [row for row in trained if (row["origin"] - START).days == 39]
    assert [{name: value for name, value in row.items() if name != "units"} for row in again] == scored
    assert len({row["AutoTheta"] for row in scored}) > 1
    # The same inputs give the same bytes.
    assert build(store, series, origins="newest", models=["AutoTheta", SES])[0].dataset.id == result.dataset.id


def test_a_failed_fit_has_the_seasonal_naive_forecast(store):
    random = np.random.default_rng(1)
    values = [float(v) for v in random.poisson(9, 60)]
    # This model needs more than 12 values. The constant series has no variance.
    model = {"ARIMA": {"order": [12, 0, 0], "alias": "long"}}
    series = {"a": values, "constant": [4.0] * 60, "new": [None] * 52 + values[:8]}
    result, rows = build(store, series, origins="newest", models=[model, "AutoTheta"])
    assert result.fallbacks == {"long": 1}
    found = {shop: [row for row in rows if row["shop"] == shop] for shop in series}
    assert all(row["long"] == row["seasonal_naive"] for row in found["new"])
    assert any(row["long"] != row["seasonal_naive"] for row in found["a"])
    assert all(row["long"] == row["AutoTheta"] == pytest.approx(4) for row in found["constant"])
    with pytest.raises(TrainingError, match="long failed in every fit .1."):
        build(store, {"new": series["new"]}, origins="newest", models=[model])


def test_forecasts_that_are_not_finite_are_left_out(store):
    with pytest.raises(TrainingError, match="not finite"):
        build(store, {"a": [1.0] * 9}, models=[{"ConstantModel": {"constant": 1e200}}])


def test_many_fits_run_in_other_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    fields = {"name": "rows", "entities": "sales", "series": "shop", "time": "day", "value": "units", "every": "P1D"}
    spec = parse(ForecastRowsSpec, {**fields, "horizon": 2, "lags": [1], "models": [SES]}, "The step")
    values = np.random.default_rng(3).poisson(9, 20).astype(float)
    parts = [Part(n, np.arange(20), values + n, np.arange(10, 20)) for n in range(25)]
    fit, sent = statistical.fit_part, []

    @contextmanager
    def send(count):
        # What processes exchange is pickled. Importing the library in each process would take seconds.
        assert count == 2
        yield (
            lambda fit, group: (
                sent.extend(group)
                or pickle.loads(pickle.dumps([pickle.loads(pickle.dumps(fit))(part) for part in group]))
            )
        )

    monkeypatch.setattr(statistical, "_processes", send)
    found = list(statistical._fitted(iter(parts), spec))
    assert len(sent) == 25
    alone = [fit(part, models=spec.models, season=1, horizon=2, recent=2) for part in parts]
    assert [part.id for part, _ in found] == list(range(25))
    np.testing.assert_array_equal([each[0] for _, each in found], [each[0] for each in alone])
    sent.clear()
    assert len(list(statistical._fitted(iter(parts[:3]), spec))) == 3
    assert not sent, "starting processes takes longer than 30 fits"


def test_processes_keep_the_order():
    with statistical._processes(2) as run_in_processes:
        found = run_in_processes(lambda part: (part, os.getpid()), list(range(20)))
    assert [part for part, _ in found] == list(range(20))
    assert os.getpid() not in {process for _, process in found}


def test_intermittent_demand(store):
    random = np.random.default_rng(2)
    # A shop sells 5 units on every third day on average.
    demand = np.where(random.random((20, 200)) < 1 / 3, random.poisson(5, (20, 200)), 0)
    series = {f"shop {n}": [float(v) for v in each] for n, each in enumerate(demand)}
    _, rows = build(store, series, season=1, origins="newest", models=["CrostonSBA"])
    found = np.array([row["CrostonSBA"] for row in rows])
    assert found.min() > 0
    assert found.mean() == pytest.approx(5 / 3, rel=0.15)


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        (["AutoETZ"], "AutoETS"),
        (["GARCH"], "unknown statistical model"),
        ([{"AutoETS": {"modell": "ZZZ"}}], "did you mean 'model'"),
        ([{"SeasonalWindowAverage": {}}], "cannot be used: TypeError"),
        (["AutoETS", "AutoETS"], "AutoETS.*more than once"),
        ([{"AutoETS": {"alias": "units"}}], "units.*more than once"),
        ([{"AutoETS": {"alias": ""}}], "not empty"),
        ([{"AutoETS": {}, "AutoTheta": {}}], "as a dict such as"),
        ([3], "models.0"),
    ],
)
def test_unknown_models_and_parameters_are_refused(store, models, problem):
    with pytest.raises(SpecError, match=problem):
        build(store, {"a": [1.0] * 9}, models=models)


def test_a_training_set_keeps_the_forecasts_for_the_evaluation(store):
    built, _ = build(store, {name: [float(v % 7) for v in range(40)] for name in "ab"})
    spec = {
        "name": "set", "entities": built.dataset, "timestamp": "origin", "keys": ["shop", "day"], "columns": ["lag_1"],
        "label": "units", "task": "regression", "split": {"method": "time", "test_size": 0.3},
    }  # fmt: skip
    found = training_set.run(parse(TrainingSetSpec, spec, "The step"), StepContext(store=store)).dataset
    manifest = open_dataset(store, found).manifest
    assert manifest.details["features"] == ["lag_1"]
    assert {"ses", "seasonal"} <= set(manifest.column_names)
    assert manifest.details["forecast"]["statistical"] == ["ses", "seasonal"]
