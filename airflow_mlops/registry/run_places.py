"""The experiment of an MLflow run and the location of its files.

MLflow sets both when it creates the run, and never changes them. Therefore a process requests them once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Largest number of remembered runs. The serving process and Airflow's API server run for months.
_MOST = 1024
_places: dict[tuple[str, str], Place] = {}


@dataclass(frozen=True)
class Place:
    """Where MLflow keeps a run.

    :param experiment_id: id of the experiment
    :param artifact_uri: URI of the folder with the files of the run
    """

    experiment_id: str
    artifact_uri: str


def place(client: MlflowClient, run_id: str) -> Place:
    """Return where MLflow keeps a run.

    For a run that this process remembers, MLflow is not asked whether the run still exists.

    :raises mlflow.exceptions.MlflowException: the run does not exist, or cannot be read
    """
    found = _places.get((client.tracking_uri, run_id))
    return remember(client, client.get_run(run_id)) if found is None else found


def remember(client: MlflowClient, run: Run) -> Place:
    """Remember where MLflow keeps a run that was just created or read."""
    found = Place(str(run.info.experiment_id), str(run.info.artifact_uri))
    while len(_places) >= _MOST:
        # The oldest entry is removed.
        _places.pop(next(iter(_places)), None)
    _places[client.tracking_uri, str(run.info.run_id)] = found
    return found
