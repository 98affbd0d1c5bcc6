"""Counts the bytes that are read from and written to a store."""

from __future__ import annotations

from threading import Lock


class Traffic:
    """The numbers of bytes read from and written to a store. Several threads may count at the same time.

    :ivar read: bytes read from the store
    :ivar written: bytes written to the store
    """

    def __init__(self) -> None:
        self.read = self.written = 0
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Traffic], tuple[()]]:
        # Each process counts its own bytes.
        return Traffic, ()

    def count(self, *, read: int = 0, written: int = 0) -> None:
        """Add numbers of bytes."""
        with self._lock:
            self.read += read
            self.written += written
