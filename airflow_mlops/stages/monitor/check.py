"""The model and the window that a check is about."""

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

# Small batches limit the memory of a check, and are as fast as large ones.
BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Check:
    """A check of one window of one model by one policy.

    :param created: time at which the check started
    :param datasets: datasets of predictions; empty without predictions
    """

    model: str
    window: Window
    created: datetime
    policy: Policy
    datasets: Sequence[Dataset]
    store: ArtifactStore

    @property
    def rows(self) -> int:
        """Return the number of predictions."""
        return sum(dataset.rows for dataset in self.datasets)

    def has_columns(self, *names: str) -> bool:
        """Return whether every dataset has all these columns."""
        return all({*names} <= {column.name for column in item.manifest.columns} for item in self.datasets)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream ``columns`` of the predictions in batches."""
        return (batch for item in self.datasets for batch in item.batches(columns=columns, batch_rows=BATCH_ROWS))
