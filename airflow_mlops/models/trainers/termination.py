"""Let a training write a checkpoint before it is terminated."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


class SigtermHandler:
    """Calls ``notify`` on the first SIGTERM in the ``with`` block.

    A second SIGTERM is handled by the previous signal handler.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, *_: object) -> None:
        self._restore()
        self._notify()

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
