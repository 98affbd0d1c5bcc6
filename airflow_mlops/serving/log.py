"""Log predictions: in memory, then in the spool on the local disk, then in the artifact store.

A thread writes the predictions of the last second to the spool and waits until they are on the disk. Every few seconds it
uploads the files of the spool to the artifact store::

    online/MODEL/WINDOW/v3-UUID.parquet

and deletes them from the spool. If the store cannot be reached, the spool grows, up to a limit. If the server is killed,
the next server uploads the files of the spool; the predictions of the last second are lost. An upload creates its file only if it
does not exist, so no prediction is uploaded twice.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import Apart, predictions_name
from airflow_mlops.data.privacy import KEEP_ALL, Privacy
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.predicted import with_predictions
from airflow_mlops.serving.layout import DETAILS, REQUEST_COLUMNS, SHARE, online_folder, spool_folder, window_at
from airflow_mlops.serving.log_options import in_sample, with_privacy
from airflow_mlops.serving.merge import merge
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.rows import Rows
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions import Served

if TYPE_CHECKING:
    from airflow_mlops.metrics.predictions import Predictions

log = logging.getLogger(__name__)

_FLUSH_SECONDS, _UPLOAD_SECONDS, _MERGE_SECONDS = 1.0, 10.0, 60.0
_SPOOL_BYTES = 1 << 30
_SEGMENT_BYTES = 64 << 20


@dataclass(frozen=True)
class Answer:
    """The predictions of one request.

    :param rows: the scored rows
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
    """A file of the spool that is being written. Its lock shows other servers that it is not a leftover."""

    path: Path
    file: BinaryIO
    writer: pa.RecordBatchStreamWriter
    began: float = field(default_factory=time.time)


class PredictionSpool:
    """Logs answers in the background.

    :param store: artifact store that gets the predictions
    :param model: name of the registered model
    :param folder: folder on the local disk, which outlives the server
    :param window: length of the time windows, ``hour`` or ``day``
    :param name: name of the datasets of predictions; ``MODEL_predictions`` by default
    :param apart: kind of the predictions, if they are kept apart from those of the champion
    :param privacy: columns to hash or drop
    :param sample: share of the requests that are logged, 0 to 1
    """

    def __init__(
        self,
        store: ArtifactStore,
        model: str,
        folder: Path,
        window: str,
        metrics: Metrics,
        name: str | None = None,
        *,
        apart: Apart | None = None,
        privacy: Privacy = KEEP_ALL,
        sample: float = 1.0,
    ) -> None:
        self._apart, self._privacy, self._sample = apart, privacy, sample
        self._name = name or f"{model}_predictions"
        self._store, self._model, self._folder, self._window, self._metrics = store, model, folder, window, metrics
        self._answers: list[Answer] = []
        self._lock = threading.Lock()
        self._segments: dict[tuple[int, Window], _Segment] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlops-log", daemon=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def start(self) -> None:
        """Start the thread that writes and uploads."""
        self._thread.start()

    def stop(self) -> None:
        """Write all answers to the spool, upload it, and end the thread."""
        self._stopped.set()
        self._thread.join()

    def add(self, answer: Answer) -> None:
        """Log an answer, if its request is in the sample. The call only puts it on a list."""
        if not in_sample(answer.request_id, self._sample):
            return
        with self._lock:
            self._answers.append(answer)

    def _run(self) -> None:
        uploaded, merged = time.monotonic(), -_MERGE_SECONDS
        while True:
            stopped = self._stopped.wait(_FLUSH_SECONDS)
            try:
                self._flush()
                if stopped or time.monotonic() - uploaded >= _UPLOAD_SECONDS:
                    uploaded = time.monotonic()
                    self._upload()
                if stopped or time.monotonic() - merged >= _MERGE_SECONDS:
                    merged = time.monotonic()
                    merge(self._store, self._model, self._name, apart=self._apart)
            except (OSError, StoreError) as error:
                log.warning("Predictions stay in the spool %s: %s", self._folder, error)
            except Exception:
                # The thread must not end: predictions that cannot be written are better than none at all.
                log.exception("Predictions could not be logged.")
            self._measure()
            if stopped:
                return

    def _flush(self) -> None:
        """Append the new answers to the segments of their version and window, and wait until they are on the disk."""
        with self._lock:
            answers, self._answers = self._answers, []
        groups: dict[tuple[int, Window], list[Answer]] = defaultdict(list)
        for answer in answers:
            groups[answer.served.ref.version, window_at(answer.at, self._window)].append(answer)
        full = self._spooled() > _SPOOL_BYTES
        for key, group in groups.items():
            rows = sum(answer.rows.count for answer in group)
            if full:
                self._metrics.dropped.inc(rows)
                log.error("The spool %s is full. %d predictions were not logged.", self._folder, rows)
                continue
            try:
                self._append(key, _logged(group, self._privacy, self._sample, self._apart))
            except OSError as error:
                self._metrics.dropped.inc(rows)
                log.error("%d predictions could not be written to the spool %s: %s", rows, self._folder, error)
                # Nothing may follow a batch that was not written completely.
                if (torn := self._segments.pop(key, None)) is not None:
                    torn.file.close()

    def _append(self, key: tuple[int, Window], batch: pa.RecordBatch) -> None:
        segment = self._segments.get(key)
        if segment is None:
            segment = self._segments[key] = self._open(key, batch.schema)
        segment.writer.write_batch(batch)
        segment.file.flush()
        os.fsync(segment.file.fileno())
        if segment.file.tell() > _SEGMENT_BYTES:
            _close(self._segments.pop(key))

    def _open(self, key: tuple[int, Window], schema: pa.Schema) -> _Segment:
        version, window = key
        path = self._folder / f"{window.file_name}_v{version}-{uuid.uuid4().hex}.arrows"
        file = path.with_suffix(".new").open("wb")
        # Another server takes a file without a lock for a leftover, so the file gets its name when it is locked.
        fcntl.flock(file, fcntl.LOCK_EX)
        path.with_suffix(".new").rename(path)
        return _Segment(path, file, pa.ipc.new_stream(file, schema))

    def _upload(self) -> None:
        """Upload all files of the spool that no server is writing, those of killed servers included."""
        for segment in self._segments.values():
            _close(segment)
        self._segments = {}
        for path in sorted(self._folder.glob("*.arrows")):
            with suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                window, _, name = path.stem.partition("_")
                content = _parquet(file)
                if content is None:
                    log.warning("The file %s of the spool has no complete predictions. It is deleted.", path)
                else:
                    target = online_folder(self._model, self._apart)
                    self._store.create_exclusive(f"{target}/{window}/{name}.parquet", content)
                path.unlink()

    def _spooled(self) -> int:
        total = 0
        for path in self._folder.glob("*.arrows"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _measure(self) -> None:
        if self._apart is not None:
            # The two metrics are those of the champion's log.
            return
        self._metrics.spooled.set(self._spooled())
        ages = [time.time() - path.stat().st_ctime for path in self._folder.glob("*.arrows") if path.exists()]
        self._metrics.lag.set(max(ages, default=0.0))


def open_spool(spec: ServeSpec, store: ArtifactStore, metrics: Metrics, apart: Apart | None = None) -> PredictionSpool:
    """Return the log of the champion's predictions, or of those of another version.

    :param apart: kind of the other version; ``None`` for the champion
    :raises ConnectionNotFoundError: the connection with the key of the hashes does not exist
    :raises SpecError: this connection has no password, or one that is too short
    """
    folder = Path(spec.spool) / (apart or "") if spec.spool else spool_folder(spec.model, apart)
    name = predictions_name(spec.model, apart) if apart else spec.predictions
    privacy = Privacy.of(spec.hash_columns, spec.drop_columns, spec.hash_conn_id, from_environment)
    return PredictionSpool(
        store, spec.model, folder, spec.window, metrics, name, apart=apart, privacy=privacy, sample=spec.sample
    )


def _close(segment: _Segment) -> None:
    segment.writer.close()
    segment.file.close()


def _logged(answers: Sequence[Answer], privacy: Privacy, sample: float, apart: Apart | None = None) -> pa.RecordBatch:
    """Return the rows of answers of one version, with the columns of predictions and of the request.

    :param privacy: columns to hash or drop
    :param sample: share of the requests that are logged
    :param apart: kind of the predictions, if they are kept apart from those of the champion
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
    ids = pa.array(
        [answer.request_id for answer, count in zip(answers, rows, strict=True) for _ in range(count)], pa.string()
    )
    numbers = pa.array(np.concatenate([np.arange(count) for count in rows]), pa.int64())
    added = pa.RecordBatch.from_arrays([*batch.columns, ids, numbers], names=[*batch.schema.names, *REQUEST_COLUMNS])
    details = served.details | {SHARE: sample} | ({apart: True} if apart else {})
    return privacy.apply(added).replace_schema_metadata({DETAILS: json.dumps(with_privacy(details, privacy.details))})


def _with_times(batch: pa.RecordBatch, name: str, micros: np.ndarray) -> pa.RecordBatch:
    """Replace event times that were not sent by the time of the answer."""
    index = batch.schema.get_field_index(name)
    times = batch.column(index)
    answered = pa.array(micros, pa.timestamp("us", "UTC"))
    return batch.set_column(index, batch.schema.field(index), pc.coalesce(times, answered))


def _parquet(file: BinaryIO) -> bytes | None:
    """Convert a file of the spool to Parquet; ``None`` if it has no rows. A last batch that was not written completely is left out."""
    batches: list[pa.RecordBatch] = []
    try:
        reader = pa.ipc.open_stream(file)
        schema: Any = reader.schema
        while True:
            batches.append(reader.read_next_batch())
    except StopIteration:
        pass
    except (pa.ArrowException, OSError):
        if not batches:
            return None
    if not sum(batch.num_rows for batch in batches):
        return None
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches(batches, schema), sink, compression="zstd")
    return bytes(sink.getvalue())
