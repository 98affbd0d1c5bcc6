"""The window that is checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy.spec import Policy

if TYPE_CHECKING:
    import pyarrow as pa

# Small batches let a check run next to other tasks, and cost no time.
BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Check:
    """The subject of a check: which window of which model, and by which policy.

    :param created: when the check started
    :param datasets: the predictions; empty if there are none
    """

    model: str
    window: Window
    created: datetime
    policy: Policy
    datasets: Sequence[Dataset]
    store: ArtifactStore

    @property
    def rows(self) -> int:
        """Number of predictions."""
        return sum(dataset.manifest.rows for dataset in self.datasets)

    def has_columns(self, *names: str) -> bool:
        """Whether every dataset has all these columns."""
        return all({*names} <= {column.name for column in item.manifest.columns} for item in self.datasets)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream the predictions."""
        return (batch for item in self.datasets for batch in item.batches(columns=columns, batch_rows=BATCH_ROWS))
