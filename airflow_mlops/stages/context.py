"""What a step gets in addition to its spec."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import ConnectionResolver, from_environment
from airflow_mlops.data.store import ArtifactStore

log = logging.getLogger("airflow_mlops.stages")


@dataclass(frozen=True)
class StepContext:
    """The environment of one step.

    :param store: the artifact store
    :param key: the key of the step's result. It is the same for every try, so it names what may exist only once: an
        MLflow run, a checkpoint
    :param connection: looks up an Airflow connection by its id
    :param provenance: the task that started the step
    """

    store: ArtifactStore
    key: str = "results/adhoc.json"
    connection: ConnectionResolver = from_environment
    provenance: Provenance = field(default_factory=Provenance)

    def progress(self, message: str) -> None:
        """Report progress in the task's log."""
        log.info(message)
