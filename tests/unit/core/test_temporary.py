"""Temporary folders belong to a living process. The next step that starts deletes those of killed processes."""

from __future__ import annotations

import ast
import errno
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

import airflow_mlops
from airflow_mlops import __version__
from airflow_mlops.core import mounts, temporary
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import SpillError
from airflow_mlops.core.temporary import lasting_folder, remove_abandoned, temporary_folder
from airflow_mlops.data.feast.warehouse.base import Events
from airflow_mlops.data.feast.warehouse.upload import parquet_files
from airflow_mlops.data.incoming.types import ColumnTypes
from airflow_mlops.data.incoming.unify import unified
from airflow_mlops.data.spool import spooled
from airflow_mlops.stages import runner
from tests.support import disks

SPILLING = """
import time
from airflow_mlops.data import relational
with relational.connect("60MB") as connection:
    connection.execute("CREATE TABLE words AS SELECT uuid()::VARCHAR AS word FROM range(1000000)")
    connection.sql("SELECT word FROM words ORDER BY word").to_arrow_reader(1_000).read_next_batch()
    print("spilled", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files of this process, and of the processes that it starts."""
    found = tmp_path / "temporary"
    found.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(found))
    monkeypatch.setenv("TMPDIR", str(found))
    temporary._shares_locks.cache_clear()
    if not temporary._shares_locks(found):
        pytest.skip("The temporary folder of this machine is on a network file system.")
    return found


def in_child(work) -> int:
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return child


def leave_folder(purpose: str = "model") -> None:
    """Create a folder with a file in a process that is killed."""

    def work() -> None:
        folder = lasting_folder(purpose)
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"x" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_child(work), 0)


def test_a_step_deletes_what_a_killed_step_spilled_and_nothing_of_a_living_one(root, tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", SPILLING], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "spilled\n"
            (spilled,) = root.glob("*duckdb*")
            size = sum(file.stat().st_size for file in spilled.iterdir())
            assert size > 1_000_000
            remove_abandoned()
            assert sum(file.stat().st_size for file in spilled.iterdir()) >= size
        finally:
            process.kill()
    assert list(root.iterdir()) == [spilled]
    monkeypatch.setattr(runner, "_run", lambda *_: ({}, None))
    runner.run_call(
        StepCall(step="x", spec={}, store=f"file://{tmp_path}/store", version=__version__, key="results/x.json")
    )
    assert list(root.iterdir()) == []


def test_the_first_folder_of_a_process_deletes_abandoned_folders(root):
    # Executors of Spark start no step.
    leave_folder()
    assert len(list(root.iterdir())) == 1
    temporary._remove_once.cache_clear()
    with temporary_folder("spool") as folder:
        assert list(root.iterdir()) == [folder]
    assert list(root.iterdir()) == []


def test_starters_at_the_same_time_delete_the_abandoned_folders_and_only_those(root):
    for _ in range(20):
        leave_folder()
    reading, writing = os.pipe()

    def start() -> None:
        os.close(writing)
        os.read(reading, 1)
        for _ in range(50):
            remove_abandoned()
            with temporary_folder("spool") as folder:
                (folder / "file").write_text("x")
                remove_abandoned()
                assert (folder / "file").read_text() == "x"
        os._exit(0)

    with temporary_folder("live") as live:
        children = [in_child(start) for _ in range(4)]
        os.close(writing)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
        assert list(root.iterdir()) == [live]
    os.close(reading)


def test_a_folder_that_was_deleted_before_it_was_locked_is_created_again(root, monkeypatch):
    before, real = [], temporary._lock

    def lock(folder: Path, mode: int) -> int | None:
        if not before:
            before.append(folder)
            remove_abandoned()
        return real(folder, mode)

    monkeypatch.setattr(temporary, "_lock", lock)
    with temporary_folder("spool") as folder:
        assert list(root.iterdir()) == [folder]
        assert before[0] != folder


def test_a_fork_of_the_owner_owns_the_folder_too(root):
    reading, writing = os.pipe()

    def work() -> None:
        lasting_folder("model")
        if not os.fork():
            os.close(writing)
            os.read(reading, 1)
        os._exit(0)

    os.waitpid(in_child(work), 0)
    remove_abandoned()
    (folder,) = root.iterdir()
    os.close(writing)
    os.close(reading)
    # The fork has ended as soon as its lock is gone.
    os.close(temporary._lock(folder, temporary.fcntl.LOCK_EX))
    remove_abandoned()
    assert list(root.iterdir()) == []


def test_files_of_others_stay(root, tmp_path):
    others = [root / "mlops-duckdb-x", root / "airflow-mlops-0", root / "tmpabc"]
    for folder in others:
        folder.mkdir()
    (root / f"{temporary._OWNED}file").write_text("x")
    (tmp_path / "important").mkdir()
    (root / f"{temporary._OWNED}link").symlink_to(tmp_path / "important")
    stay = sorted(root.iterdir())
    remove_abandoned()
    assert sorted(root.iterdir()) == stay
    assert (tmp_path / "important").is_dir()


def test_a_folder_of_another_user_stays(root):
    leave_folder()
    (folder,) = root.iterdir()
    if os.getuid():
        pytest.skip("Only root can give a folder to another user.")
    os.chown(folder, 12345, -1)
    remove_abandoned()
    assert (folder / "deep" / "file").exists()


@pytest.mark.parametrize("kind", ["nfs4", "fuse.s3fs", "9p", "virtiofs"])
def test_on_a_file_system_of_several_machines_no_folder_is_deleted(root, tmp_path, monkeypatch, kind):
    leave_folder()
    mountinfo = tmp_path / "mountinfo"
    place = str(root).replace(" ", "\\040")
    mountinfo.write_text(
        "22 1 8:1 / / rw,relatime - ext4 /dev/root rw\n"
        f"23 22 8:2 / {place} rw,relatime shared:1 - tmpfs tmpfs rw\n"
        f"24 23 0:4 / {place} rw,relatime shared:1 - {kind} server:/tmp rw\n"
    )
    monkeypatch.setattr(mounts, "_MOUNTED", mountinfo)
    temporary._shares_locks.cache_clear()
    before = list(root.iterdir())
    with temporary_folder("spool") as folder:
        remove_abandoned()
        assert set(root.iterdir()) == {*before, folder}
        # A machine that sees this file system as its own disk must not delete the folder either.
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "tempdir", str(root))
        temporary._shares_locks.cache_clear()
        remove_abandoned()
        assert list(root.iterdir()) == [folder]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_error_that_can_be_retried(root, number):
    with (
        pytest.raises(SpillError, match=f"disk is full.*{root}.*TMPDIR") as caught,
        temporary_folder("model") as folder,
    ):
        raise OSError(number, os.strerror(number), str(folder / "model"))
    assert caught.value.retryable
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(("number", "retryable"), [(errno.EACCES, False), (errno.EROFS, False), (errno.ENOENT, True)])
def test_a_folder_that_cannot_be_written_is_one_clear_error(root, monkeypatch, number, retryable):
    # Root may write every folder, and a folder that a task has removed may exist again at the next try.
    def refused(*_, **__):
        raise OSError(number, os.strerror(number), str(root))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refused)
    with pytest.raises(SpillError, match=f"{root}.*TMPDIR") as caught, temporary_folder("model"):
        pass
    assert caught.value.retryable == retryable


def as_spool(rows):
    with spooled(rows):
        pass


def as_untyped(rows):
    with unified(rows, ColumnTypes(), lambda: False, print):
        pass


def as_events(rows):
    schema = pa.schema([("text", pa.string())])
    for _ in parquet_files(Events(schema, rows, datetime.min, datetime.max), pa.timestamp("us")):
        pass


@pytest.mark.parametrize("write", [as_spool, as_untyped, as_events])
def test_rows_that_do_not_fit_on_the_disk_are_one_clear_error(tmp_path, monkeypatch, write):
    rows = (pa.record_batch({"text": [secrets.token_hex(50) for _ in range(1_000)]}) for _ in range(100))
    with disks.mounted(tmp_path / "small", "1m") as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with pytest.raises(SpillError, match="disk is full") as caught:
            write(rows)
        assert caught.value.retryable
        assert list(folder.iterdir()) == []


def test_other_errors_stay_as_they_are(root):
    with pytest.raises(PermissionError), temporary_folder("model"):
        raise PermissionError(errno.EACCES, "denied")
    assert list(root.iterdir()) == []


def test_all_temporary_folders_have_an_owner():
    package = Path(airflow_mlops.__file__).parent
    names = ("TemporaryDirectory", "mkdtemp", "mkstemp")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in names
    }
    # The function that Ray starts on a node has not received this package yet.
    assert found == {"core/temporary.py", "compute/ray/job.py"}
