"""Work in threads that a signal can end: reading ahead, slow queries, and several tasks at once."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("airflow_mlops.data")

Result = TypeVar("Result")
Batch = TypeVar("Batch", bound="pa.RecordBatch | pa.Table")

# Seconds to wait for the thread to end by itself, and seconds to wait after the query was cancelled. Airflow kills a
# task 5 s after it sent SIGTERM.
_NORMAL_END, _CANCELLED_END = 0.2, 2.5


@contextmanager
def prefetch(
    batches: Iterator[Batch], cancel: Callable[[], object] | None = None, max_bytes: int = 16 << 20
) -> Iterator[Iterator[Batch]]:
    """Iterate over ``batches`` in a separate thread that reads at most ``max_bytes`` plus one batch ahead.

    Drivers and the Parquet writer release the GIL, so reading and writing overlap. Python handles signals only in the
    main thread, and only between calls into C. The main thread therefore waits in Python code. A timeout, or a user,
    can then stop the task while a query runs.

    At the end of the block the thread stops and closes ``batches``. If the thread still waits for the query, ``cancel``
    is called.

    :param batches: generator that runs the query and yields its rows
    :param cancel: function that ends the query with an error. It returns ``False`` if the query cannot be cancelled.
        The function is called in a third thread, and may block
    :param max_bytes: size in bytes of the batches that are read ahead
    """
    queue = _BoundedQueue(batches, max_bytes)
    reader = threading.Thread(target=queue.fill, name="mlops-read", daemon=True)
    reader.start()
    try:
        yield queue.drain()
    finally:
        queue.stop()
        reader.join(_NORMAL_END)
        if reader.is_alive():
            _end(reader, cancel)


def _end(reader: threading.Thread, cancel: Callable[[], object] | None) -> None:
    """Cancel the query that ``reader`` waits for, and wait until this thread ends or the deadline passes."""
    useless = threading.Event()

    def ask() -> None:
        try:
            if cancel is not None and cancel() is not False:
                return
        except Exception as error:  # noqa: BLE001 - drivers raise errors of many types
            log.warning("Cancelling the query failed: %s: %s", type(error).__name__, error)
        useless.set()

    threading.Thread(target=ask, name="mlops-cancel", daemon=True).start()
    deadline = time.monotonic() + _CANCELLED_END
    while reader.is_alive() and not useless.is_set() and time.monotonic() < deadline:
        reader.join(0.05)
    if reader.is_alive():
        log.warning("A query or a file that is being written could not be cancelled. It ends when this process ends.")


def run_cancellable(work: Callable[[], Result], cancel: Callable[[], object]) -> Result:
    """Run ``work`` in a separate thread, so that a signal ends the wait for a slow query. Return its result.

    :param work: function that runs queries
    :param cancel: function that ends the running query with an error, see :func:`prefetch`. It is called if the wait
        ends before ``work``
    """
    with alongside(work, cancel) as result:
        return result()


@contextmanager
def alongside(work: Callable[[], Result], cancel: Callable[[], object] | None = None) -> Iterator[Callable[[], Result]]:
    """Run ``work`` in a separate thread during the block. Arrow, hashlib and DuckDB release the GIL, so both run at once.

    If the block ends before ``work``, ``cancel`` is called. Without ``cancel``, the end of the block waits at most 2.5 s
    for ``work``, which must therefore be short.

    :param work: the function
    :param cancel: function that ends ``work`` with an error, see :func:`prefetch`
    :return: function that waits for the end of ``work`` and returns its result, or raises its error
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - re-raised in the thread that waits
            failures.append(error)
        finally:
            done.set()

    def result() -> Result:
        done.wait()
        if failures:
            raise failures[0]
        return results[0]

    # After a signal, Thread.join() of Python 3.11 may return although the thread is still running.
    done = threading.Event()
    worker = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="mlops-work", daemon=True)
    worker.start()
    try:
        yield result
    finally:
        if cancel is None:
            worker.join(_CANCELLED_END)
        elif not done.is_set() and worker.is_alive():
            _end(worker, cancel)


def run_in_order(tasks: Iterable[Callable[[], Result]], workers: int, stop: Callable[[], object]) -> Iterator[Result]:
    """Run tasks in threads. Yield their results in the order of the tasks.

    At most one task waits for a free thread. If several tasks fail, the error of the first in the order of the tasks is
    raised, after the running tasks have ended.

    :param workers: number of tasks that run at the same time
    :param stop: function that makes the running tasks fail soon. It is called if a task or the iteration over ``tasks``
        fails, or if the caller stops iterating
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, "mlops-work") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(contextvars.copy_context().run, task))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            stop()
            for future in waiting:
                future.cancel()
            raise


class _BoundedQueue(Generic[Batch]):
    """A queue of batches between two threads, which contains at most ``max_bytes`` plus one batch."""

    def __init__(self, batches: Iterator[Batch], max_bytes: int) -> None:
        self._batches = batches
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._ready: deque[Batch] = deque()
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

    def _put(self, batch: Batch) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._bytes < self._max_bytes)
            if not self._stopped:
                self._ready.append(batch)
                self._bytes += batch.nbytes
                self._changed.notify_all()
            return not self._stopped

    def drain(self) -> Iterator[Batch]:
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
