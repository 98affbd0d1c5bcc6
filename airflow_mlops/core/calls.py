"""The pydantic models that Airflow and the process or pod of a step exchange: specs, step calls and results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.usage import Usage
from airflow_mlops.core.windows import UtcDatetime, Window


class Request(Model):
    """A request for retraining, made by monitoring or by a user.

    A training that the request starts records the request in the tags of its MLflow run, and the promotion or refusal
    of the trained version records it in the ledger.

    :param id: id of the request: ``MODEL/WINDOW``, followed by ``/ENTRY`` (the number of the ledger entry) if a user made
        the request. Monitoring makes at most one request per model and window; users can make several
    :param model: name of the registered model
    :param triggers: names of the policy's retraining triggers that fired, or ``user``
    :param reason: the reason of the verdict, or the reason that the user gave
    :param window: the monitored window. For a request by a user, it is the last monitored window or, if there is none,
        the last scored window
    :param created: time at which the request was created
    :param metrics: all values that monitoring measured, by name; empty for a request by a user
    :param report_url: URL of the monitoring report in the artifact store; empty for a request by a user
    :param code: version of the training code to use; ``None`` if the policy does not set it
    :param without: broken features, which the training set must leave out of its features
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
    without: list[str] = Field(default_factory=list)


class Provenance(Model):
    """The Airflow task that ran a step.

    Manifests, MLflow tags and the ledger record the provenance. The provenance does not affect the ids of datasets.

    :param map_index: index of a mapped task instance; -1 if the task is not mapped
    :param partition_key: Airflow's partition key of the DAG run; ``None`` if the run has no partition key
    :param user: name of the user who triggered the DAG run; ``None`` if no user triggered the run
    :param requests: retraining requests that started the DAG run, oldest first
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
        """Return the newest retraining request for ``model``, or ``None`` if no request is for this model."""
        return next((request for request in reversed(self.requests) if request.model == model), None)

    def left_out(self) -> set[str]:
        """Return the features that a training set must leave out, because retraining requests name them as broken.

        If a model has several requests, only the newest is used. If the DAG run was started by requests for several
        models, a feature is left out only if the requests of all models name it.
        """
        newest = {request.model: set(request.without) for request in self.requests}
        return set.intersection(*newest.values()) if newest else set()


class Spec(Model):
    """The input of a step. It contains the ids of Airflow connections, but never their secrets."""

    def connections(self) -> set[str]:
        """Return the ids of Airflow connections in the spec, from all fields named ``conn_id`` or ``*_conn_id``."""
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


class Origin(Model):
    """The Airflow task that computed a cached result.

    :param map_index: index of a mapped task instance; -1 if the task is not mapped
    :param key: key of the result in the artifact store
    :param time: time at which the result was computed
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    key: str
    time: UtcDatetime

    def __str__(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"task {self.dag_id}.{self.task_id}{index} in run {self.run_id}"


class Result(Model):
    """The output of a step. It contains references and numbers, but no rows.

    :param summary: what the step did, in one or a few sentences. Operators write the summary to the task's log
    :param usage: time, memory and bytes that the step used; ``None`` if the step was not run by an operator, and in
        results of earlier releases
    :param cached: the task that computed the result, if the step took it from the cache; ``None`` if the step computed
        the result itself
    """

    summary: str
    usage: Usage | None = None
    cached: Origin | None = None

    def mlflow_runs(self) -> list[str]:
        """Return the ids of the MLflow runs of the model versions on which the step worked."""
        return []


CacheUse = Literal["use", "renew"]


class StepCall(Model):
    """A step with its input, ready to run in any process or pod.

    :param step: name of the step. The folder of the step in ``airflow_mlops.stages`` has the same name
    :param spec: the step's spec as JSON
    :param store: URL of the artifact store
    :param key: key of the result in the artifact store
    :param version: version of ``airflow_mlops`` that created the call
    :param provenance: Airflow task that created the call
    :param cache: how the step uses the cache. ``use`` returns the result of an earlier task if its inputs were the
        same. ``renew`` always computes the result and caches it. ``None`` does not use the cache
    """

    step: Name
    spec: dict[str, Any]
    store: str
    key: str
    version: str
    provenance: Provenance = Provenance()
    cache: CacheUse | None = None
