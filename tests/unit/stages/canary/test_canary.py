"""A canary that is no worse than the champion is withdrawn with the stated probability, over all its comparisons."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.two_groups import Group
from airflow_mlops.registry.canary import Rollout
from airflow_mlops.registry.records.canary import CanaryStep
from airflow_mlops.registry.records.verdict import GateResult
from airflow_mlops.stages.canary import evidence, step
from airflow_mlops.stages.canary.comparison import Comparison, compare, error_of_look
from airflow_mlops.stages.canary.evidence import Answers
from airflow_mlops.stages.canary.spec import CanarySpec

SHARES = (0.05, 0.2, 0.5)
NOW = datetime.now(timezone.utc).replace(microsecond=0)
REGRESSION = ModelContract(task="regression", label="y", features=[], classes=[], dataset_name="d", dataset_id="i")
BINARY = REGRESSION.model_copy(update={"task": "binary", "classes": [False, True], "positive": True})


def looks(seed: int, worse: float = 0.0, slower: float = 1.0, number: int = 8) -> int | None:
    """The comparison that withdraws a canary, each after 100 further labels; ``None`` if none of eight does.

    The rows of each comparison are more or less difficult than those before, and its share is larger.
    """
    random = np.random.default_rng(seed)
    parts: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[], []]
    for look in range(1, number + 1):
        share, difficult = SHARES[min(look - 1, 2)], random.uniform(0.05, 0.3)
        for arm, rows in enumerate((100, min(800, int(100 * (1 - share) / share)))):
            wrong = random.random(rows) < difficult + (worse if arm == 0 else 0)
            # Slow periods hit both.
            times = random.lognormal(2 + 3 * difficult, 0.5, rows) * (slower if arm == 0 else 1)
            parts[arm].append((wrong.astype(float), np.log(times), np.full(rows, look - 1)))
        mine, theirs = (
            Answers(Group(losses, strata), Group(latencies, strata), len(losses), 100)
            for losses, latencies, strata in (map(np.concatenate, zip(*arm, strict=True)) for arm in parts)
        )
        found = compare(mine, theirs, "accuracy", look, 0.9, None)
        if found is not None and found.worse:
            return look
    return None


def test_a_canary_that_is_no_worse_is_withdrawn_with_at_most_the_stated_probability():
    """The stated probability is 10%, half of it for performance. Without the correction for eight comparisons, it is twice that."""
    assert sum(2 * error_of_look(look, 0.9) for look in range(1, 10_000)) == pytest.approx(0.1, rel=1e-3)
    assert sum(looks(seed) is not None for seed in range(120)) <= 6


def test_a_canary_that_is_worse_or_slow_is_withdrawn():
    assert all(looks(seed, worse=0.15) is not None for seed in range(15))
    assert all(looks(seed, slower=3.0) == 1 for seed in range(5))


def answers(*parts: np.ndarray) -> Answers:
    values = np.concatenate(parts)
    strata = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Answers(Group(values, strata), Group(np.zeros(len(values)), strata), len(values), len(values))


def test_a_greater_loss_than_accepted_must_be_ruled_out():
    mine, theirs = answers(np.tile([0.0, 0, 0, 1], 100)), answers(np.tile([0.0, 0, 0, 1], 1_000))
    plain = compare(mine, theirs, "accuracy", 1, 0.95, None)
    assert (plain.worse, plain.uncertain) == ("", "")
    assert plain.metrics == {"accuracy": 0.75}
    strict, loose = (compare(mine, theirs, "accuracy", 1, 0.95, accepted) for accepted in (0.02, 0.2))
    assert strict.worse == ""
    assert "a loss of more than 0.020 is not ruled out" in strict.uncertain
    assert (loose.worse, loose.uncertain) == ("", "")
    bad = answers(np.tile([0.0, 1], 200))
    assert "Accuracy is 0.500" in compare(bad, theirs, "accuracy", 1, 0.95, None).worse
    assert compare(bad, theirs, "accuracy", 1, 0.95, 0.4).worse == ""


def write(store, version: int, window: Window, rows: dict) -> None:
    count = len(rows["scored_at"])
    table = pa.table(
        {
            "prediction": [0.0] * count, "score": pa.array(rows["score"], pa.float64()), "model_name": ["m"] * count,
            "model_version": [version] * count, "scored_at": pa.array(rows["scored_at"], pa.timestamp("us", "UTC")),
            "latency_ms": [2.0] * count, "request_row": rows.get("request_row", [0] * count),
            "label": pa.array(rows["label"], pa.float64()), "customer": rows.get("customer", [1] * count),
        }
    )  # fmt: skip
    with DatasetWriter(store, f"m_{version}") as writer:
        writer.write(table)
        writer.commit(window=window, details={"model": "m"})


def test_rows_belong_to_the_share_at_their_time_and_to_their_window(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}")
    hours = [NOW - timedelta(hours=number) for number in (4, 3, 2, 1)]
    windows = [Window(start=start, end=end) for start, end in zip(hours, hours[1:], strict=False)]
    minute = timedelta(minutes=1)
    shares = [(hours[0] + 30 * minute, 0.05), (hours[1] + 30 * minute, 0.2)]
    # One row is from before the canary. The others are from the first share: one lacks a label, and one is a second row
    # of a request.
    write(store, 2, windows[0], {
        "scored_at": [hours[0] + minute, *[hours[0] + 40 * minute] * 3], "score": [9, 1, 2, 3], "label": [0, 1, 1, None],
        "request_row": [0, 0, 1, 0],
    })  # fmt: skip
    write(store, 2, windows[1], {"scored_at": [hours[1] + 20 * minute, hours[1] + 50 * minute], "score": [0, 0], "label": [0, 2],
                                 "customer": [1, 2]})  # fmt: skip
    write(store, 2, windows[2], {"scored_at": [hours[2] + minute], "score": [0], "label": [3]})
    ref, strata = ModelVersionRef(model="m", version=2, run_id=""), {}
    found = evidence.read(store, "m_2", ref, REGRESSION, "mae", shares, "customer", strata)
    assert found.losses.values.tolist() == [0, 1, 0, 2, 3]
    first, second, third = (window.identity for window in windows)
    names = {number: key for key, number in strata.items()}
    assert [names[number] for number in found.losses.strata] == [
        (0, first), (0, first), (0, second), (1, second), (1, third),
    ]  # fmt: skip
    assert found.losses.clusters[[0, 3]].tolist() == [found.losses.clusters[4], found.losses.clusters[0] + 1]
    assert (found.labels, found.labels_now) == (5, 2)
    # There is one latency for each request, also for requests without a label.
    assert found.latencies.values.tolist() == [np.log(2.0)] * 5
    other = ModelVersionRef(model="m", version=3, run_id="")
    assert evidence.read(store, "m_2", other, REGRESSION, "mae", shares, None, strata).labels == 0
    assert evidence.read(store, "absent", ref, REGRESSION, "mae", shares, None, strata).labels == 0
    with pytest.raises(SpecError, match="has no column 'shop'.*groups"):
        evidence.read(store, "m_2", ref, REGRESSION, "mae", shares, "shop", strata)
    with pytest.raises(SpecError, match="predictions of model 'm'.*'n'"):
        evidence.read(store, "m_2", ref.model_copy(update={"model": "n"}), REGRESSION, "mae", shares, None, strata)


def test_a_window_is_one_stratum_in_every_time_zone(tmp_path):
    store, hour = ArtifactStore(f"file://{tmp_path}"), NOW - timedelta(hours=1)
    strata = {}
    for version, zone in ((1, "UTC"), (2, "Europe/Berlin")):
        window = Window(start=hour, end=NOW, zone=zone)
        write(store, version, window, {"scored_at": [hour], "score": [0], "label": [1]})
        ref = ModelVersionRef(model="m", version=version, run_id="")
        evidence.read(store, f"m_{version}", ref, REGRESSION, "mae", [(hour, 0.05)], None, strata)
    assert len(strata) == 1


def test_areas_are_compared_within_the_times_of_one_share(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}")
    hours = [NOW - timedelta(hours=number) for number in (3, 2, 1)]
    for start, end, labels in ((hours[0], hours[1], [1, 1]), (hours[1], hours[2], [0, 0])):
        write(store, 2, Window(start=start, end=end), {
            "scored_at": [start + timedelta(minutes=1)] * 2, "score": [0.2, 0.7] if labels[0] else [0.6, 0.1], "label": labels,
        })  # fmt: skip
    ref = ModelVersionRef(model="m", version=2, run_id="")
    contract = BINARY.model_copy(update={"classes": [0.0, 1.0], "positive": 1.0})
    found = evidence.read(store, "m_2", ref, contract, "roc_auc", [(hours[0], 0.1)], None, {})
    assert (found.labels, set(found.losses.strata)) == (4, {0})
    assert found.losses.values.mean() == pytest.approx(0.25)


MEASURED = {"roc_auc": 0.7, "accuracy": 0.8, "brier": 0.2}
LABELS_ONLY = {"f1": 0.5, "balanced_accuracy": 0.6, "accuracy": 0.8}


@pytest.mark.parametrize(
    ("canary", "champion", "metric"),
    [
        (MEASURED, MEASURED, "roc_auc"),
        (LABELS_ONLY, MEASURED, "accuracy"),
        (MEASURED, LABELS_ONLY, "accuracy"),
        ({}, MEASURED, "roc_auc"),
        ({}, LABELS_ONLY, "accuracy"),
    ],
)
def test_the_default_metric_is_one_that_both_versions_have(canary, champion, metric):
    versions = (BINARY.model_copy(update={"metrics": metrics}) for metrics in (canary, champion))
    assert step._metric(CanarySpec(model="m", version=2), *versions) == metric


def test_shares_ascend_and_leave_rows_to_the_champion():
    assert CanarySpec(model="m", version="challenger").shares == [0.05, 0.2, 0.5]
    for shares in ([0.5, 0.2], [0.2, 0.2], [0.0], [1.0], []):
        with pytest.raises(ValueError, match="shares"):
            CanarySpec(model="m", version=2, shares=shares)


def test_a_canary_with_negative_predictions_is_not_compared_by_a_deviance():
    def losses(score):
        table = pa.table({"label": [1.0, 2.0], "prediction": score, "score": score})
        tables = {(0, "2013-04"): table, (0, "2013-05"): table.slice(1)}
        return evidence._losses(tables, REGRESSION, "poisson_deviance", None, {}, 0)

    group, labels = losses([1.0, 1.0])
    assert (labels, group.values.tolist()) == (3, pytest.approx([0.0, 4 * math.log(2) - 2, 4 * math.log(2) - 2]))
    with pytest.raises(
        EvaluationError, match=r"compared by poisson_deviance, because 1 of 2 predictions are not above 0"
    ):
        losses([-1.0, 1.0])


@pytest.mark.parametrize(
    ("shares", "text"),
    [([0.004, 0.125], "12.5% of the requests instead of 0.4%"), ([0.05, 0.2], "20% of the requests instead of 5%")],
)
def test_the_ledger_has_the_share_of_a_canary_as_it_is(shares, text):
    ref, champion = (ModelVersionRef(model="m", version=number, run_id="") for number in (2, 1))
    gate = GateResult(gate="accuracy", measured=0.9, asked=0.8, passed=True, explanation="It is as good.")
    task = SimpleNamespace(
        spec=CanarySpec(model="m", version=2, shares=shares),
        ref=ref,
        _decision=lambda kind, now, reason, step, mine: reason,
    )
    found = Comparison([gate], {}, {})
    reason = step._Task._judged(task, Rollout([], False), champion, found, CanaryStep(version=ref, share=shares[0]))
    assert text in reason
