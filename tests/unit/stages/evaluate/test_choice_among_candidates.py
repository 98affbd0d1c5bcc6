"""Among candidates that pass every gate, chance does not choose: the one-standard-error rule, in the user's order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import prepare
from airflow_mlops.metrics.values import measure
from airflow_mlops.registry.records.verdict import CandidateVerdict
from airflow_mlops.stages.evaluate.verdict import choose

ROWS = 500


def candidate(version, rows, passed=True):
    ref = ModelVersionRef(model="delays", version=version, run_id="")
    return CandidateVerdict(candidate=ref, metrics=measure(rows), gates=[], passed=passed)


def classified(truth, signal):
    chance = 1 / (1 + np.exp(-signal))
    both = np.column_stack([1 - chance, chance])
    return prepare("binary", truth, (chance >= 0.5).astype(int), chance, both, [0, 1], positive=1)


def world(seed, noises, task="binary"):
    """Models that predict the truth, each with an error of its own, in the order of ``noises``."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=ROWS)
    known = [signal + noise * random.normal(size=ROWS) for noise in noises]
    if task == "regression":
        return [prepare(task, signal + random.normal(size=ROWS), one, one, None, []) for one in known]
    truth = (random.random(ROWS) < 1 / (1 + np.exp(-signal))).astype(int)
    return [classified(truth, one) for one in known]


def chosen(found, metric="roc_auc", passed=None, order=None):
    judged = [
        candidate(number, rows, True if passed is None else passed[number]) for number, rows in enumerate(found, 1)
    ]
    rows = {item.candidate: one for item, one in zip(judged, found, strict=True)}
    judged = [judged[number] for number in order or range(len(judged))]
    return choose(judged, find_metric(metric), rows, Resampling(ROWS))


@pytest.mark.parametrize(
    ("metric", "task", "worlds"),
    # Bootstraps take longer than DeLong's formula.
    [("roc_auc", "binary", 400), ("rmse", "regression", 60)],
)
def test_of_two_equally_good_candidates_the_first_wins_unless_the_difference_exceeds_a_standard_error(
    metric, task, worlds
):
    found = [world(seed, (0.7, 0.7), task) for seed in range(worlds)]
    # A normal variable exceeds one standard deviation with a probability of 15.9%.
    expected, tolerance = 0.841, 3 * math.sqrt(0.841 * 0.159 / worlds)
    first = np.mean([chosen(rows, metric).best.candidate.version == 1 for rows in found])
    assert first == pytest.approx(expected, abs=tolerance)
    # The result in the other order is the same, so it does not depend on the version number.
    second = np.mean([chosen(rows, metric, order=(1, 0)).best.candidate.version == 2 for rows in found])
    assert second == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("metric", "task"), [("roc_auc", "binary"), ("rmse", "regression")])
def test_a_much_better_candidate_wins_wherever_it_is_listed(metric, task):
    for seed in range(10):
        found = world(seed, (2.5, 0.2), task)
        for order in ((0, 1), (1, 0)):
            choice = chosen(found, metric, order=order)
            assert (choice.best.candidate.version, choice.better) == (2, None)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), noises=st.lists(st.floats(0, 3), min_size=1, max_size=4), data=st.data())
def test_the_choice_has_passed_is_nearly_the_best_and_no_earlier_candidate_is(seed, noises, data):
    found = world(seed, noises)
    passed = {n: data.draw(st.booleans()) for n in range(1, len(noises) + 1)}
    choice = chosen(found, passed=passed)
    values = {number: measure(rows)["roc_auc"] for number, rows in enumerate(found, 1)}
    allowed = [number for number in values if passed[number]] or list(values)
    best = max(allowed, key=values.__getitem__)
    version = choice.best.candidate.version
    assert version in allowed
    if not any(passed.values()):
        assert (version, choice.better) == (best, None)
    elif choice.better is None:
        assert version == best
    else:
        assert choice.better.candidate.version == best
        assert version < best
        assert 0 <= values[best] - values[version] <= choice.standard_error


def test_a_candidate_that_fails_a_gate_is_not_chosen_however_close():
    found = world(0, (0.5, 0.5))
    assert chosen([found[0], found[0]], passed={1: False, 2: True}).best.candidate.version == 2


def test_without_predictions_or_without_a_standard_error_the_best_value_wins():
    found = world(0, (0.71, 0.7))
    judged = [candidate(number, rows) for number, rows in enumerate(found, 1)]
    best = max(judged, key=lambda item: item.metrics["roc_auc"])
    judged = [item for item in judged if item is not best] + [best]
    metric, rows = find_metric("roc_auc"), {item.candidate: None for item in judged}
    assert choose(judged, metric, rows, Resampling(ROWS)).best is best
    # All rows are one cluster, so nothing is known about chance.
    rows = {
        item.candidate: one for item, one in zip(sorted(judged, key=lambda x: x.candidate.version), found, strict=True)
    }
    alone = Resampling(ROWS, clusters=np.zeros(ROWS, np.int64))
    assert choose(judged, metric, rows, alone).best is best
