"""The gains of past trainings, and how large a gain must be if they have not paid off."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.gains import MIN_TRAININGS, best_gain, compare, past_trainings
from airflow_mlops.policy.details.challengers import challengers_of
from airflow_mlops.policy.spec import Policy

FIRST_GAINS = (0.18, 0.2, 0.22, 0.2, 0.24, 0.1, 0.2)
"""Gains of a challenger in the first windows of seven champions. Median 0.2; median absolute deviation 0.02."""
LIMIT = 0.2 + 2 * 0.02 * 1.4826


def comparison(version: int, gain: float, brought: float | None = None, since_training: int = 1) -> Comparison:
    """The comparison of one window, with a champion whose loss is 0.5.

    :param gain: the gain of the challenger, as a share of the loss of the champion
    :param brought: the gain of the last training, as a share of the loss of the replaced version; ``None`` if unknown
    """
    losses = np.array([1.0, 1.0])
    challenger = compare(losses, losses, None, 100, 0.7)
    return Comparison(
        champion=ModelVersionRef(model="delays", version=version, run_id="r"),
        metric="roc_auc",
        rows=100,
        value=0.5,
        loss=0.5,
        challengers=[challenger.model_copy(update={"gain": gain / 2, "standard_error": 0.001})],
        since_training=since_training,
        replaced_loss=None if brought is None else 0.5 / (1 - brought),
    )


def history(*brought: float | None) -> list[tuple[int, Comparison]]:
    """Comparisons of the first windows of the champions 1, 2, ..., after trainings that ``brought`` these gains."""
    found = [comparison(number, FIRST_GAINS[number - 1], gain) for number, gain in enumerate(brought, 1)]
    return [(len(brought) - at, item) for at, item in enumerate(found)]


def asks(gain: float, earlier: list[tuple[int, Comparison]]) -> bool:
    return best_gain(comparison(9, gain, since_training=4), earlier, 0.95, 0.02) is not None


def test_only_an_unusually_large_gain_counts_if_trainings_have_not_paid():
    paid, unpaid = history(None, *[0.2] * 6), history(None, *[-0.2, 0.1, 0.1] * 2)
    assert asks(LIMIT + 0.01, paid)
    assert not asks(LIMIT + 0.01, unpaid)
    assert asks(LIMIT + 0.03, unpaid)
    found = best_gain(comparison(9, 0.3, since_training=4), unpaid, 0.95, 0.02)
    assert found.usual == pytest.approx(LIMIT, abs=1e-5)


def test_trainings_have_paid_if_they_brought_min_gain_on_average():
    current = comparison(9, 0.0, since_training=4)
    # One training with a large gain outweighs five trainings without a gain.
    for brought, gain, paid in ((0.135, 0.0225, True), (0.105, 0.0175, False)):
        known = past_trainings(current, history(None, brought, *[0] * 5), 0.02)
        assert (known.number, known.gain, known.paid) == (6, pytest.approx(gain), paid)
    assert past_trainings(current, history(None, 0.135, *[0] * 5), 0.05).paid is False


def test_few_trainings_do_not_show_whether_trainings_pay():
    few = history(None, *[-0.5] * (MIN_TRAININGS - 1))
    assert past_trainings(comparison(9, 0.0, since_training=4), few, 0.02) is None
    assert asks(0.23, few)
    # The training of the present champion counts, too.
    assert past_trainings(comparison(9, 0.0, -0.5), few, 0.02).number == MIN_TRAININGS
    # Losses of another metric do not.
    others = [(at, item.model_copy(update={"metric": "brier"})) for at, item in few]
    assert past_trainings(comparison(9, 0.0, -0.5), others, 0.02) is None


def test_the_report_says_that_retraining_has_not_paid():
    for brought, unpaid in ((-0.1, True), (0.1, False)):
        known = history(None, *[brought, brought * 2] * 3)
        current = comparison(9, 0.0, since_training=4)
        trainings = past_trainings(current, known, 0.02)
        facts = challengers_of(current.model_copy(update={"trainings": trainings}), Policy())
        assert any("+15.0%" in fact for fact in facts) is unpaid
