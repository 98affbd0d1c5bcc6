"""A long ledger is read from its pack, which is never trusted more than the files of the entries."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest

from airflow_mlops.core.errors import RegistryError, StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision, Entry

PACK = "indexes/ledger/delays.json.gz"


class CountingStore(ArtifactStore):
    """A store that counts the requests of each kind."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.requests: Counter[str] = Counter()

    def read_bytes(self, key: str) -> bytes:
        self.requests["read"] += 1
        return super().read_bytes(key)

    def keys(self, prefix: str) -> list[str]:
        self.requests["list"] += 1
        return super().keys(prefix)


@pytest.fixture
def store(tmp_path):
    return CountingStore(tmp_path.as_uri())


def append(store: ArtifactStore, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        decision = Decision(decision="refused", replaced=None, champion=None, reason=f"Number {number} ä")
        Ledger(store, "delays").record(f"entry-{number}", lambda _: decision)  # noqa: B023 - called at once


def reasons(entries: list[Entry]) -> list[str]:
    return [entry.reason for entry in entries]


@pytest.mark.parametrize("count", [1, 16, 17, 18, 33, 34, 35, 120])
def test_the_entries_are_those_of_the_files(store, count):
    append(store, count)
    packed, files = Ledger(store, "delays").entries(), Ledger(store, "delays").entries(every_file=True)
    assert packed == files
    assert reasons(packed) == [f"Number {number} ä" for number in range(1, count + 1)]
    assert store.exists(PACK) == (count > 16)


def test_few_requests_read_a_long_ledger(store):
    append(store, 200)
    store.requests.clear()
    ledger = Ledger(store, "delays")
    ledger.entries()
    assert store.requests["list"] == 1
    assert store.requests["read"] <= 19
    store.requests.clear()
    ledger.updated_entries()
    assert store.requests == {"list": 1}
    append(store, 1, first=201)
    store.requests.clear()
    assert len(ledger.updated_entries()) == 201
    assert store.requests == {"list": 1, "read": 1}


def test_a_ledger_without_a_pack_gets_one(store):
    append(store, 40)
    store.delete(PACK)
    assert len(Ledger(store, "delays").entries()) == 40
    append(store, 1, first=41)
    store.requests.clear()
    assert len(Ledger(store, "delays").entries()) == 41
    assert store.requests["read"] <= 3


def packed(*texts: str) -> bytes:
    return gzip.compress(json.dumps(texts).encode())


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no gzip",
        gzip.compress(b"{"),
        gzip.compress(b"{}"),
        gzip.compress(b"[1]"),
        packed("{}"),
        packed('{"previous": ""}'),
        gzip.compress(b"null"),
        gzip.compress(b"[" * 100_000),
    ],
)
def test_a_damaged_pack_is_not_used(store, damage):
    append(store, 20)
    store.write_bytes(PACK, damage)
    assert len(Ledger(store, "delays").entries()) == 20
    append(store, 1, first=21)
    assert len(Ledger(store, "delays").entries()) == 21


def test_a_pack_of_other_entries_is_not_used(store, tmp_path):
    append(store, 20)
    other = ArtifactStore(f"{tmp_path.as_uri()}/other")
    append(other, 20, first=100)
    store.write_bytes(PACK, other.read_bytes(PACK))
    assert reasons(Ledger(store, "delays").entries())[0] == "Number 1 ä"


def test_a_pack_is_not_longer_than_the_ledger(store):
    append(store, 40)
    for seq in range(19, 41):
        store.delete(f"ledger/delays/{seq:08d}.json")
    assert len(Ledger(store, "delays").entries()) == 18


def change(store: ArtifactStore, seq: int) -> None:
    key = f"ledger/delays/{seq:08d}.json"
    store.write_json(key, {**store.read_json(key), "reason": "Forged."})


def test_a_removed_entry_is_found_in_spite_of_the_pack(store):
    append(store, 40)
    store.delete("ledger/delays/00000005.json")
    with pytest.raises(RegistryError, match="entry 5 is missing"):
        Ledger(store, "delays").entries()


def test_a_changed_entry_of_the_pack_is_found_in_the_files(store):
    append(store, 40)
    change(store, 5)
    assert reasons(Ledger(store, "delays").entries())[4] == "Number 5 ä"
    with pytest.raises(RegistryError, match="entry 5 does not match its hash in entry 6"):
        Ledger(store, "delays").entries(every_file=True)


@pytest.mark.parametrize("seq", [34, 36])
def test_a_changed_entry_after_the_pack_is_found(store, seq):
    append(store, 40)
    assert len(json.loads(gzip.decompress(store.read_bytes(PACK)))) == 34
    change(store, seq)
    with pytest.raises(RegistryError, match=f"entry {seq} does not match its hash in entry {seq + 1}"):
        Ledger(store, "delays").entries()


def test_a_pack_that_cannot_be_written_does_not_fail_a_decision(store, monkeypatch):
    append(store, 16)

    def refuse(key: str, data: bytes) -> None:
        raise StoreError("No more space.")

    monkeypatch.setattr(store, "write_bytes", refuse)
    monkeypatch.setattr(store, "create_exclusive", ArtifactStore(store.url).create_exclusive)
    append(store, 1, first=17)
    assert len(Ledger(store, "delays").entries()) == 17


def test_a_pack_with_a_changed_entry_is_not_used(store):
    append(store, 20)
    texts = json.loads(gzip.decompress(store.read_bytes(PACK)))
    texts[4] = texts[4].replace("Number 5", "Forged")
    store.write_bytes(PACK, packed(*texts))
    assert reasons(Ledger(store, "delays").entries())[4] == "Number 5 ä"


def test_a_pack_that_cannot_be_read_is_not_needed(store, monkeypatch):
    append(store, 20)
    real = ArtifactStore.read_bytes

    def forbidden(self, key: str) -> bytes:
        if key == PACK:
            raise StoreError("Forbidden.")
        return real(self, key)

    monkeypatch.setattr(ArtifactStore, "read_bytes", forbidden)
    assert len(Ledger(store, "delays").entries()) == 20


def test_a_removed_entry_is_found_when_a_promotion_is_looked_up(store):
    append(store, 20)
    store.delete("ledger/delays/00000005.json")
    with pytest.raises(RegistryError, match="entry 5 is missing"):
        Ledger(store, "delays").promotion(1)
