"""Tests kill a step at a chosen place, and interrupt it by a signal, within the process of the test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Killed(BaseException):
    """Raised instead of killing the process. It is not an ``Exception``, so no error handler catches it."""


def killed(*_: Any) -> None:
    """Stand in for a function in which the process is killed."""
    raise Killed


class Timeout(BaseException):
    """Raised by a signal, as Airflow's ``execution_timeout`` does."""


@contextmanager
def timeout_on_alarm() -> Iterator[None]:
    """Raise :class:`Timeout` in the main thread on SIGALRM."""

    def ring(*_: Any) -> None:
        raise Timeout

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
