"""A person moves the alias of the champion in a real MLflow: ``RegistryTrigger`` notices it, and the ledger has it once."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from airflow_mlops.core.errors import SpecError
from airflow_mlops.models.champion import download_champion
from airflow_mlops.registry import aliases, outside_moves
from airflow_mlops.registry.aliases import MOVING_TAG, SINCE_TAG, carry_out, champion_before, verify
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.names import HASH_TAG
from airflow_mlops.registry.records.entry import Decision
from airflow_mlops.registry.versions import champion
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.outside_moves import step
from airflow_mlops.triggers import child, registry
from airflow_mlops.triggers.registry import RegistryTrigger
from tests.integration.stages.test_promote import back, do, verdict, versions  # noqa: F401 - a fixture

FILES, CARD = {"MLmodel": "a" * 64}, {"model_card.md": "b" * 64}


class StateStore:
    """What Airflow remembers for a watcher. Airflow's own needs a triggerer with its API server."""

    def __init__(self) -> None:
        self.values = {}

    async def aget(self, key):
        return self.values.get(key)

    async def aset(self, key, value):
        self.values[key] = value


async def _in_thread(module, question, what, environment):
    look = step.Look.model_validate(question)
    from airflow_mlops.data.store import ArtifactStore

    await asyncio.to_thread(step.run, look.spec, StepContext(ArtifactStore(look.store), look.key))
    return None, ""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(registry, "_DELIVERY", 0)
    monkeypatch.setattr(aliases, "_REPAIR_SECONDS", 0)
    # Run the look-up in a thread. A separate process would import MLflow, which takes seconds. One test uses a process.
    monkeypatch.setattr(registry, "ask", _in_thread)


def promote(client, ledger, *refs):
    """Promote versions one after the other, with few requests to MLflow."""
    for before, ref in zip((None, *refs), refs, strict=False):
        decision = Decision(
            decision="promoted", replaced=before, champion=ref, reason="It is better.", files=FILES, card=CARD
        )
        ledger.record(f"promote-{ref.version}", lambda _, decision=decision: decision)
    carry_out(client, ledger)


@pytest.fixture
def promoted(client, store, versions):  # noqa: F811
    """Three versions, of which v1 was promoted and then replaced by v2."""
    promote(client, Ledger(store, versions[0].model), *versions[:2])
    return versions


def watcher(store, model, state=None, **options):
    trigger = RegistryTrigger(model, store=store.url, **{"poke_interval": 0.001, **options})
    trigger.asset_state_store = state
    return trigger


async def watching(trigger, *acts):
    """Let the trigger check after each action, and return the payloads of its events."""
    found, look, remaining, done = [], trigger._look, [*acts], asyncio.Event()

    async def looking():
        if not remaining:
            done.set()
            await asyncio.Event().wait()
        act = remaining.pop(0)
        if act is not None:
            await asyncio.to_thread(act)
        return await look()

    trigger._look = looking

    async def collect():
        async for event in trigger.run():
            found.append(event.payload)  # noqa: PERF401 - they are needed before the end

    collecting = asyncio.ensure_future(collect())
    await asyncio.wait({collecting, asyncio.ensure_future(done.wait())}, timeout=120, return_when="FIRST_COMPLETED")
    assert not collecting.done(), collecting.exception()
    collecting.cancel()
    return found


def watch(trigger, *acts):
    return asyncio.run(watching(trigger, *acts))


def move(client, ref):
    return lambda: client.set_registered_model_alias(ref.model, "champion", str(ref.version))


def delete(client, ref):
    return lambda: client.delete_registered_model_alias(ref.model, "champion")


def test_a_move_by_hand_is_in_the_ledger_and_fires_one_event(client, store, promoted, monkeypatch):
    v1, v2, v3 = promoted
    monkeypatch.setattr(registry, "ask", child.ask)
    events = watch(watcher(store, v1.model), None, move(client, v3), None)
    *_, entry = verify(client, Ledger(store, v1.model))
    assert (entry.seq, entry.decision, entry.replaced, entry.champion) == (3, "moved_outside", v2, v3)
    reason = (
        "The alias was moved from v2 to v3 in MLflow, which does not record by whom. The ledger never promoted v3, so "
    )
    assert entry.reason == f"{reason}its files are not checked."
    assert (entry.outside.noticed_by, entry.outside.promotion, entry.files) == ("RegistryTrigger", None, {})
    assert events == [
        {
            "model": v1.model, "version": 3, "run_id": v3.run_id, "replaced": 2, "reason": entry.reason,
            "ledger_url": store.url_of(f"ledger/{v1.model}/00000003.json"),
        }
    ]  # fmt: skip
    assert client.get_model_version_by_alias(v1.model, "previous_champion").version == "2"


def test_moves_by_this_package_fire_no_event(client, store, versions):  # noqa: F811
    v1, v2, v3 = versions
    events = watch(
        watcher(store, v1.model),
        None,
        lambda: do(store, verdict(v1, None), "a"),
        lambda: do(store, verdict(v2, v1), "b"),
        lambda: back(store, v1.model, "c"),
        move(client, v3),
        lambda: do(store, verdict(v2, v3), "d"),
    )
    assert [event["version"] for event in events] == [3]
    decisions = [entry.decision for entry in verify(client, Ledger(store, v1.model))]
    assert decisions == ["promoted", "promoted", "rolled_back", "moved_outside", "promoted"]


def test_a_deleted_alias_and_its_return_are_moves(client, store, promoted):
    v1, v2, _ = promoted
    events = watch(watcher(store, v1.model), delete(client, v1), None, move(client, v1))
    assert [(event["replaced"], event["version"]) for event in events] == [(2, None), (None, 1)]
    *_, gone, back_again = verify(client, Ledger(store, v1.model))
    assert (gone.replaced, gone.champion) == (v2, None)
    assert gone.reason == "The alias was deleted from v2 in MLflow, which does not record by whom."
    assert (back_again.champion, back_again.outside.promotion) == (v1, 1)
    assert back_again.reason.endswith("which does not record by whom. Entry 1 had promoted v1.")


def test_the_move_away_from_a_deleted_version_is_recorded_completely(client, store, promoted):
    v1, v2, _ = promoted

    def replace():
        client.delete_model_version(v2.model, str(v2.version))
        move(client, v1)()

    events = watch(watcher(store, v1.model), None, replace)
    assert [(event["replaced"], event["version"]) for event in events] == [(2, 1)]
    assert client.get_model_version(v1.model, "1").tags[HASH_TAG] == Ledger(store, v1.model).entries()[-1].sha256
    with pytest.raises(MlflowException, match="alias"):
        client.get_model_version_by_alias(v1.model, "previous_champion")


def test_a_move_that_is_undone_between_two_checks_is_not_noticed(client, store, promoted):
    v1, v2, v3 = promoted

    def both():
        move(client, v3)()
        move(client, v2)()

    assert watch(watcher(store, v1.model), None, both) == []
    assert len(Ledger(store, v1.model).entries()) == 2


def test_the_first_champion_is_a_move_too(client, store, versions):  # noqa: F811
    v1, *_ = versions
    events = watch(watcher(store, v1.model), None, move(client, v1))
    assert [(event["replaced"], event["version"]) for event in events] == [(None, 1)]
    assert verify(client, Ledger(store, v1.model))[0].reason.startswith("The alias was moved to v1 in MLflow")


def test_a_restarted_trigger_fires_what_was_not_delivered_and_nothing_again(client, store, promoted):
    v1, _, v3 = promoted
    state = StateStore()
    assert len(watch(watcher(store, v1.model, state), None, move(client, v3))) == 1
    assert watch(watcher(store, v1.model, state), None, None) == []
    # The triggerer died after the entry was written.
    trigger = watcher(store, v1.model, state)
    move(client, v1)()
    asyncio.run(trigger._look())
    assert [event["version"] for event in watch(watcher(store, v1.model, state), None, None)] == [1]
    # Without a stored state, only later moves count.
    assert watch(watcher(store, v1.model), None) == []


def test_two_watchers_write_one_entry_and_fire_one_event(client, store, promoted):
    v1, _, v3 = promoted
    both = threading.Barrier(2)

    def at_once():
        move(client, v3)()
        both.wait(60)

    async def two():
        watchers = (watcher(store, v1.model, poke_interval=0.001 * number) for number in (1, 2))
        return await asyncio.gather(*(watching(trigger, None, at_once, None) for trigger in watchers))

    assert [event["version"] for found in asyncio.run(two()) for event in found] == [3]
    assert [entry.decision for entry in verify(client, Ledger(store, v1.model))][2:] == ["moved_outside"]


def test_only_one_of_eight_observers_writes(client, store, promoted):
    v1, _, v3 = promoted
    move(client, v3)()
    with ThreadPoolExecutor(8) as pool:
        ledgers = [Ledger(store, v1.model) for _ in range(8)]
        found = [*pool.map(lambda ledger: outside_moves.record(client, ledger, uuid.uuid4().hex, "webhook"), ledgers)]
    assert len([entry for entry in found if entry]) == 1
    assert len(verify(client, Ledger(store, v1.model))) == 3


def test_an_unavailable_mlflow_is_logged_once_and_does_not_end_the_watcher(
    client, store, promoted, mlflow_connection, monkeypatch, capfd
):
    v1, _, v3 = promoted
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))

        def away():
            host = f"http://127.0.0.1:{closed.getsockname()[1]}"
            monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": host}))

        def again():
            monkeypatch.setenv(
                "AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_connection})
            )
            move(client, v3)()

        trigger = watcher(store, v1.model)
        assert [event["version"] for event in watch(trigger, None, away, None, None, again)] == [3]
    logged = [line for line in capfd.readouterr().out.splitlines() if "RegistryTrigger" in line]
    assert len(logged) == 2
    about = f"The champion of model '{v1.model}'"
    assert f"{about} cannot be watched" in logged[0]
    assert "connection refused" in logged[0]
    assert f"{about} is watched again." in logged[1]


def test_the_pauses_grow_while_mlflow_is_unavailable(store, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "http://127.0.0.1:1"}))
    trigger, pauses = watcher(store, "away", poke_interval=60), []

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr(registry.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(anext(trigger.run()))
    assert pauses == [120, 240, 480, 600, 600, 600]


def test_a_promotion_in_progress_is_not_an_outside_move(client, store, promoted, monkeypatch):
    """An observer looks before each write of a promotion."""
    v1, v2, v3 = promoted
    looks = []
    writes = (
        "set_registered_model_alias",
        "set_model_version_tag",
        "set_registered_model_tag",
        "delete_registered_model_tag",
    )
    for name in writes:
        real = getattr(type(client), name)

        def write(*args, real=real):
            if not looks or looks[-1]:
                # The observer may write as well. Its own writes are not observed.
                looks.append(False)
                assert outside_moves.record(client, Ledger(store, v1.model), uuid.uuid4().hex, "webhook") is None
                looks[-1] = True
            return real(*args)

        monkeypatch.setattr(type(client), name, write)
    do(store, verdict(v3, v2), "c")
    assert len(looks) > 5
    monkeypatch.undo()
    assert champion(client, v1.model) == v3
    assert [entry.decision for entry in verify(client, Ledger(store, v1.model))] == ["promoted"] * 3


def test_a_crashed_promotion_is_completed_and_is_not_an_outside_move(client, store, promoted):
    v1, v2, v3 = promoted
    ledger = Ledger(store, v1.model)
    ledger.record("c", lambda _: Decision(decision="promoted", replaced=v2, champion=v3, reason="It is better."))
    assert watch(watcher(store, v1.model), None, None) == []
    assert champion(client, v1.model) == v3
    assert len(verify(client, ledger)) == 3


def unfinished(store, before, ref):
    """Record a promotion that is not carried out."""
    ledger = Ledger(store, ref.model)
    ledger.record("c", lambda _: Decision(decision="promoted", replaced=before, champion=ref, reason="It is better."))
    return ledger


def test_an_unfinished_promotion_that_mlflow_refuses_counts(client, store, promoted, monkeypatch, caplog):
    """The credentials of the observer may only read, so the alias stays at the replaced version."""
    _, v2, v3 = promoted
    ledger = unfinished(store, v2, v3)

    def refuse(*_):
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    for name in ("set_registered_model_tag", "set_registered_model_alias", "set_model_version_tag"):
        monkeypatch.setattr(type(client), name, refuse)
    assert outside_moves.record(client, ledger, "d", "webhook") is None
    (warning,) = caplog.records
    assert "cannot be moved to v3" in warning.message
    assert "refuses the credentials" in warning.message
    assert champion(client, v3.model) == v2
    # A decision about the replaced version is refused.
    assert "now the champion is v3" in do(store, verdict(v2, v2), "e").reason
    assert ledger.entries()[-1].champion == v3


def test_an_unfinished_promotion_of_a_deleted_version_does_not_count(client, store, promoted, caplog):
    _, v2, v3 = promoted
    ledger = unfinished(store, v2, v3)
    client.delete_model_version(v3.model, str(v3.version))
    entry = outside_moves.record(client, ledger, "d", "webhook")
    assert (entry.replaced, entry.champion) == (v3, v2)
    assert not caplog.records


def test_a_second_move_after_the_entry_stays(client, store, promoted):
    """A crash leaves the tags of an entry unset. A later task sets the tags and does not move the alias."""
    v1, _, v3 = promoted
    ledger = Ledger(store, v1.model)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(outside_moves, "complete", lambda *_: None)
        move(client, v3)()
        outside_moves.record(client, ledger, "c", "webhook")
    move(client, v1)()
    entry = outside_moves.record(client, ledger, "d", "webhook")
    assert (entry.replaced, entry.champion) == (v3, v1)
    assert champion(client, v1.model) == v1
    assert len(verify(client, ledger)) == 4


@pytest.mark.parametrize("deleted", [False, True])
def test_an_alias_that_a_delayed_task_overwrote_is_repaired(deleted, client, store, promoted):
    v1, v2, v3 = promoted
    ledger = Ledger(store, v1.model)
    (delete(client, v1) if deleted else move(client, v3))()
    outside_moves.record(client, ledger, "c", "webhook")
    client.set_registered_model_tag(v1.model, MOVING_TAG, "2")
    move(client, v2)()
    assert outside_moves.record(client, ledger, "d", "webhook") is None
    assert champion(client, v1.model) == (None if deleted else v3)
    assert MOVING_TAG not in client.get_registered_model(v1.model).tags


def test_the_entry_of_a_move_is_not_a_promotion(client, store, promoted):
    v1, _, v3 = promoted
    watch(watcher(store, v1.model), None, move(client, v3))
    # This tag would keep an evaluation from setting the contract.
    assert SINCE_TAG not in client.get_model_version(v1.model, "3").tags
    assert Ledger(store, v1.model).promotion(3) is None
    logged = []
    download_champion(client, store, v3, logged.append, named=False)
    assert logged == [f"The files of {v3} are not checked: the ledger has no promotion of it."]


def test_a_move_to_a_promoted_version_keeps_the_hashes_of_its_promotion(client, store, promoted):
    v1, *_ = promoted
    ledger = Ledger(store, v1.model)
    move(client, v1)()
    entry = outside_moves.record(client, ledger, "c", "webhook")
    assert (entry.champion, entry.files, entry.card, entry.outside.promotion) == (v1, FILES, CARD, 1)
    assert ledger.promotion(1).seq == 1


def test_a_rollback_after_a_move_by_hand_restores_the_version_before(client, store, promoted):
    v1, v2, v3 = promoted
    ledger = Ledger(store, v1.model)
    # The first of three moves was not recorded.
    for number, (after, by_hand) in enumerate(
        ((v3, move(client, v3)), (v3, move(client, v3)), (None, delete(client, v1)))
    ):
        by_hand()
        if number:
            outside_moves.record(client, ledger, f"look-{number}", "webhook")
        result = back(store, v1.model, f"back-{number}")
        assert (result.champion, result.replaced, champion(client, v1.model)) == (v2, after, v2)
    assert result.summary.startswith(f"Rolled {v1.model} back from no champion to v2")
    assert champion_before(verify(client, ledger), v2) == v1
    # v3 never passed the gates, but a person may name it because it was champion.
    assert back(store, v1.model, "named", to_version=3).champion == v3


def test_the_trigger_is_serialised_with_all_its_arguments(store):
    from airflow._shared.module_loading import import_string

    trigger = RegistryTrigger("delays", mlflow_conn_id="other", store=store.url, poke_interval=5)
    path, arguments = trigger.serialize()
    assert import_string(path)(**arguments).serialize() == (path, arguments)
    assert isinstance(RegistryTrigger.hash(path, arguments), int)
    others = RegistryTrigger("delays"), RegistryTrigger("delays", store="x")
    assert len({found._prefix for found in (trigger, *others)}) == 3


@pytest.mark.parametrize("arguments", [{"model": ""}, {"poke_interval": 0}, {"poke_interval": float("nan")}])
def test_wrong_arguments_are_refused_when_the_dag_is_parsed(arguments):
    with pytest.raises(SpecError, match="RegistryTrigger"):
        RegistryTrigger(**{"model": "delays", **arguments})
