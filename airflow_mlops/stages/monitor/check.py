"""A check by MonitorOperator: the model, the window, and the predictions that are checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.predictions.versions import latest_version, rows_by_version
from airflow_mlops.data.selection import is_quarantine_estimated, quarantined_rows
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy.spec import Policy

if TYPE_CHECKING:
    import pyarrow as pa

# Small batches limit the memory of a check, and are as fast as large ones.
BATCH_ROWS = 16_384
_VERSION = "model_version"


@dataclass(frozen=True)
class Check:
    """A check by MonitorOperator of the predictions of one model in one window.

    :param created: time at which the check started
    :param policy: the retraining policy that judges the window
    :param datasets: datasets of predictions; empty without predictions
    :param store: the artifact store
    :param version: number of the model version whose predictions are checked; ``None`` for all predictions
    """

    model: str
    window: Window
    created: datetime
    policy: Policy
    datasets: Sequence[Dataset]
    store: ArtifactStore
    version: int | None = None

    @property
    def rows(self) -> int:
        """Return the number of checked predictions."""
        if self.version is None:
            return sum(dataset.rows for dataset in self.datasets)
        return sum(rows_by_version(dataset)[self.version] for dataset in self.datasets)

    @property
    def quarantined(self) -> int:
        """Return the number of rows of the window that were not scored, because validation had quarantined them."""
        return sum(map(quarantined_rows, self.datasets))

    @property
    def is_quarantine_estimated(self) -> bool:
        """Return whether :attr:`quarantined` is an estimate, because the predictions are only a part of a dataset."""
        return any(map(is_quarantine_estimated, self.datasets))

    @property
    def latest_version(self) -> int | None:
        """Return the number of the version that made the latest checked predictions; ``None`` if it is unknown."""
        if self.version is not None:
            return self.version
        return latest_version(self.datasets)

    def of_each_version(self) -> list[Check]:
        """Return one check for each version. The last check is for the version that made the latest predictions."""
        counts = [rows_by_version(dataset) for dataset in self.datasets]
        numbers = sorted(set().union(*counts))
        if len(numbers) < 2:
            return [self]
        latest = latest_version(self.datasets)
        return [
            replace(
                self,
                datasets=[item for item, known in zip(self.datasets, counts, strict=True) if number in known],
                version=number,
            )
            for number in sorted(numbers, key=lambda number: (number == latest, number))
        ]

    def has_columns(self, *names: str) -> bool:
        """Return whether every dataset of predictions has the columns ``names``."""
        return self._everywhere is None or self._everywhere >= {*names}

    @cached_property
    def _everywhere(self) -> frozenset[str] | None:
        """Return the names of the columns that every dataset of predictions has; ``None`` without datasets."""
        names = [frozenset(item.manifest.column_names) for item in self.datasets]
        return frozenset.intersection(*names) if names else None

    def batches(self, columns: Sequence[str], batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield ``columns`` of the checked predictions in batches of at most ``batch_rows`` rows."""
        for item in self.datasets:
            if self.version is None or len(rows_by_version(item)) < 2:
                yield from item.batches(columns=columns, batch_rows=batch_rows)
                continue
            wanted = list(dict.fromkeys([*columns, _VERSION]))
            for batch in item.batches(columns=wanted, batch_rows=batch_rows):
                yield batch.filter(pc.equal(batch.column(_VERSION), self.version)).select(list(columns))
