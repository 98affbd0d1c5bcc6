"""Mean losses of strategies that retrain after at most about half of the windows, for :mod:`benchmarks.retraining`.

They show what is possible in a world: the best choice of windows, which needs the labels of all windows in advance, and a
calendar, which needs no labels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

Losses = Mapping[int | None, Sequence[float]]
"""The result of :meth:`airflow_mlops.stages.backtest.replay.Replay.losses_by_training` for windows that all have labels."""


def best_possible(losses: Losses, trainings: int) -> float:
    """Return the smallest mean loss that at most ``trainings`` trainings can reach, by dynamic programming."""
    windows = len(losses[None])
    # The smallest total loss so far, by the current model and the number of trainings.
    totals: dict[tuple[int | None, int], float] = {(None, 0): 0.0}
    for number in range(windows):
        totals = {(model, count): total + losses[model][number] for (model, count), total in totals.items()}
        if number in losses:
            for count in range(trainings):
                least = min((total for (_, known), total in totals.items() if known == count), default=math.inf)
                if least < math.inf:
                    totals[number, count + 1] = least
    return min(totals.values()) / windows


def every_second_window(losses: Losses) -> float:
    """Return the mean loss of training after every second window, averaged over the two ways to begin."""
    numbers = sorted(number for number in losses if number is not None)
    return fmean(trained_after(losses, numbers[begin::2]) for begin in (0, 1))


def trained_after(losses: Losses, numbers: Collection[int]) -> float:
    """Return the mean loss of training after the windows ``numbers``."""
    model: int | None = None
    found = []
    for number in range(len(losses[None])):
        found.append(losses[model][number])
        model = number if number in numbers else model
    return fmean(found)
