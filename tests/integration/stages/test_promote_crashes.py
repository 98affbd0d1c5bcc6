"""A promotion killed at any write is completed by a later task, and one of many concurrent promotions wins."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
import uuid

import pytest
from mlflow.exceptions import MlflowException

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.aliases import MOVING_TAG, verify
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import champion
from tests.integration.stages.test_promote import back, do, verdict

WRITES = (
    "set_registered_model_tag",
    "set_registered_model_alias",
    "set_model_version_tag",
    "delete_registered_model_tag",
)
# The nine writes: the ledger entry, the tag mlops.moving, two aliases, four tags, and the removal of mlops.moving.
STEPS = 9


@pytest.fixture
def make(client):
    def make(count: int) -> list[ModelVersionRef]:
        model = f"delays_{uuid.uuid4().hex[:8]}"
        client.create_registered_model(model)
        run = client.create_run("0")
        uri = f"{run.info.artifact_uri}/model"
        made = [client.create_model_version(model, uri, run.info.run_id) for _ in range(count)]
        return [ModelVersionRef(model=model, version=int(item.version), run_id=run.info.run_id) for item in made]

    return make


def before_each_write(client, act) -> None:
    """Call ``act(number)`` before each write to the ledger and to MLflow, in this process."""
    written = iter(range(1_000))

    def watch(kind, name):
        real = getattr(kind, name)

        def write(*args, **kwargs):
            act(next(written))
            return real(*args, **kwargs)

        setattr(kind, name, write)

    watch(ArtifactStore, "create_exclusive")
    for name in WRITES:
        watch(type(client), name)


def in_process(work) -> int:
    """Run ``work`` in a separate process. The exit status is negative if a signal killed the process."""

    def run() -> None:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the child process ends here in any case
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(120)
    return child.exitcode


def killed_at(client, number: int, work) -> None:
    def act(at: int) -> None:
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def doomed() -> None:
        before_each_write(client, act)
        work()

    assert in_process(doomed) == -signal.SIGKILL


def state(client, store, model: str):
    """The champion, which must be the same in the alias, the ledger and the tags of the version."""
    now = champion(client, model)
    entries = verify(client, Ledger(store, model))
    move = [entry for entry in entries if entry.moves][-1]
    tags = client.get_model_version(model, str(move.champion.version)).tags
    assert MOVING_TAG not in client.get_registered_model(model).tags
    assert tags["mlops.champion_since"] == move.time.isoformat()
    assert tags["mlops.ledger_entry"] == str(move.seq)
    assert tags["mlops.ledger_sha256"] == move.sha256
    if move.replaced:
        assert tags["mlops.replaced"] == str(move.replaced.version)
        assert client.get_model_version_by_alias(model, "previous_champion").version == str(move.replaced.version)
    return now, move.champion, len(entries)


def test_the_number_of_writes_of_a_promotion(client, store, make):
    v1, v2 = make(2)
    do(store, verdict(v1, None), "a")

    def count() -> None:
        numbers = []
        before_each_write(client, numbers.append)
        do(store, verdict(v2, v1), "b")
        assert len(numbers) == STEPS, numbers

    assert in_process(count) == 0


@pytest.mark.parametrize("number", range(STEPS))
def test_a_killed_promotion_is_completed_by_its_retry(number, client, store, make):
    v1, v2 = make(2)
    do(store, verdict(v1, None), "a")
    killed_at(client, number, lambda: do(store, verdict(v2, v1), "b"))
    # In between, the alias names either the old or the new champion.
    assert champion(client, v1.model) in (v1, v2)
    result = do(store, verdict(v2, v1), "b")
    assert (result.promoted, result.champion, result.replaced) == (True, v2, v1)
    assert state(client, store, v1.model) == (v2, v2, 2)


@pytest.mark.parametrize("number", range(STEPS))
def test_a_killed_promotion_without_a_retry_is_completed_by_the_next_decision(number, client, store, make):
    v1, v2, v3 = make(3)
    do(store, verdict(v1, None), "a")
    killed_at(client, number, lambda: do(store, verdict(v2, v1), "b"))
    result = do(store, verdict(v3, v1), "c")
    if number == 0:
        # The task was killed before its decision was recorded.
        assert result.promoted
        assert state(client, store, v1.model) == (v3, v3, 2)
    else:
        assert not result.promoted
        assert state(client, store, v1.model) == (v2, v2, 3)


@pytest.mark.parametrize("number", range(STEPS))
def test_a_killed_rollback_is_completed_by_its_retry_or_by_the_next_decision(number, client, store, make):
    v1, v2, v3 = make(3)
    do(store, verdict(v1, None), "a")
    do(store, verdict(v2, v1), "b")
    killed_at(client, number, lambda: back(store, v1.model, "c"))
    if number % 2:
        assert back(store, v1.model, "c").champion == v1
        assert state(client, store, v1.model) == (v1, v1, 3)
    else:
        assert do(store, verdict(v3, v2), "d").promoted == (number == 0)
        assert state(client, store, v1.model)[:2] == ((v3, v3) if number == 0 else (v1, v1))


def without_the_replaced_version(client, store, made):
    """Assert that the promotion of the third version is complete, although the second one was deleted."""
    v1, v2, v3 = made
    with pytest.raises(MlflowException, match="alias"):
        client.get_model_version_by_alias(v1.model, "previous_champion")
    tags = client.get_model_version(v3.model, str(v3.version)).tags
    move = [entry for entry in Ledger(store, v1.model).entries() if entry.moves][-1]
    assert (move.champion, move.replaced, champion(client, v1.model)) == (v3, v2, v3)
    assert (tags["mlops.champion_since"], tags["mlops.replaced"]) == (move.time.isoformat(), str(v2.version))
    assert MOVING_TAG not in client.get_registered_model(v1.model).tags


# Killed after the entry, and before the alias previous_champion.
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("by", ["retry", "next decision"])
def test_a_killed_promotion_is_completed_although_the_replaced_version_was_deleted(number, by, client, store, make):
    v1, v2, v3, v4 = make(4)
    do(store, verdict(v1, None), "a")
    do(store, verdict(v2, v1), "b")
    killed_at(client, number, lambda: do(store, verdict(v3, v2), "c"))
    client.delete_model_version(v2.model, str(v2.version))
    if by == "retry":
        result = do(store, verdict(v3, v2), "c")
        assert (result.promoted, result.champion, result.replaced) == (True, v3, v2)
    else:
        assert not do(store, verdict(v4, v2), "d").promoted
    without_the_replaced_version(client, store, (v1, v2, v3))


def overtaken(client, others):
    """``others`` decide and move the alias after a task has read the ledger and before it moves the alias."""
    real = type(client).set_registered_model_alias

    def late(self, model, alias, version):
        type(client).set_registered_model_alias = real
        others()
        real(self, model, alias, version)

    type(client).set_registered_model_alias = late


def test_a_delayed_task_does_not_undo_newer_decisions(client, store, make):
    v1, v2, v3 = make(3)
    do(store, verdict(v1, None), "a")

    def slow() -> None:
        overtaken(client, lambda: do(store, verdict(v3, v2), "c"))
        do(store, verdict(v2, v1), "b")

    assert in_process(slow) == 0
    assert state(client, store, v1.model) == (v3, v3, 3)


def test_after_a_crash_during_a_move_the_ledger_overrides_the_alias(client, store, make):
    v1, v2, v3 = make(3)
    do(store, verdict(v1, None), "a")
    do(store, verdict(v2, v1), "b")
    # The state after a delayed task has moved the alias to v1 and crashed before the repair.
    client.set_registered_model_tag(v1.model, MOVING_TAG, "1")
    client.set_registered_model_alias(v1.model, "champion", "1")
    assert not do(store, verdict(v3, v1), "c").promoted
    assert state(client, store, v1.model) == (v2, v2, 3)


@pytest.mark.slow
def test_of_twenty_concurrent_promotions_one_wins_each_round_and_none_is_lost(client, store, make):
    # `make torture` runs more rounds. The second round, with few tasks, shows that the first one has left a valid state.
    rounds = (20, 4)
    first, *candidates = make(1 + sum(rounds))
    do(store, verdict(first, None), "first")
    now = first
    for turn, tasks in enumerate(rounds):
        barrier = multiprocessing.get_context("fork").Barrier(tasks)
        before = sum(rounds[:turn])
        mine = candidates[before : before + tasks]

        def work(candidate, now=now, barrier=barrier):
            barrier.wait(60)
            do(store, verdict(candidate, now), f"promote v{candidate.version}")
            os._exit(0)

        children = [multiprocessing.get_context("fork").Process(target=work, args=(item,)) for item in mine]
        for child in children:
            child.start()
        for child in children:
            child.join(300)
        assert [child.exitcode for child in children] == [0] * tasks
        entries = Ledger(store, first.model).entries()
        of_round = entries[1 + before :]
        assert sorted(entry.id for entry in of_round) == sorted(f"promote v{item.version}" for item in mine)
        (won,) = [entry for entry in of_round if entry.moves]
        assert won.replaced == now
        assert {entry.champion for entry in of_round if not entry.moves} <= {won.champion}
        now = won.champion
        assert state(client, store, first.model) == (now, now, 1 + before + tasks)
