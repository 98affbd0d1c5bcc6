"""The trainers of the last decision's candidates, as a real MLflow records them."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

import pytest

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.names import GPU_TAG
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.records.verdict import CandidateVerdict
from airflow_mlops.stages.monitor.trainings import MAX_SECONDS, Training, other_trainers
from airflow_mlops.trainers import SklearnTrainer, TorchTrainer

LINEAR = SklearnTrainer("sklearn.linear_model.LogisticRegression")
MODEL = "delays"
ROWS = 1_000


def tree(depth: int) -> SklearnTrainer:
    return SklearnTrainer("sklearn.tree.DecisionTreeClassifier", params={"max_depth": depth}, name=f"depth-{depth}")


@pytest.fixture
def trained(client):
    """Log a training to MLflow, and return its version."""
    experiment = client.create_experiment(uuid.uuid4().hex)

    def trained(version: int, trainer, seconds: float | None = 1.0, gpu: str | None = None, **more):
        run_id = client.create_run(experiment, tags={GPU_TAG: gpu} if gpu else {}).info.run_id
        client.log_dict(run_id, {"trainer": dict(trainer), "seed": version, **more}, "training.json")
        client.log_param(run_id, "train_rows", ROWS)
        if seconds is not None:
            client.log_metric(run_id, "fit_seconds", seconds)
        return ModelVersionRef(model=MODEL, version=version, run_id=run_id)

    return trained


def entry(seq: int, decision: str, *candidates: ModelVersionRef) -> Entry:
    judged = [CandidateVerdict(candidate=item, metrics={}, gates=[], passed=True) for item in candidates]
    return Entry(
        decision=decision, replaced=None, champion=candidates[0] if candidates else None, candidates=judged, reason="",
        seq=seq, id=str(seq), model=MODEL, time=datetime(2013, 1, seq, tzinfo=timezone.utc), previous="",
    )  # fmt: skip


def found(client, champion: ModelVersionRef, *entries: Entry, rows: int = ROWS):
    others = other_trainers(champion, Training(trainer=LINEAR).trainer, entries, rows, client)
    return [key.name for key in others.trainings], others.notes


def test_the_last_decision_with_candidates_counts(client, trained):
    champion, old, new = trained(1, LINEAR), trained(2, tree(2), class_weight={"1": 3}), trained(3, tree(3))
    again = trained(4, LINEAR)
    promoted, refused = entry(1, "promoted", champion, old), entry(2, "refused", again, new)
    later = [entry(3, "requested"), entry(4, "rolled_back")]
    assert found(client, champion, promoted) == (["depth-2"], [])
    assert found(client, champion, promoted, refused, *later) == (["depth-3"], [])
    assert found(client, champion) == ([], [])
    assert found(client, champion, entry(1, "promoted", champion)) == ([], [])
    # A version that was registered by hand has no run.
    by_hand = ModelVersionRef(model=MODEL, version=9, run_id="")
    assert found(client, champion, entry(1, "promoted", by_hand, new)) == (["depth-3"], [])
    training = next(
        iter(other_trainers(champion, Training(trainer=LINEAR).trainer, [promoted], ROWS, client).trainings.values())
    )
    assert training == Training(trainer=tree(2), seed=2, class_weight={"1": 3})


def test_the_first_three_other_trainers_are_used(client, trained):
    champion = trained(1, LINEAR)
    trees = [trained(number, tree(number)) for number in range(2, 6)]
    names, notes = found(client, champion, entry(1, "promoted", *trees, champion))
    assert names == ["depth-2", "depth-3", "depth-4"]
    assert len(notes) == 1
    assert str(trees[3]) in notes[0]


def test_all_other_trainers_share_the_time(client, trained):
    champion = trained(1, LINEAR)
    each = MAX_SECONDS / 2.5 / 10
    trees = [trained(number, tree(number), seconds=each) for number in range(2, 5)]
    unknown = trained(5, tree(5), seconds=None)
    cheap = trained(6, tree(6), seconds=each / 10)
    # Ten times the rows of the candidates take ten times as long.
    names, notes = found(client, champion, entry(1, "promoted", *trees, unknown, cheap), rows=10 * ROWS)
    assert names == ["depth-2", "depth-3", "depth-6"]
    assert [str(item) in note for item, note in zip((trees[2], unknown), notes, strict=True)] == [True, True]


def test_a_network_that_was_trained_where_a_gpu_was_is_left_out(client, trained):
    champion = trained(1, LINEAR)
    network = TorchTrainer(epochs=1)
    assert found(client, champion, entry(1, "promoted", trained(2, network)))[0] == ["TabularNetwork"]
    names, notes = found(client, champion, entry(1, "promoted", trained(3, network, gpu="1 x H100")))
    assert (names, len(notes)) == ([], 1)
    # The time of other trainers does not depend on a GPU.
    assert found(client, champion, entry(1, "promoted", trained(4, tree(4), gpu="1 x H100"))) == (["depth-4"], [])
