"""Specs, results and calls of steps: all that crosses the border to another process or a pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.windows import UtcDatetime, Window


class Request(Model):
    """A request for retraining, as it travels from monitoring to the training run, its MLflow tags and the ledger.

    :param id: names it: model and window, which asks once at most
    :param triggers: names of what asked
    :param reason: one sentence
    :param window: the window in which that was found
    :param created: when it was made
    :param metrics: the numbers the reason stands on
    :param report_url: the page that shows them, in the artifact store
    :param code: the version of the code that trains, if the policy names one
    """

    id: str
    model: str
    triggers: list[str]
    reason: str
    window: Window
    created: UtcDatetime
    metrics: dict[str, float] = Field(default_factory=dict)
    report_url: str = ""
    code: str | None = None


class Provenance(Model):
    """Where a call came from. It goes into manifests, MLflow tags and the ledger, never into a dataset's identity.

    :param requests: the requests for retraining that started the DAG run, oldest first
    """

    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1
    try_number: int = 1
    partition_key: str | None = None
    user: str | None = None
    requests: list[Request] = Field(default_factory=list)

    def request(self, model: str) -> Request | None:
        """The newest request for retraining ``model``; ``None`` where nobody asked."""
        return next((request for request in reversed(self.requests) if request.model == model), None)


class Spec(Model):
    """What one step is asked to do. Holds names of connections, never secrets."""

    def connections(self) -> set[str]:
        """Ids of the Airflow connections this spec names, found in every field called ``conn_id`` or ``*_conn_id``."""
        return set(_connection_ids(self.model_dump(mode="json")))


def _connection_ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and item and (key == "conn_id" or key.endswith("_conn_id")):
                yield item
            else:
                yield from _connection_ids(item)
    elif isinstance(value, list):
        for item in value:
            yield from _connection_ids(item)


class Result(Model):
    """What one step answers: references and numbers, never data.

    :param summary: one sentence for the task's log that says what was done
    """

    summary: str


class StepCall(Model):
    """One step, ready to run anywhere: all that crosses the border to another process or a pod.

    :param step: the step's name, which is also its module under ``airflow_mlops.stages``
    :param spec: the step's spec as JSON
    :param store: URL of the artifact store
    :param key: key in the store under which the result is written
    :param version: version of ``airflow_mlops`` that made the call
    """

    step: Name
    spec: dict[str, Any]
    store: str
    key: str
    version: str
    provenance: Provenance = Provenance()
