"""Specs, results and calls of steps: everything that is sent to another process or a pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.windows import UtcDatetime, Window


class Request(Model):
    """A request for retraining, from monitoring. The training run records it in its MLflow tags and in the ledger.

    :param id: identifies the request by model and window; a window has at most one request
    :param model: name of the registered model
    :param triggers: names of the triggers of the policy that fired
    :param reason: the reason, one sentence
    :param window: the window whose check made the request
    :param created: time of the request
    :param metrics: the metrics that the reason refers to
    :param report_url: URL of the report in the artifact store
    :param code: version of the training code, if the policy names one
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
    """The task that made a call. Recorded in manifests, MLflow tags and the ledger, but not part of a dataset's id.

    :param map_index: index of a mapped task, else -1
    :param partition_key: Airflow's partition key of the DAG run
    :param user: the user who triggered the DAG run
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
        """The newest request for retraining ``model``, or ``None``."""
        return next((request for request in reversed(self.requests) if request.model == model), None)


class Spec(Model):
    """The input of a step. Holds ids of connections, never secrets."""

    def connections(self) -> set[str]:
        """Ids of the Airflow connections in the spec: the values of all fields named ``conn_id`` or ``*_conn_id``."""
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
    """The output of a step: references and numbers, never data.

    :param summary: one sentence about what the step did, for the task's log
    """

    summary: str


class StepCall(Model):
    """A step with its input, which can run in any process or pod.

    :param step: name of the step, which is also its folder in ``airflow_mlops.stages``
    :param spec: the step's spec as JSON
    :param store: URL of the artifact store
    :param key: key of the result in the store
    :param version: version of ``airflow_mlops`` that made the call
    :param provenance: the task that made the call
    """

    step: Name
    spec: dict[str, Any]
    store: str
    key: str
    version: str
    provenance: Provenance = Provenance()
