"""Resolve the rule for the window of a training set."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_mlops.core.errors import DatasetNotFoundError, SpecError
from airflow_mlops.core.references import DatasetSelection
from airflow_mlops.core.training_windows import DecaySpec, TrainingWindow
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.pointers import read, window_keys
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.training_set.spec import TrainingSetSpec


@dataclass(frozen=True)
class ResolvedWindow:
    """A window rule, applied to one run.

    :param run: window that the run processes
    :param window: window of the training set, which ends with ``run``
    :param entities: selection of the datasets of ``window``
    """

    rule: TrainingWindow
    run: Window
    window: Window
    entities: DatasetSelection

    @property
    def half_life(self) -> timedelta | None:
        """Return the age at which a row has the weight 0.5, or ``None`` if the rule gives no weights."""
        return self.rule.half_life if isinstance(self.rule, DecaySpec) else None

    def describe(self) -> dict[str, Any]:
        """Return the rule and the windows for the manifest of the training set."""
        return {"window_rule": {"rule": str(self.rule), "run": str(self.run), "window": str(self.window)}}


def resolve_window(spec: TrainingSetSpec, store: ArtifactStore) -> ResolvedWindow | None:
    """Return the window of the training set, or ``None`` if the spec has no window rule.

    :raises SpecError: the rule selects no time
    :raises DatasetNotFoundError: the oldest data is needed, but the dataset has no windows
    """
    entities = spec.entities
    if spec.window is None or not isinstance(entities, DatasetSelection) or entities.window is None:
        return None
    run = entities.window
    try:
        window = spec.window.resolve(run, lambda: _oldest(store, entities.name))
    except ValueError as error:
        raise SpecError(str(error)) from None
    return ResolvedWindow(spec.window, run, window, entities.model_copy(update={"window": window}))


def _oldest(store: ArtifactStore, name: str) -> datetime:
    """Return the start of the oldest window of a dataset."""
    for key in window_keys(store, name):
        # A pointer may be withdrawn after the listing.
        if (pointer := read(store, key)) is not None and pointer.window is not None:
            return pointer.window.start
    raise DatasetNotFoundError(
        f"Dataset {name!r} has no windows in the artifact store {store.url}, so its oldest data is unknown. Run the task that "
        "writes this dataset first, or correct the name."
    )
