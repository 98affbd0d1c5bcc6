"""The context of a step: artifact store, result key, connections and provenance."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import ConnectionResolver, from_environment
from airflow_mlops.data.store import ArtifactStore

log = logging.getLogger("airflow_mlops.stages")


@dataclass(frozen=True)
class StepContext:
    """The context in which a step runs.

    :param store: artifact store
    :param key: key of the step's result. All tries of a task have the same key, so steps also use it to identify their
        MLflow run and their checkpoints
    :param connection: function that looks up an Airflow connection by its id
    :param provenance: Airflow task that started the step
    """

    store: ArtifactStore
    key: str = "results/adhoc.json"
    connection: ConnectionResolver = from_environment
    provenance: Provenance = field(default_factory=Provenance)

    def progress(self, message: str) -> None:
        """Write a message about progress to the task's log."""
        log.info(message)
