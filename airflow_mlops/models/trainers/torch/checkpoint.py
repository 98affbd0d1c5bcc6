"""The progress of a training, and its checkpoint in the artifact store."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from airflow_mlops.data.store import ArtifactStore


@dataclass
class State:
    """The progress of a training.

    :param epoch: number of completed epochs
    :param batch: number of batches used in the current epoch
    :param step: number of optimizer steps since the start
    :param losses: training loss of each step
    :param epochs: metrics of each completed epoch
    :param epoch_loss: sum of the losses of all rows used in the current epoch
    :param epoch_rows: number of rows used in the current epoch
    :param best: weights after the best epoch, which has the lowest validation loss (with ``validation=0``, the
        lowest training loss); ``None`` before the first epoch is complete
    :param best_loss: loss of the best epoch
    :param best_epoch: index of the best epoch, from 0; -1 before the first epoch is complete
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    epoch_loss: float = 0.0
    epoch_rows: int = 0
    best: dict[str, torch.Tensor] | None = None
    best_loss: float = float("inf")
    best_epoch: int = -1


def write_checkpoint(store: ArtifactStore, key: str, content: dict[str, Any]) -> None:
    """Store a checkpoint. The store writes files atomically, so a killed pod never leaves half a checkpoint.

    :param store: the artifact store
    :param key: key of the checkpoint in the artifact store
    :param content: the state of the training, including tensors
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    store.write_bytes(key, buffer.getvalue())


def read_checkpoint(store: ArtifactStore, key: str) -> dict[str, Any] | None:
    """Read the stored checkpoint into main memory. Return ``None`` if no checkpoint exists."""
    try:
        content = store.read_bytes(key)
    except FileNotFoundError:
        return None
    # With weights_only, loading a checkpoint cannot run code. The checkpoint is loaded into main memory, because AdamW
    # counts its steps there. If the counts were on the GPU, the CPU would wait for the GPU at each step.
    saved: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return saved
