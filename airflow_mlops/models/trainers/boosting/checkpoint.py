"""The checkpoint of a training of boosted trees: an archive with the progress as JSON and the library's own file."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_mlops.data.store import ArtifactStore

_STATE, _CONTENT = "state.json", "content"


@dataclass
class State:
    """The progress of a training.

    :param start: number of the model version that the training started from (warm start), or ``None``
    :param round: number of completed rounds
    :param losses: validation loss after each round; empty without validation rows
    """

    start: int | None = None
    round: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def best_round(self) -> int:
        """Return the number of rounds after which the validation loss was lowest (ties: the fewest)."""
        return self.losses.index(min(self.losses)) + 1 if self.losses else self.round


def write(store: ArtifactStore, key: str, state: State, content: bytes) -> None:
    """Store a checkpoint. The store writes files atomically, so a killed pod never leaves half a checkpoint.

    :param store: the artifact store
    :param key: key of the checkpoint
    :param state: the progress
    :param content: the booster or the snapshot, in the library's own format
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(_STATE, json.dumps(asdict(state)))
        archive.writestr(_CONTENT, content)
    store.write_bytes(key, buffer.getvalue())


def read(store: ArtifactStore, key: str, start: int | None) -> tuple[State, bytes] | None:
    """Read the checkpoint; return ``None`` if no checkpoint exists, or if its training started from another model.

    :param store: the artifact store
    :param key: key of the checkpoint
    :param start: number of the model version of a warm start, or ``None``
    """
    try:
        content = store.read_bytes(key)
    except FileNotFoundError:
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        state = State(**json.loads(archive.read(_STATE)))
        return (state, archive.read(_CONTENT)) if state.start == start else None
