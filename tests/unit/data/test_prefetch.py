"""Batches are read ahead within bounds, and a signal ends the wait for a query that is blocked."""

from __future__ import annotations

import gc
import signal
import threading
import time
from functools import partial

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.data import prefetch as reading
from airflow_mlops.data.prefetch import alongside, prefetch, run_in_order
from tests.support.killing import Timeout, timeout_on_alarm


def batches(sizes):
    for size in sizes:
        yield pa.record_batch({"a": [0] * size}, schema=pa.schema([("a", pa.int64())]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=20))
def test_reading_ahead_keeps_the_order(sizes):
    with prefetch(batches(sizes)) as ahead:
        assert [batch.num_rows for batch in ahead] == sizes


def test_an_error_while_reading_is_raised_after_the_batches_read_before():
    def broken():
        yield from batches([2])
        raise OSError("gone")

    seen = []
    with pytest.raises(OSError, match="gone"), prefetch(broken()) as ahead:
        seen.extend(ahead)
    assert len(seen) == 1


def test_the_reader_stays_within_its_bound_and_stops_when_the_writer_fails():
    made, closed = [], threading.Event()

    def endless():
        try:
            while True:
                made.append(1)
                yield pa.record_batch({"a": [0] * 1000})
        finally:
            closed.set()

    def write(batches):
        next(batches)
        time.sleep(0.1)
        raise RuntimeError("disk")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="disk"), prefetch(endless(), max_bytes=24_000) as ahead:
        write(ahead)
    assert closed.is_set()
    assert threading.active_count() == before
    assert len(made) <= 6


@pytest.fixture
def alarm():
    """A function. Soon after its call, :class:`Timeout` is raised in the main thread, as by Airflow's ``execution_timeout``."""
    with timeout_on_alarm():
        yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.3)


def test_a_signal_ends_the_wait_and_cancels_the_query(alarm):
    cancelled, closed = threading.Event(), threading.Event()

    def query():
        try:
            yield from batches([1])
            assert cancelled.wait(60)
            raise OSError("cancelled")
        finally:
            closed.set()

    with pytest.raises(Timeout), prefetch(query(), cancelled.set) as ahead:
        alarm()
        list(ahead)
    assert closed.is_set()


@pytest.mark.parametrize(
    "cancel", [None, lambda: False, lambda: 1 / 0, lambda: time.sleep(60)], ids=["none", "cannot", "fails", "blocks"]
)
def test_a_query_that_cannot_be_cancelled_does_not_hold_the_task(cancel, alarm, caplog):
    release, ended = threading.Event(), threading.Event()

    def query():
        release.wait(60)
        ended.set()
        yield from batches([1])

    # Airflow kills a task after 5 s. The time is not measured, because a loaded machine may stop this process for seconds.
    assert reading._NORMAL_END + reading._CANCELLED_END < 4
    with pytest.raises(Timeout), prefetch(query(), cancel) as ahead:
        alarm()
        list(ahead)
    assert not ended.is_set()
    assert "could not be cancelled" in caplog.text
    release.set()


def test_a_query_that_is_read_to_its_end_is_not_cancelled():
    cancelled = threading.Event()
    with prefetch(batches([1, 2]), cancelled.set) as ahead:
        assert len(list(ahead)) == 2
    assert not cancelled.is_set()


def test_work_alongside_a_block_gives_its_result_or_raises_its_error():
    main = threading.get_ident()
    with alongside(threading.get_ident) as result:
        assert result() != main
    with pytest.raises(ZeroDivisionError), alongside(lambda: 1 / 0) as result:
        result()


def test_work_has_ended_when_its_block_fails():
    ended = threading.Event()

    def work():
        time.sleep(0.2)
        ended.set()

    with pytest.raises(OSError, match="disk"), alongside(work):
        raise OSError("disk")
    assert ended.is_set()


def test_tasks_run_at_the_same_time_and_their_results_have_the_order_of_the_tasks():
    meeting = threading.Barrier(2, timeout=5)

    def task(number):
        if number < 2:
            meeting.wait()
        return number

    taken = []

    def tasks():
        for number in range(6):
            taken.append(number)
            yield partial(task, number)

    found = run_in_order(tasks(), 2, pytest.fail)
    assert next(found) == 0
    assert taken == [0, 1, 2]
    assert list(found) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("where", ["task", "tasks", "caller"])
def test_an_error_stops_the_running_tasks(where):
    started, stopped, ended = threading.Event(), threading.Event(), []

    def long():
        started.set()
        assert stopped.wait(5)
        ended.append(True)

    def fail():
        assert started.wait(5)
        raise ZeroDivisionError

    def tasks():
        yield fail if where == "task" else int
        yield long
        if where == "tasks":
            fail()
        yield int

    def run():
        for _ in run_in_order(tasks(), 2, stopped.set):
            if where == "caller":
                fail()

    with pytest.raises(ZeroDivisionError):
        run()
    gc.collect()
    assert ended == [True]
