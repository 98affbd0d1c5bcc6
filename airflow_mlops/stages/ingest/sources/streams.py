"""Functions that regroup a stream of Arrow batches to a fixed size, and read it ahead in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa


def rechunk(batches: Iterable[pa.RecordBatch], rows: int, max_bytes: int = 128 << 20) -> Iterator[pa.RecordBatch]:
    """Regroup a stream into batches of ``rows`` rows.

    The written files then do not depend on the batch size of the source.

    The last batch may be shorter. A batch also ends if it reaches ``max_bytes``, which limits memory.
    """
    waiting: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        while batch.num_rows:
            head = batch.slice(0, rows - count)
            batch = batch.slice(head.num_rows)
            waiting.append(head)
            count += head.num_rows
            size += head.nbytes
            if count == rows or size >= max_bytes:
                yield _join(waiting)
                waiting, count, size = [], 0, 0
    if waiting:
        yield _join(waiting)


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


@contextmanager
def prefetch(batches: Iterator[pa.RecordBatch], max_bytes: int = 16 << 20) -> Iterator[Iterator[pa.RecordBatch]]:
    """Iterate over ``batches`` in a separate thread that reads at most ``max_bytes`` plus one batch ahead.

    Drivers and the Parquet writer release the GIL, so reading and writing overlap. Leaving the block stops the thread,
    which closes ``batches``.
    """
    queue = _BoundedQueue(batches, max_bytes)
    reader = threading.Thread(target=queue.fill, name="mlops-read", daemon=True)
    reader.start()
    try:
        yield queue.drain()
    finally:
        queue.stop()
        reader.join()


class _BoundedQueue:
    """A queue of batches between two threads, which contains at most ``max_bytes`` plus one batch."""

    def __init__(self, batches: Iterator[pa.RecordBatch], max_bytes: int) -> None:
        self._batches = batches
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._ready: deque[pa.RecordBatch] = deque()
        self._bytes = 0
        self._stopped = self._finished = False
        self._failure: BaseException | None = None

    def fill(self) -> None:
        try:
            for batch in self._batches:
                if not self._put(batch):
                    break
            self._batches.close()  # type: ignore[attr-defined] # a generator
        except BaseException as error:  # noqa: BLE001 - re-raised in the thread that uses the batches
            self._failure = error
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _put(self, batch: pa.RecordBatch) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._bytes < self._max_bytes)
            if not self._stopped:
                self._ready.append(batch)
                self._bytes += batch.nbytes
                self._changed.notify_all()
            return not self._stopped

    def drain(self) -> Iterator[pa.RecordBatch]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._finished)
                if not self._ready:
                    break
                batch = self._ready.popleft()
                self._bytes -= batch.nbytes
                self._changed.notify_all()
            yield batch
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
