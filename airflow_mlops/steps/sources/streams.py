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
    changed = threading.Condition()
    ready: deque[pa.RecordBatch] = deque()
    waiting_bytes = 0
    stopped = finished = False
    failure: BaseException | None = None

    def read() -> None:
        nonlocal waiting_bytes, finished, failure
        try:
            for batch in batches:
                with changed:
                    changed.wait_for(lambda: stopped or waiting_bytes < max_bytes)
                    if stopped:
                        break
                    ready.append(batch)
                    waiting_bytes += batch.nbytes
                    changed.notify_all()
            batches.close()  # type: ignore[attr-defined] # a generator
        except BaseException as error:  # noqa: BLE001 - raised again where the batches are used
            failure = error
        with changed:
            finished = True
            changed.notify_all()

    def serve() -> Iterator[pa.RecordBatch]:
        nonlocal waiting_bytes
        while True:
            with changed:
                changed.wait_for(lambda: ready or finished)
                if not ready:
                    break
                batch = ready.popleft()
                waiting_bytes -= batch.nbytes
                changed.notify_all()
            yield batch
        if failure is not None:
            raise failure

    reader = threading.Thread(target=read, name="mlops-read", daemon=True)
    reader.start()
    try:
        yield serve()
    finally:
        with changed:
            stopped = True
            changed.notify_all()
        reader.join()
