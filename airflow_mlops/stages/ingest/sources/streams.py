"""Streams of Arrow batches: cut to size, and read while others are written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa


def rechunk(batches: Iterable[pa.RecordBatch], rows: int, max_bytes: int = 128 << 20) -> Iterator[pa.RecordBatch]:
    """Cut a stream into batches of exactly ``rows`` rows, the last one shorter.

    So the same rows become the same bytes, however the source cut them. Rows so wide that ``max_bytes`` is
    reached first are cut earlier, to bound the memory.
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
    """Run ``batches`` in a thread of its own, at most ``max_bytes`` (and one batch) ahead.

    Drivers and the Parquet writer release the interpreter's lock, so reading and writing overlap. Leaving the
    block stops the thread; the generator is closed there, where it ran.
    """
    ahead = _Ahead(batches, max_bytes)
    reader = threading.Thread(target=ahead.read, name="mlops-read", daemon=True)
    reader.start()
    try:
        yield ahead.serve()
    finally:
        ahead.stop()
        reader.join()


class _Ahead:
    """A queue between two threads that is bounded by the bytes in it."""

    def __init__(self, batches: Iterator[pa.RecordBatch], max_bytes: int) -> None:
        self._batches = batches
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._ready: deque[pa.RecordBatch] = deque()
        self._bytes = 0
        self._stopped = self._finished = False
        self._failure: BaseException | None = None

    def read(self) -> None:
        try:
            for batch in self._batches:
                if not self._put(batch):
                    break
            self._batches.close()  # type: ignore[attr-defined] # a generator
        except BaseException as error:  # noqa: BLE001 - raised again where the batches are used
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

    def serve(self) -> Iterator[pa.RecordBatch]:
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
