"""The context of a step: artifact store, result key, connections and provenance."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from uuid import uuid4

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import ConnectionResolver, from_environment
from airflow_mlops.data.store import ArtifactStore

log = logging.getLogger("airflow_mlops.stages")

_ADHOC = "results/adhoc"


@dataclass(frozen=True)
class StepContext:
    """The context in which a step runs.

    :param store: artifact store
    :param key: key of the step's result. All tries of a task have the same key, so steps also use it to identify their
        MLflow run and their checkpoints. It is empty in a script, where no task runs the step and every call computes anew
    :param connection: function that looks up an Airflow connection by its id
    :param provenance: Airflow task that started the step
    """

    store: ArtifactStore
    key: str = ""
    connection: ConnectionResolver = from_environment
    provenance: Provenance = field(default_factory=Provenance)

    def for_call(self) -> StepContext:
        """Return the context for one call of a step.

        Every step that uses ``key`` starts with it. Without a task, it gives the call a key that no other call has.
        """
        return self if self.key else replace(self, key=f"{_ADHOC}/{uuid4().hex}.json")

    @property
    def is_adhoc(self) -> bool:
        """Return whether no task runs the step, so that its results are not looked up later."""
        return not self.key or self.key.startswith(f"{_ADHOC}/")

    def progress(self, message: str) -> None:
        """Write a message about progress to the task's log."""
        log.info(message)
