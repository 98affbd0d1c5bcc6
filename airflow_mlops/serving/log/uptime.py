"""Record when each server has logged predictions, so that a window without requests can be distinguished from a gap in
the log.

Each process that writes the log keeps a record in the artifact store::

    online-servers/MODEL/UUID.json

The record says until which time all predictions of the server are in the store. A copy is in the spool, and the process
holds a lock on it. If the process is killed, the next server with the same spool uploads the predictions that are left,
and then ends the record of the killed process.

If the spool is lost, for example with its disk, the predictions in it are lost, too. A server with a new spool in the
same folder then ends the record, if it can prove that the killed process no longer exists
(:mod:`airflow_mlops.serving.log.process`). The names of the machine and of the folder are no proof, because a server on
another machine may have the same names and still hold predictions. Without a proof, a person ends the record with
``airflow mlops servers --lost``. In both cases, the windows from the last upload until the end of the record may lack
predictions, so these windows are gaps.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from pydantic import Field, ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.layout import servers_folder, window_at
from airflow_mlops.serving.log.process import Process, current

if TYPE_CHECKING:
    from airflow_mlops.serving.versions.loaded import Served

log = logging.getLogger(__name__)

#: Interruptions up to this length, such as restarts, do not count as gaps.
PAUSE = timedelta(minutes=10)
#: Time after which the record of a server that has ended is deleted. Windows that are older are not examined.
KEPT = timedelta(days=40)
#: When this time has passed since the end of a window, servers send no more predictions of the window to their log.
MARGIN = timedelta(minutes=1)
# A killed process may have received predictions for this time after it last wrote its file in the spool.
_UNWRITTEN = timedelta(seconds=10)


@dataclass(frozen=True)
class State:
    """The state of a server. The server has sent all answers before the time ``at`` to the process that writes its log.

    :param served: the champion that the server has loaded
    :param at: time in seconds since 1970
    :param dropped: whether predictions since the last state were not logged
    :param ended: whether the server sends no more answers, because it ends by itself
    """

    served: Served
    at: float
    dropped: bool = False
    ended: bool = False


class Uptime(Model):
    """The time in which a server has logged predictions.

    :param where: machine and spool of the server, for log lines and tables. Several servers may have the same text
    :param process: the process that writes the log; ``None`` in records of earlier releases, or if the process cannot be
        identified
    :param since: time at which the server began to answer
    :param until: time until which all predictions of the server are in the artifact store
    :param ended: whether the server has ended, and all its predictions are in the artifact store; in the spool, whether
        the server has ended by itself
    :param incomplete: file names of the windows whose predictions may be lost, or in which the server paused
    :param window: length of the windows of the log
    """

    where: str
    process: Process | None = None
    since: UtcDatetime
    until: UtcDatetime
    ended: bool = False
    incomplete: list[str] = Field(default_factory=list)
    window: Literal["hour", "day"] = "day"

    @property
    def last(self) -> datetime:
        """Return the last time that the record covers, including incomplete windows."""
        windows = map(Window.from_file_name, self.incomplete)
        return max([self.until, *(window.end for window in windows if window is not None)])

    def without(self, *windows: Window) -> Uptime:
        """Return the record with further incomplete windows."""
        names = sorted({*self.incomplete, *(window.file_name for window in windows)})
        return self if names == self.incomplete else self.model_copy(update={"incomplete": names})

    def lost(self, now: datetime) -> Uptime:
        """Return the ended record of a server that no longer runs and whose spool is lost.

        All windows from the last upload until ``now`` are incomplete, because the server may have answered in them.
        """
        first = max(self.until, now - KEPT)
        return self.without(*_windows(first, now, self.window)).model_copy(update={"ended": True})


def record_key(model: str, name: str) -> str:
    """Return the key of a record.

    :param model: name of the registered model
    :param name: name of the record
    """
    return f"{servers_folder(model)}/{name}.json"


def records(store: ArtifactStore, model: str) -> dict[str, Uptime]:
    """Read the records of the servers of a model, by name.

    :raises StoreError: the store cannot be used
    """
    found = store.read_many_json(store.keys(servers_folder(model)))
    return {
        key.rpartition("/")[2].removesuffix(".json"): Uptime.model_validate(content) for key, content in found.items()
    }


class UptimeWriter:
    """Keeps the record of one process that writes the log of a server.

    The thread that writes the spool calls :meth:`hear`. The thread that uploads calls :meth:`finish` and :meth:`publish`.

    :param store: the artifact store
    :param model: name of the registered model
    :param spool: folder of the spool
    :param length: length of the windows of the log, ``hour`` or ``day``
    """

    def __init__(self, store: ArtifactStore, model: str, spool: Path, length: Literal["hour", "day"]) -> None:
        self._store, self._model, self._spool, self._length = store, model, spool, length
        self._name = uuid.uuid4().hex
        self._process = current()
        self._lock = threading.Lock()
        self._state: State | None = None
        self._record: Uptime | None = None
        # The last versions of the record in the artifact store and in the spool.
        self._published: Uptime | None = None
        self._kept: Uptime | None = None
        self._file: BinaryIO | None = None
        # Whether the records of servers with a lost spool have been ended.
        self._others_ended = False
        self._unreadable: set[Path] = set()

    @property
    def served(self) -> Served | None:
        """Return the champion of the server; ``None`` if the server has not loaded any."""
        return self._state.served if self._state is not None else None

    def hear(self, state: State) -> None:
        """Take the state of the server. All answers that it sent before this state are in the spool."""
        with self._lock:
            at, record = _moment(state.at), self._record
            if record is None:
                machine = f"{socket.gethostname()}:{self._spool}"
                record = Uptime(where=machine, process=self._process, since=at, until=at, window=self._length)
            last = _moment(self._state.at) if self._state is not None else at - MARGIN
            # If the clock was set back, predictions may belong to windows that the record already covers.
            if state.dropped or at - last > PAUSE or last - at > MARGIN:
                record = record.without(*_windows(min(last, at), max(last, at), self._length))
            self._state = state
            self._keep(record)

    def lose(self, window: Window) -> None:
        """Record that predictions of a window were not logged."""
        with self._lock:
            if self._record is not None:
                self._keep(self._record.without(window))

    def finish(self) -> None:
        """Record in the spool that the log is written, before it is uploaded for the last time."""
        with self._lock:
            record, state = self._record, self._state
            if record is None or state is None:
                return
            if not state.ended:
                # The server was killed.
                record = record.without(*_windows(_moment(state.at), _moment(time.time()), self._length))
            self._keep(record.model_copy(update={"ended": True}))

    def publish(self) -> None:
        """Write the record, and those of killed processes with the same spool, to the artifact store.

        If the log is finished, and all predictions are in the store, the record ends. Otherwise, the next server that
        uploads the predictions ends it.

        :raises StoreError: the store cannot be used
        """
        spooled = self._spooled()
        with self._lock:
            record, state = self._record, self._state
            if record is not None and state is not None:
                until = window_at(state.at - MARGIN.total_seconds(), self._length).start
                if record.until < until and (spooled is None or spooled >= until):
                    record = record.model_copy(update={"until": until})
                    self._keep(record)
        if record is not None and state is not None:
            if record.ended and (spooled is None or spooled > _moment(state.at)):
                self._write(record.model_copy(update={"until": max(record.until, _moment(state.at))}))
                self._path.unlink(missing_ok=True)
            else:
                self._write(record.model_copy(update={"ended": False}))
        self._end_others(spooled)
        if record is not None and not self._others_ended:
            self._end_lost(record)
            self._others_ended = True

    @property
    def _path(self) -> Path:
        return self._spool / f"{self._name}.server"

    def _keep(self, record: Uptime) -> None:
        """Write the record to the spool. The time of the file is the time of the server's last state."""
        self._record = record
        try:
            self._keep_in_spool(record)
        except OSError as error:
            # The record in the artifact store is still written.
            log.warning("The record of the server cannot be written to the spool %s: %s", self._spool, error)

    def _keep_in_spool(self, record: Uptime) -> None:
        assert self._state is not None
        if self._file is not None and not self._path.exists():
            # A program that cleans temporary folders may have removed the file. Without it, no other server could end
            # the record.
            self._file.close()
            self._file, self._kept = None, None
        if self._file is None:
            self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = self._path.with_suffix(".new")
            file = new.open("w+b", buffering=0)
            # As for the files of predictions, other servers treat a file without a lock as a leftover.
            fcntl.flock(file, fcntl.LOCK_EX)
            new.rename(self._path)
            self._file = file
        if record != self._kept:
            content = record.model_dump_json().encode()
            os.pwrite(self._file.fileno(), content, 0)
            os.ftruncate(self._file.fileno(), len(content))
            self._kept = record
        os.utime(self._file.fileno(), (self._state.at, self._state.at))

    def _write(self, record: Uptime) -> None:
        if record != self._published:
            self._store.write_json(record_key(self._model, self._name), record.model_dump(mode="json"))
            self._published = record

    def _end_others(self, spooled: datetime | None) -> None:
        """End the records of processes that were killed, and whose predictions are no longer in the spool."""
        for path in self._spool.glob("*.server"):
            with suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                last = _moment(os.fstat(file.fileno()).st_mtime)
                if spooled is not None and spooled <= last:
                    continue
                try:
                    record = Uptime.model_validate_json(file.read())
                except ValidationError:
                    if path not in self._unreadable:
                        self._unreadable.add(path)
                        log.warning("The file %s of a killed server cannot be read, so its record stays open.", path)
                    continue
                if not record.ended:
                    record = record.without(*_windows(last, last + _UNWRITTEN, self._length))
                key = record_key(self._model, path.stem)
                # If the disk was full, only the store knows all incomplete windows.
                with suppress(FileNotFoundError):
                    known = Uptime.model_validate(self._store.read_json(key))
                    record = record.model_copy(update={"incomplete": sorted({*record.incomplete, *known.incomplete})})
                record = record.model_copy(update={"until": max(record.until, last), "ended": True})
                self._store.write_json(key, record.model_dump(mode="json"))
                path.unlink()

    def _spooled(self) -> datetime | None:
        """Return the start of the earliest window with predictions in the spool; ``None`` if the spool is empty."""
        windows = (Window.from_file_name(path.name.partition("_")[0]) for path in self._spool.glob("*.arrows"))
        return min((window.start for window in windows if window is not None), default=None)

    def _end_lost(self, own: Uptime) -> None:
        """End the records of earlier servers whose spool was in the same folder and is lost.

        The file of a server stays in its spool until its record has ended. The files are looked up before the records
        are read, and again afterwards, because a server may have started in the meantime.
        """
        present = {path.stem for path in self._spool.glob("*.server")}
        for name, record in records(self._store, self._model).items():
            if record.ended or record.where != own.where or record.since >= own.since:
                continue
            if name in present or (self._spool / f"{name}.server").exists():
                continue
            if record.process is not None and record.process.has_ended():
                lose_spool(self._store, self._model, name, record, _moment(time.time()))
            else:
                log.warning(
                    "The record of server %s (%s, since %s) is open, but its file is not in the spool of the present server. "
                    "If server %s no longer runs and its spool is lost, run: airflow mlops servers %s --lost %s",
                    name,
                    record.where,
                    record.since.isoformat(),
                    name,
                    self._model,
                    name,
                )


def lose_spool(store: ArtifactStore, model: str, name: str, record: Uptime, now: datetime) -> None:
    """End the record of a server whose spool is lost, and log which windows may lack predictions.

    :param model: name of the registered model
    :param name: name of the record
    :param record: the record
    :param now: current time
    :raises StoreError: the store cannot be used
    """
    store.write_json(record_key(model, name), record.lost(now).model_dump(mode="json"))
    log.warning(
        "The spool of the server %s is lost. Predictions since %s may be missing, so windows from then until now are not "
        "recorded as empty.",
        record.where,
        record.until.isoformat(),
    )


def _windows(start: datetime, end: datetime, length: str) -> list[Window]:
    """Return the windows of the log from a time until a time, both included."""
    found = [window_at(start.timestamp(), length)]
    while found[-1].end <= end:
        found.append(window_at(found[-1].end.timestamp(), length))
    return found


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
