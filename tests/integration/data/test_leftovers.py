"""What crashed tasks leave in a store is found and deleted, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.leftovers import find_leftovers, remove_leftovers
from airflow_mlops.data.store import ArtifactStore
from tests.support import object_stores

NOW = datetime.now(timezone.utc)
LATER, EARLIER = NOW + timedelta(days=1), NOW - timedelta(days=1)


@pytest.fixture(scope="module", params=["folder", "s3"])
def url(request):
    with getattr(object_stores, request.param)() as address:
        yield address


@pytest.fixture
def store(url, request):
    return ArtifactStore(f"{url}/{request.node.originalname[:40]}")


def write(store, name="delays", rows=3):
    with DatasetWriter(store, name) as writer:
        writer.write(pa.table({"x": list(range(rows))}))
        return writer.commit()[0].ref


def found(store, before=LATER):
    return [(item.kind, item.key) for item in find_leftovers(store, before).found]


def content(store):
    return {key: store.sha256(key) for key in store.find("")}


def test_a_store_without_leftovers_keeps_all_files(store):
    write(store)
    write(store, rows=4)
    store.write_json("results/a.json", {})
    store.write_bytes("datasets/delays/claims/a", b"")
    store.write_bytes("reports/.hidden.tmp", b"")
    store.write_bytes("reports/.0123456789abcdef0123456789abcdef", b"")
    store.write_bytes("checkpoints/a.tmp", b"")
    store.create_exclusive("ledger/a/1.json", b"")
    before = content(store)
    leftovers = find_leftovers(store, LATER)
    assert (leftovers.found, leftovers.skipped) == ([], {})
    remove_leftovers(store, leftovers.found)
    assert content(store) == before


def test_files_that_no_manifest_lists_are_leftovers(store):
    kept = write(store)
    whole = content(store)
    orphans = {
        f"datasets/{name}/files/{part}0123.parquet" for name in ("delays", "other") for part in ("", "window=1/")
    }
    for key in orphans:
        store.write_bytes(key, b"1234")
    # A young file may belong to a running task.
    assert found(store, EARLIER) == []
    leftovers = find_leftovers(store, LATER)
    assert {(item.kind, item.key, item.bytes) for item in leftovers.found} == {
        ("file of no dataset", key, 4) for key in orphans
    }
    assert all(abs(item.written - datetime.now(timezone.utc)) < timedelta(hours=1) for item in leftovers.found)
    remove_leftovers(store, leftovers.found)
    assert content(store) == whole
    assert open_dataset(store, kept).table().num_rows == 3


def test_a_dataset_with_a_manifest_that_cannot_be_read_is_skipped(store):
    ref = write(store)
    store.write_bytes(f"datasets/delays/manifests/{ref.id}.json", b"{}")
    store.write_bytes("datasets/delays/files/0123.parquet", b"")
    store.write_bytes("datasets/other/files/0123.parquet", b"")
    leftovers = find_leftovers(store, LATER)
    assert [item.key for item in leftovers.found] == ["datasets/other/files/0123.parquet"]
    assert list(leftovers.skipped) == ["delays"]


def killed(url, code):
    """Run code that writes to a store in a process, and kill the process where the code prints a line."""
    head = """
    import sys, time
    import fsspec
    fsspec.config.conf.update(eval(sys.argv[2]))
    # The first part of an upload is sent after 5 MiB instead of 50 MiB.
    fsspec.config.conf.setdefault("s3", {})["default_block_size"] = 5 << 20
    from airflow_mlops.data.store import ArtifactStore
    store = ArtifactStore(sys.argv[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), url]
    import fsspec

    with subprocess.Popen([*command, repr(dict(fsspec.config.conf))], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)


def test_files_of_a_killed_writer_are_leftovers(store):
    store.write_json("results/a.json", {})
    whole = content(store)
    killed(
        store.url,
        """
        with store.create("datasets/delays/files/0123.parquet") as file:
            file.write(bytes(12 << 20))
            print("ready", flush=True)
            time.sleep(60)
        """,
    )
    leftovers = find_leftovers(store, LATER)
    (item,) = leftovers.found
    if store.local_path("") is None:
        assert (item.kind, item.key, item.bytes) == ("unfinished upload", "datasets/delays/files/0123.parquet", None)
        # moto's uploads all began at the same time in 2010.
        assert found(store, datetime(2010, 1, 1, tzinfo=timezone.utc)) == []
    else:
        assert (item.kind, item.bytes) == ("temporary file", 12 << 20)
        assert found(store, EARLIER) == []
    remove_leftovers(store, leftovers.found)
    # Another clean-up may run at the same time.
    remove_leftovers(store, leftovers.found)
    assert find_leftovers(store, LATER).found == []
    assert content(store) == whole


def test_the_file_of_a_killed_exclusive_write_is_a_leftover(store):
    killed(
        store.url,
        """
        import os
        def stop(*args, **kwargs):
            print("ready", flush=True)
            time.sleep(60)
        if store.local_path(""):
            os.link = stop
        else:
            store.delete = stop
        store.create_exclusive("ledger/a/1.json", b"1")
        """,
    )
    (item,) = find_leftovers(store, LATER).found
    assert item.kind == "temporary file"
    remove_leftovers(store, [item])
    assert store.find("") == []


@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_only_uploads_under_the_url_of_the_store_are_leftovers(store):
    other = ArtifactStore(f"{store.url}-other")
    upload = other.fs.open(other.path("a"), "wb", autocommit=False, block_size=5 << 20)
    upload.write(bytes(12 << 20))
    assert found(store) == []
    assert found(other) == [("unfinished upload", "a")]
    # The root of the bucket is a store, too.
    assert found(ArtifactStore(store.url.rpartition("/mlops")[0]))[-1] == (
        "unfinished upload",
        f"{other.root.partition('/')[2]}/a",
    )
    remove_leftovers(other, find_leftovers(other, LATER).found)
    assert found(other) == []


@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_uploads_on_several_pages_are_found(store, monkeypatch):
    prefix = f"{store.root.partition('/')[2]}/"
    uploads = [{"Key": f"{prefix}{key}", "UploadId": str(key), "Initiated": EARLIER} for key in range(5)]

    def page(method, *, KeyMarker="-1", UploadIdMarker="-1", **options):  # noqa: N803
        assert (method, options["Prefix"], KeyMarker.removeprefix(prefix)) == (
            "list_multipart_uploads", prefix, UploadIdMarker,
        )  # fmt: skip
        start = int(UploadIdMarker) + 1
        last = uploads[start : start + 2][-1]
        return {
            "Uploads": uploads[start : start + 2],
            "IsTruncated": start + 2 < len(uploads),
            "NextKeyMarker": last["Key"],
            "NextUploadIdMarker": last["UploadId"],
        }

    monkeypatch.setattr(store.fs, "call_s3", page)
    assert [key for _, key in found(store, NOW)] == ["0", "1", "2", "3", "4"]
    monkeypatch.undo()
