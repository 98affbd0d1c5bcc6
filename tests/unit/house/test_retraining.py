"""The default retraining policy in fewer and smaller worlds than ``python -m benchmarks.retraining``."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from benchmarks.reference_strategies import best_possible, every_second_window, trained_after
from benchmarks.retraining import DELAYS, cells, figures


def test_a_sudden_change_is_found_and_an_unchanged_world_rarely_requests_retraining():
    found = list(cells(["none", "sudden"], sizes=[200], seeds=1))
    assert len(found) == 2 * 2 * len(DELAYS)
    measured = figures(found)
    assert measured["found_within_one_window"] == 1
    # One training in 24 windows and 6 replays is within the stated 5%.
    assert measured["false_ask_rate"] <= 0.05
    assert measured["worst_loss_to_every_window"] <= 1.05
    assert measured["worst_retrains_to_every_window"] <= 0.5
    assert measured["worst_loss_to_never"] <= 1.02
    assert all(cell.mean("to_never") < 0.8 for cell in found if cell.world == "sudden")
    # With the best choice of half of the trainings, the loss is never larger than with a training after every window.
    assert all(item.best_possible_at_half <= item.to_every for cell in found for item in cell.outcomes)


def test_no_choice_of_windows_is_better_than_the_best_possible_one():
    random = np.random.default_rng(0)
    # The labels of the last two windows arrive too late for a training.
    losses = {model: list(random.uniform(size=8)) for model in (None, *range(6))}
    for most in range(4):
        chosen = [numbers for count in range(most + 1) for numbers in combinations(range(6), count)]
        least = min(trained_after(losses, numbers) for numbers in chosen)
        assert best_possible(losses, most) == pytest.approx(least)
    assert every_second_window(losses) == pytest.approx(
        (trained_after(losses, (0, 2, 4)) + trained_after(losses, (1, 3, 5))) / 2
    )
