"""A store in which a process is killed after any of its writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow_mlops.data.store import ArtifactStore
from tests.support.killing import Killed


class DyingStore(ArtifactStore):
    """A store whose process is killed after some writes."""

    writes = 0
    last = 0

    def _wrote(self) -> None:
        self.writes += 1
        if self.writes == self.last:
            raise Killed

    def create_exclusive(self, key: str, data: bytes) -> bool:
        found = super().create_exclusive(key, data)
        self._wrote()
        return found

    def write_bytes(self, key: str, data: bytes) -> None:
        super().write_bytes(key, data)
        self._wrote()

    @contextmanager
    def create(self, key: str) -> Iterator[object]:
        with super().create(key) as file:
            yield file
        self._wrote()
