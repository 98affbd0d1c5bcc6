"""How far a task has materialized its window."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_mlops.core.moments import parse
from airflow_mlops.data.store import ArtifactStore


class Watermark:
    """The end time of the last materialized chunk, in the artifact store.

    A retry of the task continues after this time.

    :param store: the artifact store
    :param key: key of the result of the task
    """

    def __init__(self, store: ArtifactStore, key: str) -> None:
        self._store = store
        self._key = f"checkpoints/{key.removesuffix('.json')}/materialized.json"

    def read(self) -> datetime | None:
        """Return the end time of the last materialized chunk; ``None`` if there is none."""
        found = (self._read() or {}).get("until")
        return parse(found) if found else None

    def lost(self) -> dict[str, datetime]:
        """Return the lost feature views that no chunk has materialized again, see :meth:`write_lost`."""
        return {name: parse(first) for name, first in (self._read() or {}).get("lost", {}).items()}

    def states(self) -> Any:
        """Return the states of files that were written with the last chunk; ``None`` if there are none."""
        return (self._read() or {}).get("states")

    def write_lost(self, lost: Mapping[str, datetime]) -> None:
        """Store which feature views the online store has lost. This is called before the first chunk of a try.

        If the first chunk fails halfway, the online store has some rows of these views, but not all.

        :param lost: the start of the first materialized interval, by feature view
        """
        firsts = {name: first.isoformat() for name, first in lost.items()}
        self._store.write_json(self._key, {**(self._read() or {}), "lost": firsts})

    def write(self, until: datetime, states: Mapping[str, Any] | None = None) -> None:
        """Store the end time of a chunk.

        :param states: the states of the source files before the materialization, and of the online store after it
        """
        self._store.write_json(self._key, {"until": until.isoformat(), **({"states": states} if states else {})})

    def _read(self) -> dict[str, Any] | None:
        try:
            return dict(self._store.read_json(self._key))
        except FileNotFoundError:
            return None
