"""The default retraining policy in fewer and smaller worlds than ``python -m benchmarks.retraining``."""

from __future__ import annotations

from benchmarks.retraining import DELAYS, cells, figures


def test_a_sudden_change_is_found_and_an_unchanged_world_is_left_alone():
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
