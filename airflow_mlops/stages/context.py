"""The context of a step: artifact store, result key, connections and provenance."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import ConnectionResolver, from_environment
from airflow_mlops.core.secrets import mask
from airflow_mlops.core.termination import error_in
from airflow_mlops.core.usage import Usage
from airflow_mlops.data.kept_selections import KeptSelections
from airflow_mlops.data.results import read_result
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.executors import Executors
from airflow_mlops.stages.usage import Meter

log = logging.getLogger("airflow_mlops.stages")

_ADHOC = "results/adhoc"


class FinishedElsewhereError(Exception):
    """Another try of the task has finished the step. This error never leaves :func:`airflow_mlops.stages.runner.run_call`."""


@dataclass(frozen=True)
class StepContext:
    """The context in which a step runs.

    :param store: artifact store
    :param key: key of the step's result in the store. All tries of a task have the same key, so steps also identify
        their MLflow run and their checkpoints by the key. The key is empty if a script runs the step without an Airflow
        task
    :param connection: function that looks up an Airflow connection by its id
    :param provenance: Airflow task that started the step
    :param meter: meter of the resources that the step uses; ``None`` if a script runs the step
    :param executors: machines that run parts of the step, see :meth:`spread`; by default the step runs in this process
        only
    """

    store: ArtifactStore
    key: str = ""
    connection: ConnectionResolver = from_environment
    provenance: Provenance = field(default_factory=Provenance)
    meter: Meter | None = None
    executors: Executors | None = None

    def for_call(self) -> StepContext:
        """Return the context with a key that is not empty.

        A step that uses ``key`` calls this method first. If no Airflow task runs the step, the method creates a new,
        unique key.
        """
        return self if self.key else replace(self, key=f"{_ADHOC}/{uuid4().hex}.json")

    @property
    def is_adhoc(self) -> bool:
        """Return whether the step runs without an Airflow task. No later run then looks up the result of the step."""
        return not self.key or self.key.startswith(f"{_ADHOC}/")

    @property
    def kept(self) -> KeptSelections | None:
        """Return the record of the datasets that the first try selected, so that retries read the same datasets.

        :return: ``None`` without an Airflow task
        """
        return None if self.is_adhoc else KeptSelections(self.store, self.key)

    def require_unfinished(self) -> None:
        """Check that no other try of the task has finished the step.

        A worker that was suspended may continue a try after the retry has finished, or even after a later task has
        written the same window again. A step therefore calls this method before it makes its output the current one.

        :raises FinishedElsewhereError: the store has a result of the step
        """
        # An object store needs one request to read a file, and two to find out that a file does not exist.
        if not self.is_adhoc and read_result(self.store, self.key) is not None:
            raise FinishedElsewhereError

    def processed(self, rows: int) -> None:
        """Record the number of rows that the step has processed, for its usage."""
        if self.meter is not None:
            self.meter.rows = rows

    def processed_in_shards(self, others: Iterable[Usage], rows: int) -> None:
        """Record what the other shards of the step used, for the usage in MLflow.

        :param others: the resources that each other shard used
        :param rows: number of rows that all shards together have processed
        """
        if self.meter is not None:
            self.meter.add_shards(others, rows)

    def spread(
        self, function: str, arguments: Mapping[str, Any], parts: Sequence[Any], conn_ids: Iterable[str] = ()
    ) -> list[Any]:
        """Run ``function`` on ``executors`` once for each part, and return the results in the order of the parts.

        :param function: import path of the function, see :func:`airflow_mlops.stages.executors.answer`
        :param arguments: arguments that all parts share, as JSON values
        :param parts: the argument of each part, as a JSON value
        :param conn_ids: ids of the Airflow connections that the function uses
        :raises MLOpsError: a part failed. If several parts failed, the error of the first is raised
        """
        assert self.executors is not None
        answers = self.executors.run(function, arguments, parts, conn_ids)
        if self.meter is not None:
            self.meter.add_executors(answers)
        for answer in answers:
            if (error := error_in(answer)) is not None:
                if answer.get("traceback"):
                    log.error("An executor failed. Its traceback:\n%s", mask(answer["traceback"]))
                raise error
        return [answer["result"] for answer in answers]

    def progress(self, message: str) -> None:
        """Write a message about progress to the task's log, without credentials."""
        log.info(mask(message))

    def warn(self, message: str) -> None:
        """Write a warning to the task's log, without credentials."""
        log.warning(mask(message))
