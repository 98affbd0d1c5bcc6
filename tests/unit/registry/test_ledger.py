"""The ledger contains every decision once and in order, and tampering is detected."""

from __future__ import annotations

import json
import threading

import pytest

from airflow_mlops.core.errors import RegistryError, StoreError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import decisions
from airflow_mlops.registry.aliases import champion_before, former_champions
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path}")


def ref(version: int) -> ModelVersionRef:
    return ModelVersionRef(model="delays", version=version, run_id=f"run{version}")


def promotion(to: int, before: int | None = None, kind: str = "promoted") -> Decision:
    return Decision(decision=kind, replaced=ref(before) if before else None, champion=ref(to), reason="It is better.")


def append(ledger: Ledger, name: str, decision: Decision):
    return ledger.record(name, lambda entries: decision)


def test_entries_are_in_order_and_chained(store):
    ledger = Ledger(store, "delays")
    append(ledger, "a", promotion(1))
    append(ledger, "b", promotion(2, 1))
    first, second = ledger.entries()
    assert [(entry.seq, entry.id, entry.champion.version) for entry in (first, second)] == [(1, "a", 1), (2, "b", 2)]
    assert first.previous == ""
    assert second.previous == store.sha256("ledger/delays/00000001.json")


def test_a_retry_appends_no_second_entry(store):
    ledger = Ledger(store, "delays")
    first = append(ledger, "a", promotion(1))
    again = ledger.record("a", lambda entries: pytest.fail("it was decided already"))
    assert again == first
    assert len(ledger.entries()) == 1


def test_without_a_decision_nothing_is_appended(store):
    ledger = Ledger(store, "delays")
    assert ledger.record("a", lambda entries: None) is None
    assert ledger.entries() == []


def test_a_decision_overtaken_by_another_is_repeated_with_the_other_included(store):
    ledger, other = Ledger(store, "delays"), Ledger(store, "delays")
    seen = []

    def decide(entries):
        seen.append([entry.id for entry in entries])
        if len(seen) == 1:
            append(other, "quicker", promotion(7))
        return promotion(8)

    entry = ledger.record("slower", decide)
    assert seen == [[], ["quicker"]]
    assert entry.seq == 2
    assert [entry.id for entry in ledger.entries()] == ["quicker", "slower"]


def test_concurrent_writers_get_distinct_numbers(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        for turn in range(3):
            append(Ledger(store, "delays"), f"{number}-{turn}", promotion(number + 1))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = Ledger(store, "delays").entries()
    assert [entry.seq for entry in entries] == list(range(1, 25))
    assert {entry.id for entry in entries} == {f"{number}-{turn}" for number in range(8) for turn in range(3)}


@pytest.mark.parametrize(
    ("tampering", "problem"),
    [
        ("change", "entry 2 does not match its hash in entry 3 ({2})"),
        ("remove", "entry 2 is missing ({2})"),
        ("remove the first", "entry 1 is missing ({1})"),
        ("garbage", "{2} is not an entry"),
        ("reorder", "entry 2 was replaced by {2}"),
        ("insert", "entry 3 was replaced by {2b}"),
        ("begin anew", "entry 1 was written after another entry, which was removed ({1})"),
    ],
)
def test_tampering_is_detected_and_located(store, tampering, problem):
    ledger = Ledger(store, "delays")
    for number in range(1, 4):
        append(ledger, str(number), promotion(number))
    first, second, third = (f"ledger/delays/0000000{number}.json" for number in (1, 2, 3))
    if tampering == "change":
        store.write_json(second, {**store.read_json(second), "reason": "It is much better."})
    elif tampering.startswith("remove"):
        store.delete(first if "first" in tampering else second)
    elif tampering == "garbage":
        store.write_bytes(second, b"{")
    elif tampering == "reorder":
        store.write_bytes(second, store.read_bytes(third))
    elif tampering == "insert":
        store.write_bytes("ledger/delays/00000002b.json", store.read_bytes(second))
    else:
        store.write_json(first, {**store.read_json(second), "seq": 1})
    places = {name: store.url_of(f"ledger/delays/0000000{name}.json") for name in ("1", "2", "3", "2b")}
    for name, place in places.items():
        problem = problem.replace(f"{{{name}}}", place)
    with pytest.raises(RegistryError, match="ledger of 'delays' was tampered with") as error:
        ledger.entries()
    assert problem in str(error.value)


def test_an_incomplete_listing_is_repeated(store, monkeypatch):
    ledger = Ledger(store, "delays")
    for number in range(1, 4):
        append(ledger, str(number), promotion(number))
    real, lists = ArtifactStore.keys, []

    def keys(self, prefix):
        lists.append(real(self, prefix))
        return lists[-1] if len(lists) > 1 else [key for key in lists[-1] if not key.endswith("2.json")]

    monkeypatch.setattr(ArtifactStore, "keys", keys)
    assert [entry.seq for entry in ledger.entries()] == [1, 2, 3]


def test_a_model_name_cannot_escape_the_ledger_folder(store):
    append(Ledger(store, "../delays"), "a", promotion(1))
    assert [key.rpartition("/")[0] for key in store.keys("ledger/%2E%2E%2Fdelays")] == ["ledger/%2E%2E%2Fdelays"]


def test_the_previous_champion_is_the_one_that_a_promotion_replaced(store):
    ledger = Ledger(store, "delays")
    append(ledger, "a", promotion(1))
    append(ledger, "b", promotion(2, 1))
    append(ledger, "c", promotion(3, 2))
    append(ledger, "d", promotion(2, 3, "rolled_back"))
    append(ledger, "e", promotion(2, 2, "refused"))
    entries = ledger.entries()
    assert champion_before(entries, ref(2)) == ref(1)
    assert champion_before(entries, ref(1)) is None
    assert champion_before(entries, ref(9)) is None
    assert former_champions(entries) == [1, 2, 3]


def test_entries_are_readable_json(store):
    append(Ledger(store, "delays"), "a", promotion(1))
    content = json.loads(store.read_bytes("ledger/delays/00000001.json"))
    assert content["decision"] == "promoted"
    assert content["champion"] == {"model": "delays", "version": 1, "run_id": "run1"}
    assert content["approval"] is None


def test_a_file_is_created_only_if_it_does_not_exist(store):
    assert store.create_exclusive("folder/a.json", b"1")
    assert not store.create_exclusive("folder/a.json", b"2")
    assert store.read_bytes("folder/a.json") == b"1"
    assert store.keys("folder") == ["folder/a.json"]
    # No temporary file is left.
    assert len(store.fs.ls(store.path("folder"), detail=False)) == 1


def test_a_store_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "folder").write_text("a file where a folder should be")
    store = ArtifactStore(f"file://{tmp_path}")
    with pytest.raises(StoreError, match="Could not write"):
        store.create_exclusive("folder/a.json", b"1")


def test_an_entry_of_a_newer_release_is_read_and_stays_in_the_chain(store):
    ledger = Ledger(store, "delays")
    append(ledger, "a", promotion(1))
    newer = append(ledger, "b", promotion(1, 1, kind="canary_widened")).model_dump(mode="json")
    store.delete("ledger/delays/00000002.json")
    store.create_exclusive("ledger/delays/00000002.json", json.dumps({**newer, "share": 0.1}).encode())
    append(ledger := Ledger(store, "delays"), "c", promotion(2, 1))
    assert [entry.decision for entry in ledger.entries()] == ["promoted", "canary_widened", "promoted"]
    found, chain = decisions.read(store, "delays")
    assert chain.intact
    assert [decisions.facts(entry).decision for entry in found] == ["promoted", "canary_widened", "promoted"]
    standing = decisions.standing(store, "delays", found[:2])
    assert (standing.champion.version, former_champions(found)) == (1, [1, 2])


def test_a_promotion_that_was_read_is_not_read_again(store, monkeypatch):
    ledger = Ledger(store, "delays")
    append(ledger, "a", promotion(1))
    reader = Ledger(store, "delays")
    reader.entries()
    append(ledger, "b", promotion(2, 1))
    # A promotion after the entries were read is found in the store.
    assert reader.promotion(2).seq == 2
    read: list[str] = []
    monkeypatch.setattr(ArtifactStore, "read_many", lambda self, keys: read.extend(keys) or {})
    assert reader.promotion(1) == reader.known[0]
    assert read == []


def test_a_write_whose_response_was_lost_has_succeeded(store, monkeypatch):
    real = ArtifactStore._link_exclusive

    def repeated(self, key, data):
        real(self, key, data)
        return real(self, key, data)

    monkeypatch.setattr(ArtifactStore, "_link_exclusive", repeated)
    assert store.create_exclusive("folder/a.json", b"1")
    assert not store.create_exclusive("folder/a.json", b"2")
    append(Ledger(store, "delays"), "a", promotion(1))
    assert len(Ledger(store, "delays").entries()) == 1
