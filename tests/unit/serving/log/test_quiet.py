"""A window without requests is recorded as empty only if servers ran and nothing can be missing from the log."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets, open_dataset
from airflow_mlops.data.datasets.pointers import read, window_keys, withdraw
from airflow_mlops.data.predictions.versions import latest_version, rows_by_version
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.layout import servers_folder
from airflow_mlops.serving.log import spool as log
from airflow_mlops.serving.log.process import Process, current
from airflow_mlops.serving.log.quiet import why_not
from airflow_mlops.serving.log.uptime import State, Uptime, lose_spool, records
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.processes.write import answers, state_message
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from tests.unit.serving.log.test_spool import answer

DAY = Window.model_validate("2026-03-03")
NAME = "m_predictions"


def at(text: str) -> float:
    return datetime.fromisoformat(f"2026-03-{text}+00:00").timestamp()


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return ArtifactStore((tmp_path / "store").as_uri())


class Server:
    """The log of a server, whose clock is set by hand."""

    def __init__(self, store, spool, monkeypatch, clock="02T12:00", process=None) -> None:
        self.spool = log.PredictionSpool(store, "m", spool, "day", Metrics())
        self.spool._uptime._process = process or current()
        self.monkeypatch = monkeypatch
        self.version = 1
        self.now = at(clock)
        self.go(clock)

    def go(self, clock: str, **facts) -> None:
        """Run until a time. In between, the server reports every few minutes."""
        while self.now < at(clock):
            self.now = min(self.now + 500, at(clock))
            self._hear()
        self._hear(**facts)
        self.cycle()

    def _hear(self, **facts) -> None:
        self.monkeypatch.setattr(log.time, "time", lambda: self.now)
        self.spool.hear(State(answer(0, version=self.version).served, self.now, **facts))
        self.spool._flush()

    def ask(self, number: int) -> None:
        self.spool.add(answer(number, self.now, self.version))
        self.spool._flush()

    def cycle(self) -> None:
        """Upload and merge, as the server does every ten seconds and every minute."""
        self.spool._close(0)
        self.spool._upload()
        self.spool._uptime.publish()
        self.spool._merge()

    def stop(self) -> None:
        self._hear(ended=True)
        self.spool._uptime.finish()
        self.cycle()
        self.spool._uptime._file.close()

    def kill(self) -> None:
        for segment in self.spool._segments.values():
            segment.file.close()
        self.spool._uptime._file.close()


@pytest.fixture
def start(store, tmp_path, monkeypatch):
    def new(clock="02T12:00", spool="spool", process=None) -> Server:
        return Server(store, tmp_path / spool, monkeypatch, clock, process)

    return new


def days(store) -> dict[str, int]:
    """The rows of each day in the log."""
    found: dict[str, int] = {}
    for key in window_keys(store, NAME):
        window = read(store, key).window
        found[window.label] = sum(item.rows for item in find_datasets(store, NAME, window))
    return found


def test_a_day_without_requests_is_an_empty_dataset_with_the_columns_of_the_others(store, start, tmp_path):
    server = start()
    server.ask(1)
    server.go("04T00:30")
    assert days(store) == {"2026-03-02": 2, "2026-03-03": 0}
    first, empty = find_datasets(store, NAME)
    assert first.schema == empty.schema
    server.stop()
    assert not list((tmp_path / "spool").iterdir())
    # A server that starts later keeps what is recorded.
    again = start("04T00:35")
    again.go("05T01:00")
    assert days(store) == {"2026-03-02": 2, "2026-03-03": 0, "2026-03-04": 0}
    # A request that comes late is added to the day.
    again.now = at("03T10:00")
    again.ask(7)
    again.now = at("05T01:00")
    again.cycle()
    assert days(store)["2026-03-03"] == 2


def test_a_version_that_answered_nothing_does_not_count_as_the_version_of_the_predictions(store, start):
    server = start("02T00:00")
    server.version = 2
    server.ask(1)
    server.go("02T20:00")
    server.version = 3
    server.go("04T00:30")
    window = Window.model_validate("2026-03-02..2026-03-03")
    found = find_datasets(store, NAME, window)
    assert [item.manifest.details["model_version"] for item in found] == [2, 3]
    assert latest_version(found) == 2
    with DatasetWriter(store, "labels") as writer:
        writer.write(pa.table({"request_id": ["id-1"], "y": [1.0]}))
        labels = writer.commit()[0].ref
    for part, rows, version in ((window, 2, 2), (DAY, 0, 3)):
        spec = JoinLabelsSpec(
            predictions={"name": NAME, "window": str(part)},
            labels=labels,
            on=["request_id"],
            label="y",
            name="outcomes",
        )
        joined = join_labels.run(spec, StepContext(store=store))
        assert (joined.rows, joined.labelled) == (rows, rows)
        dataset = open_dataset(store, joined.dataset)
        assert dataset.manifest.details["model_version"] == version
        assert dict(rows_by_version(dataset)) == ({version: rows} if rows else {})


def test_a_day_whose_rows_are_still_in_a_spool_is_not_empty(store, start, tmp_path):
    """Two servers: one cannot upload, and has rows; the other gets no requests."""
    one, other = start(spool="one"), start(spool="other")
    one.go("03T08:00")
    one.ask(5)
    other.go("04T01:00")
    assert days(store) == {}
    # It is killed, and the next server with the same spool uploads what is left.
    one.kill()
    other.go("05T01:00")
    assert days(store) == {}
    # Another process holds the lock, so the predictions are not in the store yet.
    (left,) = (tmp_path / "one").glob("*.arrows")
    with left.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        after = start("05T02:00", spool="one")
        after.go("06T00:30")
        assert after.spool._uptime._record.until < datetime.fromisoformat("2026-03-06T00:00+00:00")
        other.cycle()
        assert days(store) == {}
    after.cycle()
    other.cycle()
    assert days(store) == {"2026-03-03": 2, "2026-03-04": 0}


def test_a_server_whose_spool_is_lost_is_reported_until_a_person_says_so(store, start, tmp_path, caplog):
    one, other = start(spool="one"), start(spool="other")
    one.kill()
    shutil.rmtree(tmp_path / "one")
    other.go("04T01:00")
    assert days(store) == {}
    (name,) = {
        record.getMessage().rpartition(" --lost ")[2] for record in caplog.records if "--lost" in record.getMessage()
    }
    lose_spool(store, "m", name, records(store, "m")[name], datetime.fromtimestamp(other.now, timezone.utc))
    # The server may have answered until then.
    other.cycle()
    assert days(store) == {}
    other.go("06T00:30")
    assert days(store) == {"2026-03-05": 0}


def killed() -> Process:
    """A process of this machine that has been killed."""
    with subprocess.Popen(["sleep", "60"]) as child:
        process = current().model_copy(update={"pid": child.pid})
        assert not process.has_ended()
        child.kill()
    return process


def test_a_server_with_a_new_spool_ends_the_record_of_a_killed_process_with_the_lost_one(store, start, tmp_path):
    one, beside = start(spool="one", process=killed()), start("02T12:01", spool="one", process=killed())
    one.go("03T08:00")
    beside.go("03T08:00")
    assert not any(record.ended for record in records(store, "m").values())
    beside.stop()
    one.kill()
    elsewhere = start("03T08:01", spool="elsewhere")
    assert [record.ended for record in records(store, "m").values()].count(False) == 2
    shutil.rmtree(tmp_path / "one")
    again = start("03T08:05", spool="one")
    lost = [record for record in records(store, "m").values() if record.incomplete]
    assert [(record.ended, record.incomplete) for record in lost] == [(True, ["2026-03-03"])]
    again.go("05T00:30")
    elsewhere.go("05T00:31")
    assert days(store) == {"2026-03-04": 0}


@pytest.mark.parametrize(
    "other",
    [
        {"boot": "0"},
        {"namespace": "pid:[1]"},
        # The process still runs. Its folder is another one, for example because each service has its own /tmp.
        {"pid": os.getpid()},
        # A process of another user.
        {"pid": 1},
        # A record of an earlier release.
        None,
    ],
)
def test_a_server_on_another_machine_of_the_same_name_still_counts(store, start, tmp_path, caplog, other):
    """A second server with the same name and folder starts while the first one cannot reach the store, and has rows."""
    one = start(spool="one")
    one.spool._uptime._process = killed().model_copy(update=other) if other is not None else None
    one.spool._uptime._record = one.spool._uptime._record.model_copy(update={"process": one.spool._uptime._process})
    one.spool._uptime.publish()
    one.go("03T08:00")
    one.ask(5)
    # The folder of this name is another one on the other machine.
    there = tmp_path / "there"
    shutil.move(tmp_path / "one", there)
    second = start("03T08:01", spool="one")
    second.go("05T01:00")
    assert days(store) == {}
    (name,) = (name for name, record in records(store, "m").items() if record.since.hour == 12)
    assert any(f"--lost {name}" in record.getMessage() for record in caplog.records)
    # The first server reaches the store again.
    for path in there.iterdir():
        shutil.move(path, tmp_path / "one")
    one.go("05T01:01")
    one.cycle()
    second.cycle()
    assert days(store) == {"2026-03-03": 2, "2026-03-04": 0}


def test_a_running_server_that_was_reported_as_lost_opens_its_record_again(store, start):
    server = start()
    ((name, record),) = records(store, "m").items()
    lose_spool(store, "m", name, record, datetime.fromtimestamp(server.now, timezone.utc))
    server.go("03T00:30")
    assert not records(store, "m")[name].ended


def test_the_record_of_a_lost_spool_is_kept_as_long_as_its_windows():
    record = uptime("01T00:00", "02T00:00").lost(datetime.fromisoformat("2026-05-20T12:00+00:00"))
    assert (record.incomplete[0], record.incomplete[-1]) == ("2026-04-10", "2026-05-20")
    assert record.last == datetime.fromisoformat("2026-05-21T00:00+00:00")
    hours = uptime("01T00:00", "02T00:00", window="hour").lost(datetime.fromisoformat("2026-03-02T01:30+00:00"))
    assert hours.incomplete == ["2026-03-02T00", "2026-03-02T01"]


def test_a_day_in_which_the_clock_was_set_back_is_a_gap(store, start):
    server = start()
    server.go("03T00:30")
    server.now = at("02T23:30")
    server.go("05T00:30")
    # Predictions that were answered after the clock was set back may belong to the first two days.
    assert days(store) == {"2026-03-04": 0}


def test_a_spool_that_is_removed_is_created_again_and_its_days_are_gaps(store, start, tmp_path):
    server = start("02T00:00")
    server.go("02T12:00")
    server.ask(1)
    shutil.rmtree(tmp_path / "spool")
    server.go("04T00:30")
    assert len(list((tmp_path / "spool").glob("*.server"))) == 1
    assert days(store) == {"2026-03-03": 0}
    server.ask(2)
    server.go("05T00:30")
    assert days(store) == {"2026-03-03": 0, "2026-03-04": 2}


def test_a_day_in_which_a_server_was_killed_or_lost_rows_is_a_gap(store, start):
    killed = start()
    killed.go("03T08:00")
    killed.kill()
    server = start("03T08:01")
    server.go("04T00:30")
    assert days(store) == {}
    server.go("04T08:00", dropped=True)
    server.go("06T00:30")
    assert days(store) == {"2026-03-05": 0}


def test_a_day_of_which_the_disk_refused_predictions_is_a_gap(store, start, monkeypatch, tmp_path):
    server = start()
    server.go("03T08:00")

    def refuse(*_) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(server.spool, "_append", refuse)
        patch.setattr(log.os, "pwrite", refuse)
        server.ask(1)
    server.cycle()
    (mark,) = (tmp_path / "spool").glob("*.server")
    assert b'"incomplete":[]' in mark.read_bytes()
    # The next server reads this file.
    server.kill()
    os.utime(mark, (at("04T08:00"), at("04T08:00")))
    start("04T08:01").go("06T00:30")
    assert days(store) == {"2026-03-05": 0}


def test_a_withdrawn_day_is_not_recorded_as_empty(store, start):
    server = start("02T00:00")
    server.ask(1)
    server.go("03T01:00")
    withdraw(store, NAME, read(store, window_keys(store, NAME)[0]), "wrong", "ann")
    # Two days later, its files are deleted.
    store.fs.rm(store.path("online/m/2026-03-02"), recursive=True)
    server.stop()
    start("03T01:01").go("04T01:00")
    assert days(store) == {"2026-03-03": 0}


def uptime(since: str, until: str, **facts) -> Uptime:
    return Uptime(where="here", since=f"2026-03-{since}Z", until=f"2026-03-{until}Z", **facts)


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ([uptime("02T00:00", "04T00:00")], None),
        ([uptime("02T00:00", "03T00:00")], "pending"),
        # A restart, and a pause that is too long.
        ([uptime("02T00:00", "03T08:00", ended=True), uptime("03T08:10", "04T00:00")], None),
        ([uptime("02T00:00", "03T08:00", ended=True), uptime("03T08:11", "04T00:00")], "final"),
        ([uptime("02T00:00", "04T00:00"), uptime("03T07:00", "03T07:00")], "pending"),
        ([uptime("02T00:00", "04T00:00"), uptime("04T00:00", "04T00:00")], None),
        ([uptime("02T00:00", "04T00:00"), uptime("01T00:00", "01T05:00", ended=True)], None),
        ([uptime("02T00:00", "04T00:00", incomplete=["2026-03-03"])], "final"),
        ([uptime("02T00:00", "04T00:00", incomplete=["2026-03-02"])], None),
        ([uptime("03T00:00", "03T12:00", ended=True)], "final"),
        ([], "final"),
    ],
)
def test_a_window_is_empty_only_if_servers_say_so(servers, reason):
    found = why_not(DAY, {str(number): item for number, item in enumerate(servers)}, "m")
    assert (None if found is None else "final" if found.final else "pending") == reason


def test_a_server_that_was_suspended_says_so(store, start):
    server = start()
    server.now = at("03T12:00")
    server.go("05T00:30")
    assert days(store) == {"2026-03-04": 0}


def test_the_record_is_written_once_a_window_and_old_records_are_deleted(store, start, monkeypatch):
    server = start()
    server.stop()
    again = start("02T12:01")
    again.go("03T00:30")
    written = []
    monkeypatch.setattr(store, "write_json", lambda key, *_: written.append(key))
    again.spool._store, again.spool._uptime._store = store, store
    again.go("03T12:00")
    assert written == []
    monkeypatch.undo()
    assert len(store.keys(servers_folder("m"))) == 2
    again.monkeypatch = monkeypatch
    again.spool._quiet.find(datetime.fromtimestamp(again.now, timezone.utc) + timedelta(days=50))
    assert len(store.keys(servers_folder("m"))) == 1


def test_a_state_is_sent_between_answers():
    state = State(answer(1, version=3).served, 12.5, dropped=True)
    (found,) = answers(io.BytesIO(state_message(state)))
    assert (found.served.ref.version, found.at, found.dropped, found.ended) == (3, 12.5, True, False)
    assert found.served.columns.schema == state.served.columns.schema
