"""The artifact store on real servers of S3, Azure Blob Storage and GCS, and in a local folder."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import SMALL_BYTES, ArtifactStore, HashingFile
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision
from tests.support import object_stores

KINDS = {
    "file": object_stores.folder, "s3": object_stores.s3, "azure": object_stores.azure, "gcs": object_stores.gcs
}  # fmt: skip
REMOTE = [kind for kind in KINDS if kind != "file"]


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with KINDS[request.param]() as found:
        yield found


@pytest.fixture
def store(url: str, request: pytest.FixtureRequest) -> ArtifactStore:
    """A separate store for each test."""
    return ArtifactStore(f"{url}/{abs(hash(request.node.nodeid))}")


def test_a_file_is_read_listed_and_deleted(store):
    store.write_bytes("a/b/one.txt", b"1")
    store.write_json("a/b/two.json", {"x": 2})
    assert store.keys("a/b") == ["a/b/one.txt", "a/b/two.json"]
    assert store.find("a") == ["a/b/one.txt", "a/b/two.json"]
    assert store.read_bytes("a/b/one.txt") == b"1"
    assert store.exists("a/b/one.txt")
    assert not store.exists("a/b/three.txt")
    with store.open("a/b/one.txt") as file:
        assert file.read() == b"1"
    store.delete("a/b/one.txt")
    store.delete("a/b/one.txt")
    assert store.keys("a/b") == ["a/b/two.json"]
    assert store.keys("absent") == store.find("absent") == []
    with pytest.raises(FileNotFoundError):
        store.read_bytes("a/b/one.txt")


def test_nothing_is_below_a_file(store):
    store.write_bytes("a/file", b"1")
    assert store.keys("a/file") == store.find("a/file") == store.keys("a/file/b") == store.find("a/file/b") == []
    assert not store.exists("a/file/b")
    assert store.info("a/file/b") is None
    assert store.modified("a/file/b") is None
    assert store.read_many(["a/file/b"]) == {}
    with pytest.raises(FileNotFoundError):
        store.read_bytes("a/file/b")
    with pytest.raises(FileNotFoundError):
        store.open("a/file/b")
    store.delete("a/file/b")
    assert store.find("a") == ["a/file"]


def test_files_of_other_processes_are_seen(store):
    other = ArtifactStore(store.url)
    # A separate filesystem object, as in another process.
    other.fs = type(store.fs)(**{**store.fs.storage_options, "skip_instance_cache": True})
    store.write_bytes("seen/1", b"")
    assert store.keys("seen") == ["seen/1"]
    assert not store.exists("seen/2")
    assert store.info("seen/2") is None
    other.write_bytes("seen/2", b"22")
    assert store.exists("seen/2")
    assert store.info("seen/2")["size"] == 2
    assert store.keys("seen") == store.find("seen") == ["seen/1", "seen/2"]
    other.delete("seen/1")
    assert not store.exists("seen/1")
    assert store.keys("seen") == ["seen/2"]


def test_one_of_many_writers_creates_a_file(store):
    writers, rounds = 8, 5
    together = Barrier(writers)

    def write(number: int) -> list[bool]:
        won = []
        for turn in range(rounds):
            together.wait()
            won.append(store.create_exclusive(f"race/{turn}", str(number).encode()))
        return won

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, range(writers)))
    for turn in range(rounds):
        winners = [number for number in range(writers) if won[number][turn]]
        assert [str(number).encode() for number in winners] == [store.read_bytes(f"race/{turn}")]


def close(file: HashingFile) -> None:
    """Close a client library's file, as Python does when it frees the file. On Azure, this would complete the file."""
    if (opened := getattr(file._file, "upload", file._file)) is not None:
        opened.close()


@pytest.mark.parametrize("size", [0, SMALL_BYTES, SMALL_BYTES + 1, 3 * SMALL_BYTES])
def test_a_file_that_is_written_in_pieces_is_read_whole(store, size):
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with store.create("pieces") as file:
        for start in range(0, size, 5 << 20):
            file.write(content[start : start + (5 << 20)])
    assert file.bytes == size
    assert store.read_bytes("pieces") == content
    assert store.sha256("pieces") == file.sha256


def test_several_files_are_read_at_once(store):
    names = [f"many/{name}" for name in ("a", "[b]*?", "c d", "☂")]
    for name in names:
        store.write_bytes(name, name.encode())
    assert store.read_many([*names, "many/absent"]) == {name: name.encode() for name in names}
    assert store.read_many([]) == {}


# More than the block of each client library, so that parts are uploaded before the end.
@pytest.mark.parametrize("size", [10, 12 << 20])
def test_a_failed_write_leaves_what_another_writer_finished(store, size):
    opened = []

    def fail() -> None:
        with store.create("both") as file:
            opened.append(file)
            for _ in range(4):
                file.write(b"b" * (size // 4))
            store.write_bytes("both", b"finished")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    close(opened[0])
    assert store.read_bytes("both") == b"finished"


@pytest.mark.parametrize("size", [10, 12 << 20])
def test_a_failed_write_leaves_no_file(store, size):
    opened = []

    def fail() -> None:
        with store.create("absent/file") as file:
            opened.append(file)
            for _ in range(4):
                file.write(b"b" * (size // 4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    # Arrow writes the rest of a file when its writer is deleted.
    assert opened[0].write(b"rest") == 4
    close(opened[0])
    assert not store.exists("absent/file")
    assert store.find("absent") == []


def test_a_large_file_is_whole(store):
    block = bytes(range(256)) * (1 << 13)
    with store.create("large") as file:
        for _ in range(7):
            file.write(block)
    assert store.sha256("large") == file.sha256
    assert store.info("large")["size"] == file.bytes == 7 * len(block)


def test_parallel_decisions_are_all_in_the_ledger(store):
    champion = ModelVersionRef(model="m", version=1, run_id="r")

    def promote(number: int) -> int:
        decision = Decision(decision="promoted", replaced=None, champion=champion, reason=f"{number}")
        entry = Ledger(ArtifactStore(store.url), "m").record(f"task-{number}", lambda _: decision)
        return entry.seq

    with ThreadPoolExecutor(5) as pool:
        numbers = list(pool.map(promote, range(10)))
    assert sorted(numbers) == list(range(1, 11))
    entries = Ledger(store, "m").entries()
    assert {entry.id for entry in entries} == {f"task-{number}" for number in range(10)}


@pytest.mark.parametrize("kind", REMOTE)
def test_a_missing_bucket_is_not_read_as_an_empty_store(kind):
    with KINDS[kind]() as url:
        scheme, _, path = url.partition("://")
        store = ArtifactStore(f"{scheme}://absent-{path}")
        for access in (
            lambda: store.keys("folder"), lambda: store.find("folder"), lambda: store.write_bytes("x", b""),
            lambda: store.create_exclusive("x", b""),
        ):  # fmt: skip
            with pytest.raises(StoreError):
                access()


def test_a_store_that_replaces_files_is_refused():
    with object_stores.s3(conditional=False) as url:
        store = ArtifactStore(url)
        for _ in range(2):
            with pytest.raises(StoreError, match="If-None-Match"):
                store.create_exclusive("x", b"")
        assert not store.exists("x")


@pytest.mark.parametrize("protocol", ["s3", "abfs", "gs"])
def test_an_unavailable_server_is_a_retryable_error(protocol, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        options = {
            "s3": {"key": "a", "secret": "b", "client_kwargs": {"endpoint_url": endpoint}},
            "abfs": {"connection_string": f"AccountName=a;AccountKey=YQ==;BlobEndpoint={endpoint}/a;"},
            "gs": {"token": "anon", "endpoint_url": endpoint},
        }[protocol]
        # The client libraries wait up to a minute between their own attempts.
        sleep = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", lambda delay, *args: sleep(min(delay, 0.01), *args))
        with object_stores.configured(protocol, **options):
            store = ArtifactStore(f"{protocol}://bucket/x")
            for access in (
                store.exists, store.keys, store.find, store.info, store.read_bytes, store.sha256, store.delete
            ):  # fmt: skip
                with pytest.raises(StoreError) as raised:
                    access("key")
                assert raised.value.retryable
