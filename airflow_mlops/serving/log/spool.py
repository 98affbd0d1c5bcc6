"""Log predictions: in memory, then in the spool (a folder on the local disk), then in the artifact store.

A thread writes the predictions of the last second to the spool and waits until they are on the disk. Every few seconds,
a second thread uploads the files of the spool to the artifact store::

    online/MODEL/WINDOW/v3-UUID.parquet

and deletes them from the spool. Damaged files stay in the spool with another suffix. If the store cannot be reached, the
spool grows, up to a limit. If the process is killed, the next server uploads the files of the spool; the predictions of
the last second are lost. An upload creates its file only if it does not exist, so no prediction is uploaded twice.

For a window without requests (:mod:`airflow_mlops.serving.log.quiet`), a file without rows is uploaded.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import Apart, predictions_name
from airflow_mlops.data.predictions.privacy import KEEP_ALL, Privacy
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.predicted import with_predictions
from airflow_mlops.serving.layout import DETAILS, REQUEST_COLUMNS, SHARE, online_folder, spool_folder, window_at
from airflow_mlops.serving.log.claim import claim, is_removed
from airflow_mlops.serving.log.mark import require_mark
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.serving.log.options import in_sample, with_privacy
from airflow_mlops.serving.log.quiet import QuietWindows
from airflow_mlops.serving.log.uptime import State, UptimeWriter
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.rows.request import Rows
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served

if TYPE_CHECKING:
    from airflow_mlops.metrics.predictions import Predictions

log = logging.getLogger(__name__)

# Answers wait up to 0.1 seconds in the server, so predictions are on the disk within a second.
_FLUSH_SECONDS, _UPLOAD_SECONDS, _MERGE_SECONDS = 0.8, 10.0, 60.0
# Largest number of rows that wait in memory to be written to the spool.
_WAITING_ROWS = 20_000
_SPOOL_BYTES = 1 << 30
_SEGMENT_BYTES = 64 << 20
# Suffix of damaged files of the spool.
_DAMAGED = ".damaged"
# The first bytes of each message of Arrow.
_MESSAGE = b"\xff\xff\xff\xff"
# Replaces the UUID in the name of a file without rows, so that several servers write the same file.
_EMPTY = "0" * 32


class Answer(NamedTuple):
    """The predictions of one request.

    :param served: the version that has answered
    :param rows: the scored rows
    :param found: the predictions
    :param request_id: id of the request
    :param at: time of the answer in seconds since 1970
    :param latency_ms: time that scoring took, in milliseconds
    """

    served: Served
    rows: Rows
    found: Predictions
    request_id: str
    at: float
    latency_ms: float


@dataclass
class _Segment:
    """A file of the spool that is being written. Its lock shows other servers that the file is not a leftover."""

    path: Path
    file: BinaryIO
    writer: pa.RecordBatchStreamWriter
    began: float = field(default_factory=time.monotonic)
    rows: int = 0

    def close(self, *, torn: bool = False) -> None:
        """Complete and close the file, which releases its lock.

        The end of the file is missing if the disk is full. Its complete batches can still be read.

        :param torn: whether the last batch was not written completely, so that the file cannot be completed
        """
        if not torn:
            with suppress(OSError):
                self.writer.close()
        with suppress(OSError):
            self.file.close()


class PredictionSpool:
    """Logs answers in the background.

    :param store: artifact store that gets the predictions
    :param model: name of the registered model
    :param folder: folder on the local disk, which remains after the server has ended
    :param window: length of the time windows, ``hour`` or ``day``
    :param metrics: the metrics of the server
    :param name: name of the datasets of predictions; ``MODEL_predictions`` by default
    :param apart: ``shadow`` or ``canary`` for predictions of a shadow or canary version; ``None`` for the champion
    :param privacy: columns to hash or drop
    :param sample: share of the requests that are logged, 0 to 1
    :param claim: function that claims the spool for the model, see :func:`~airflow_mlops.serving.log.claim.claim`
    """

    def __init__(
        self,
        store: ArtifactStore,
        model: str,
        folder: Path,
        window: Literal["hour", "day"],
        metrics: Metrics,
        name: str | None = None,
        *,
        apart: Apart | None = None,
        privacy: Privacy = KEEP_ALL,
        sample: float = 1.0,
        claim: Callable[[], BinaryIO] | None = None,
    ) -> None:
        self._claim = claim
        self._claimed = claim() if claim is not None else None
        self._apart, self._privacy, self._sample = apart, privacy, sample
        self._name = name or f"{model}_predictions"
        self._store, self._model, self._folder, self._window, self._metrics = store, model, folder, window, metrics
        self._answers: list[Answer] = []
        self._rows = 0
        # Whether an answer waits until the answers before it are written.
        self._full = False
        #: Rows that were written to the spool, or counted as not logged.
        self.settled = 0
        self._changed = threading.Condition()
        # The server's last state that was received after the answers in `_answers`.
        self._state: State | None = None
        # Only the log of the champion has windows without requests: a canary or a shadow need not exist.
        self._uptime = UptimeWriter(store, model, folder, window) if apart is None else None
        self._quiet = QuietWindows(store, model, self._name, window)
        self._segments: dict[tuple[int, Window], _Segment] = {}
        # Time of the first prediction in each file of the spool that this process has written, in seconds since 1970.
        self._first: dict[Path, float] = {}
        # Rows of each complete file of the spool that this process has written and not uploaded yet.
        self._unsent: dict[Path, int] = {}
        self._stopped, self._written, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"mlops-log-{name}", daemon=True)
            for name, target in (("write", self._write), ("upload", self._keep_uploading))
        ]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def start(self) -> None:
        """Start the threads that write and upload."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Write all answers to the spool, upload it, and end the threads."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def add(self, answer: Answer) -> None:
        """Log an answer, if its request is in the sample. The call blocks while too many rows wait to be written."""
        if not in_sample(answer.request_id, self._sample):
            return
        with self._changed:
            while self._rows and self._rows + answer.rows.count > _WAITING_ROWS:
                self._full = True
                self._changed.notify_all()
                self._changed.wait()
            self._answers.append(answer)
            self._rows += answer.rows.count

    def hear(self, state: State) -> None:
        """Take the state of the server, which has sent all its answers before this state."""
        with self._changed:
            before = self._state
            dropped = state.dropped or (before is not None and before.dropped)
            self._state = replace(state, dropped=dropped)

    def _write(self) -> None:
        stopped = False
        while not stopped:
            with self._changed:
                # The thread may have been writing when it was notified.
                self._changed.wait_for(lambda: self._full or self._stopped.is_set(), _FLUSH_SECONDS)
                stopped = self._stopped.is_set()
            try:
                self._flush()
                self._close(0 if stopped else _UPLOAD_SECONDS)
                self._measure()
            except Exception:
                # The thread must not end, so that later predictions are still logged.
                log.exception("Predictions could not be logged.")
        self._written.set()
        self._closed.set()

    def _keep_uploading(self) -> None:
        merged = -_MERGE_SECONDS
        stopped = False
        while not stopped:
            self._closed.wait(_UPLOAD_SECONDS)
            self._closed.clear()
            stopped = self._written.is_set()
            try:
                if stopped and self._uptime is not None:
                    self._uptime.finish()
                if self._has_content():
                    # Otherwise the predictions would be written below a file system that is not mounted.
                    self._store.require()
                    if self._claimed is not None:
                        require_mark(self._store, self._model, Path(self._claimed.name).parent)
                self._upload()
                if self._uptime is not None:
                    self._uptime.publish()
                if stopped or time.monotonic() - merged >= _MERGE_SECONDS:
                    merged = time.monotonic()
                    self._merge()
            except (OSError, StoreError) as error:
                log.warning("Predictions stay in the spool %s: %s", self._folder, error)
            except Exception:
                log.exception("Predictions could not be uploaded.")

    def _has_content(self) -> bool:
        """Return whether predictions or a record of a server have to be uploaded."""
        is_served = self._uptime is not None and self._uptime.served is not None
        return is_served or any(next(self._folder.glob(pattern), None) for pattern in ("*.arrows", "*.server"))

    def _merge(self) -> None:
        """Record the windows without requests, and write the datasets of all windows that have ended."""
        now = datetime.fromtimestamp(time.time(), timezone.utc)
        served = self._uptime.served if self._uptime is not None else None
        if served is not None:
            for window in self._quiet.find(now):
                log.info("There were no requests in %s.", window.label)
                self._store.create_exclusive(
                    f"{online_folder(self._model)}/{window.file_name}/v{served.ref.version}-{_EMPTY}.parquet",
                    _as_parquet([_logged([_nothing(served)], self._privacy, self._sample)]),
                )
        merge(self._store, self._model, self._name, now, apart=self._apart)

    def _flush(self) -> None:
        """Append the new answers to the segments of their version and window, and wait until they are on the disk."""
        with self._changed:
            answers, self._answers, self._rows, self._full = self._answers, [], 0, False
            state, self._state = self._state, None
            self._changed.notify_all()
        groups: dict[tuple[int, Window], list[Answer]] = defaultdict(list)
        for answer in answers:
            groups[answer.served.ref.version, window_at(answer.at, self._window)].append(answer)
        full = self._spooled() > _SPOOL_BYTES
        for key, group in groups.items():
            rows = sum(answer.rows.count for answer in group)
            if full:
                self._metrics.dropped.inc(rows)
                self._lose(key[1])
                log.error("The spool %s is full. %d predictions were not logged.", self._folder, rows)
                continue
            try:
                self._append(key, _logged(group, self._privacy, self._sample, self._apart), group[0].at)
            except Exception as error:
                self._metrics.dropped.inc(rows)
                self._lose(key[1])
                log.error(
                    "%d predictions could not be written to the spool %s: %s",
                    rows, self._folder, error, exc_info=not isinstance(error, OSError),
                )  # fmt: skip
                # A batch that was not written completely must be the last batch of its file.
                self._finish(key, torn=True)
        self.settled += sum(answer.rows.count for answer in answers)
        if state is not None and self._uptime is not None:
            self._uptime.hear(state)

    def _lose(self, window: Window | None) -> None:
        if window is not None and self._uptime is not None:
            self._uptime.lose(window)

    def _append(self, key: tuple[int, Window], batch: pa.RecordBatch, began: float) -> None:
        segment = self._segments.get(key)
        if segment is not None and is_removed(segment.path, segment.file):
            self._finish(key)
            segment = None
        if segment is None:
            segment = self._segments[key] = self._open(key, batch.schema)
            self._first[segment.path] = began
        segment.writer.write_batch(batch)
        segment.file.flush()
        os.fsync(segment.file.fileno())
        segment.rows += batch.num_rows
        if segment.file.tell() > _SEGMENT_BYTES:
            self._finish(key)

    def _finish(self, key: tuple[int, Window], *, torn: bool = False) -> None:
        """Close a segment, if it is open, so that it is uploaded.

        :param torn: whether its last batch was not written completely
        """
        segment = self._segments.pop(key, None)
        if segment is not None:
            self._unsent[segment.path] = segment.rows
            segment.close(torn=torn)

    def _open(self, key: tuple[int, Window], schema: pa.Schema) -> _Segment:
        version, window = key
        # A program that cleans temporary folders may have removed the folder.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (
            self._claim is not None
            and self._claimed is not None
            and is_removed(Path(self._claimed.name), self._claimed)
        ):
            self._claimed = self._claim()
        path = self._folder / f"{window.file_name}_v{version}-{uuid.uuid4().hex}.arrows"
        file = path.with_suffix(".new").open("wb")
        # Other servers treat a file without a lock as a leftover, so the file gets its final name only after it is
        # locked.
        fcntl.flock(file, fcntl.LOCK_EX)
        path.with_suffix(".new").rename(path)
        return _Segment(path, file, pa.ipc.new_stream(file, schema))

    def _close(self, seconds: float) -> None:
        """Close the segments that were begun at least ``seconds`` ago, so that they are uploaded."""
        for key, segment in list(self._segments.items()):
            if time.monotonic() - segment.began >= seconds:
                self._finish(key)
                self._closed.set()

    def _upload(self) -> None:
        """Upload all files of the spool that no server is writing, including the files of killed servers."""
        for path in sorted(self._folder.glob("*.arrows")):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            except OSError as error:
                log.error("The file %s of the spool cannot be read, so it is not uploaded: %s", path, error)
                continue
            with file, suppress(FileNotFoundError):
                self._upload_file(path, file)
        self._count_removed()

    def _upload_file(self, path: Path, file: BinaryIO) -> None:
        """Upload a file of the spool, unless a server is writing it. A damaged file must not stop the upload of others."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        content, is_damaged = None, True
        try:
            content, is_damaged = _parquet(file)
        except (OSError, MemoryError) as error:
            log.error("The file %s of the spool cannot be read, so it is not uploaded: %s", path, error)
            return
        except Exception:
            log.exception("The file %s of the spool cannot be converted to Parquet.", path)
        if content is not None:
            self._store.create_exclusive(self._key(path), content)
        elif not is_damaged:
            log.warning("The file %s of the spool has no complete predictions. It is deleted.", path)
        if content is None or is_damaged:
            self._lose(_window_of(path))
        self._unsent.pop(path, None)
        if not is_damaged:
            path.unlink()
            return
        aside = path.with_suffix(_DAMAGED)
        path.rename(aside)
        log.error(
            "A file of the spool is damaged. It is kept as %s. Its predictions %s uploaded.",
            aside, "before the damage are" if content is not None else "are not",
        )  # fmt: skip

    @property
    def damaged(self) -> int:
        """Number of files in the spool that could not be converted, and are kept."""
        return sum(1 for _ in self._folder.glob(f"*{_DAMAGED}"))

    def _key(self, path: Path) -> str:
        """Return the key under which a file of the spool is uploaded."""
        window, _, name = path.stem.partition("_")
        return f"{online_folder(self._model, self._apart)}/{window}/{name}.parquet"

    def _count_removed(self) -> None:
        """Count the rows of files that are no longer in the spool, and that no server has uploaded."""
        for path, rows in list(self._unsent.items()):
            if not path.exists():
                # Another server with the same spool may have uploaded the file.
                if rows and not self._store.exists(self._key(path)):
                    self._metrics.dropped.inc(rows)
                    self._lose(_window_of(path))
                    log.error("%d predictions are lost, because another program removed the file %s.", rows, path)
                del self._unsent[path]

    def _spooled(self) -> int:
        total = 0
        for path in self._folder.glob("*.arrows"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _measure(self) -> None:
        if self._apart is not None:
            # These two metrics describe the champion's log only.
            return
        self._metrics.spooled.set(self._spooled())
        present: dict[Path, float] = {}
        for path in self._folder.glob("*.arrows"):
            # The other thread deletes a file once its rows are in the log.
            with suppress(FileNotFoundError):
                # The file of a killed server was last written at most _UPLOAD_SECONDS after its first prediction.
                present[path] = self._first.get(path) or path.stat().st_mtime
        self._first = {path: first for path, first in self._first.items() if path in present}
        self._metrics.lag.set(max(0.0, time.time() - min(present.values(), default=math.inf)))


def _window_of(path: Path) -> Window | None:
    return Window.from_file_name(path.stem.partition("_")[0])


def open_spool(spec: ServeSpec, store: ArtifactStore, metrics: Metrics, apart: Apart | None = None) -> PredictionSpool:
    """Return the log of the predictions of the champion or of another version.

    :param spec: settings of the server
    :param store: the artifact store
    :param metrics: the metrics of the server
    :param apart: ``shadow`` or ``canary``; ``None`` for the champion
    :raises ConnectionNotFoundError: the connection ``hash_conn_id`` does not exist
    :raises SpecError: the connection ``hash_conn_id`` has no password, or its password is too short; or the spool
        belongs to servers of another model or artifact store
    """
    name = predictions_name(spec.model, apart) if apart else spec.predictions
    return PredictionSpool(
        store, spec.model, _folder(spec, apart), spec.window, metrics, name,
        apart=apart, privacy=_privacy(spec), sample=spec.sample, claim=partial(prepare, spec),
    )  # fmt: skip


def prepare(spec: ServeSpec) -> BinaryIO:
    """Check the connection that contains the secret key for hashes, and claim the spool. Its folder is created.

    :return: the file that claims the spool as long as it is open
    :raises ConnectionNotFoundError: the connection ``hash_conn_id`` does not exist
    :raises SpecError: the connection ``hash_conn_id`` has no password, or its password is too short; or the spool
        belongs to servers of another model or artifact store
    """
    _privacy(spec)
    return claim(_folder(spec), spec.model, spec.store)


def _privacy(spec: ServeSpec) -> Privacy:
    return Privacy.of(spec.hash_columns, spec.drop_columns, spec.hash_conn_id, from_environment)


def _folder(spec: ServeSpec, apart: Apart | None = None) -> Path:
    return Path(spec.spool) / (apart or "") if spec.spool else spool_folder(spec.model, apart)


def _logged(answers: Sequence[Answer], privacy: Privacy, sample: float, apart: Apart | None = None) -> pa.RecordBatch:
    """Return the rows of answers of one version, with the columns of predictions and of the request.

    :param privacy: columns to hash or drop
    :param sample: share of the requests that are logged
    :param apart: ``shadow`` or ``canary`` for predictions of a shadow or canary version; ``None`` for the champion
    """
    served = answers[0].served
    rows = [answer.rows.count for answer in answers]
    batch = served.columns.logged([answer.rows for answer in answers])
    micros = np.repeat([int(answer.at * 1e6) for answer in answers], rows)
    if served.columns.timestamp is not None:
        batch = _with_times(batch, served.columns.timestamp, micros)
    batch = with_predictions(
        batch,
        served.model.contract,
        served.ref,
        np.concatenate([answer.found.prediction for answer in answers]),
        np.concatenate([answer.found.score for answer in answers]),
        pa.array(micros, pa.timestamp("us", "UTC")),
        pa.array(
            np.repeat([answer.latency_ms / max(1, count) for answer, count in zip(answers, rows, strict=True)], rows)
        ),
    )
    ids = pa.array([answer.request_id for answer in answers], pa.string()).take(
        pa.array(np.repeat(np.arange(len(answers)), rows))
    )
    numbers = pa.array(np.concatenate([np.arange(count) for count in rows]), pa.int64())
    added = pa.RecordBatch.from_arrays([*batch.columns, ids, numbers], names=[*batch.schema.names, *REQUEST_COLUMNS])
    details = served.details | {SHARE: sample} | ({apart: True} if apart else {})
    return privacy.apply(added).replace_schema_metadata({DETAILS: json.dumps(with_privacy(details, privacy.details))})


def _with_times(batch: pa.RecordBatch, name: str, micros: np.ndarray) -> pa.RecordBatch:
    """Replace null event times, which the client did not send, with the time of the answer."""
    index = batch.schema.get_field_index(name)
    times = batch.column(index)
    answered = pa.array(micros, pa.timestamp("us", "UTC"))
    return batch.set_column(index, batch.schema.field(index), pc.coalesce(times, answered))


def _parquet(file: BinaryIO) -> tuple[bytes | None, bool]:
    """Convert the complete batches of a file of the spool to Parquet.

    :return: the Parquet file, or ``None`` if there are no complete rows, and whether the file is damaged. A last batch that
        was not written completely is no damage, because a killed server leaves it
    :raises OSError: the file cannot be read at the moment
    """
    batches: list[pa.RecordBatch] = []
    is_damaged = False
    try:
        reader = pa.ipc.open_stream(file)
        while True:
            batches.append(reader.read_next_batch())
    except StopIteration:
        pass
    except (pa.ArrowException, OSError) as error:
        # Errors of the operating system have an errno, unlike Arrow's own errors about the content.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        is_damaged = not _is_torn(file)
    if not sum(batch.num_rows for batch in batches):
        return None, is_damaged
    return _as_parquet(batches), is_damaged


def _is_torn(file: BinaryIO) -> bool:
    """Return whether a stream ends too early: Arrow has read its whole file and expected more data."""
    end, size = file.tell(), os.fstat(file.fileno()).st_size
    file.seek(0)
    start = file.read(len(_MESSAGE))
    return end == size and _MESSAGE.startswith(start)


def _as_parquet(batches: Sequence[pa.RecordBatch]) -> bytes:
    table, sink = pa.Table.from_batches(batches), pa.BufferOutputStream()
    # The merge reads whole files, so it needs no statistics, which take a sixth of the time to write a file. With Zstandard
    # and dictionaries of numbers, which rarely repeat, a file of the same size takes twice the time.
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(table, sink, compression="lz4", use_dictionary=texts, write_statistics=False)
    return bytes(sink.getvalue())


def _nothing(served: Served) -> Answer:
    """Return an answer without rows, from which a file with the columns of the version is made."""
    from airflow_mlops.metrics.predictions import Predictions

    rows = Rows(0, {feature.name: [] for feature in served.columns.features}, {})
    contract = served.model.contract
    prediction = np.array([], np.asarray(contract.classes).dtype if contract.classes else np.float64)
    return Answer(served, rows, Predictions(prediction, np.array([], np.float64), None), "", 0.0, 0.0)
