"""Resolve the rule for the window of a training set or of forecast rows.

Such a window ends with the window of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_mlops.core.errors import DatasetNotFoundError, SpecError
from airflow_mlops.core.references import Chosen, DatasetSelection
from airflow_mlops.core.training_windows import DecaySpec, TrainingWindow
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.pointers import read, window_keys
from airflow_mlops.data.store import ArtifactStore


@dataclass(frozen=True)
class ResolvedWindow:
    """A window rule, applied to one run.

    :param run: window that the run processes
    :param window: window that the rule gives. It has the same end as ``run``
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
        """Return the rule and the two windows, for the manifest of the dataset with the rows of ``window``."""
        return {"window_rule": {"rule": str(self.rule), "run": str(self.run), "window": str(self.window)}}


def resolve_window(rule: TrainingWindow | None, entities: Chosen, store: ArtifactStore) -> ResolvedWindow | None:
    """Return the window that a rule gives; ``None`` without a rule or without a window in ``entities``.

    :param rule: the rule
    :param entities: selection of datasets by name, whose window is the window that the run processes
    :param store: the artifact store
    :raises SpecError: the rule selects no time
    :raises DatasetNotFoundError: the oldest data is needed, but the dataset has no windows
    """
    if rule is None or not isinstance(entities, DatasetSelection) or entities.window is None:
        return None
    run = entities.window
    try:
        window = rule.resolve(run, lambda: _oldest(store, entities.name))
    except ValueError as error:
        raise SpecError(str(error)) from None
    return ResolvedWindow(rule, run, window, entities.model_copy(update={"window": window}))


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
