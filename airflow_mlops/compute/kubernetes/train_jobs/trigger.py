"""The Airflow trigger that waits for the TrainJob of a step. Importing this module imports the Kubernetes client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException

from airflow_mlops.compute.first_check import before_first_check
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.train_job import GROUP, PLURAL, VERSION
from airflow_mlops.compute.kubernetes.train_jobs.api import retry
from airflow_mlops.compute.kubernetes.train_jobs.state import JOBSET_LABEL, Watch, ended, progress


class TrainJobTrigger(BaseTrigger):
    """Waits until a TrainJob has ended, was deleted, or will not start.

    In these cases the ``status`` of the event is ``look``, and the resumed task reads the TrainJob. The status is
    ``timeout`` if the ``execution_timeout`` of the task has passed. The status is ``error`` if the TrainJob cannot be
    read; the event then has a ``message``.

    :param name: name of the TrainJob
    :param namespace: namespace of the TrainJob
    :param kubernetes_conn_id: id of the Airflow connection to the cluster
    :param since: time at which the task began to wait, in seconds since 1970
    :param schedule_timeout: seconds within which each pod must be scheduled to a node
    :param startup_timeout: additional seconds for a scheduled pod. Its container must run within ``schedule_timeout``
        plus ``startup_timeout`` seconds of the pod's creation
    :param deadline: time at which the ``execution_timeout`` of the task ends, in seconds since 1970
    :param poll_interval: seconds between two requests
    """

    def __init__(
        self,
        name: str,
        namespace: str,
        kubernetes_conn_id: str,
        since: float,
        schedule_timeout: int,
        startup_timeout: int,
        deadline: float | None = None,
        poll_interval: float = 5,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.since = since
        self.schedule_timeout = schedule_timeout
        self.startup_timeout = startup_timeout
        self.deadline = deadline
        self.poll_interval = poll_interval
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = (
            "name",
            "namespace",
            "kubernetes_conn_id",
            "since",
            "schedule_timeout",
            "startup_timeout",
            "deadline",
            "poll_interval",
        )
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in arguments}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await before_first_check()
        try:
            event = {"status": await self._wait()}
        except Exception as error:
            self.log.exception("TrainJob %s/%s cannot be read.", self.namespace, self.name)
            event = {"status": "error", "message": f"{type(error).__name__}: {error}"}
        self._fired = True
        content = {"name": self.name, "namespace": self.namespace, "since": self.since, **event}
        yield TriggerEvent(content)  # type: ignore[no-untyped-call]

    async def _wait(self) -> str:
        watch = Watch(self.since, self.schedule_timeout, self.startup_timeout)
        logged = ""
        while True:
            if self.deadline is not None and time.time() >= self.deadline:
                return "timeout"
            job, pods = await self._read()
            if job is None or ended(job) or watch.start_error(job, pods, time.time()):
                return "look"
            if (state := progress(job, pods)) != logged:
                logged = state
                self.log.info("TrainJob %s/%s %s.", self.namespace, self.name, state)
            await asyncio.sleep(self.poll_interval)

    @retry
    async def _read(self) -> tuple[Json | None, list[Json]]:
        """Read the TrainJob and its pods. The returned TrainJob is ``None`` if it was deleted."""
        async with self._hook().get_conn() as connection:
            try:
                job = await client.CustomObjectsApi(connection).get_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, PLURAL, self.name
                )
            except ApiException as error:
                if error.status == 404:
                    return None, []
                raise
            pods = await client.CoreV1Api(connection).list_namespaced_pod(
                self.namespace, label_selector=f"{JOBSET_LABEL}={self.name}"
            )
            return job, [connection.sanitize_for_serialization(pod) for pod in pods.items]

    async def on_kill(self) -> None:
        """Delete the TrainJob, because a user ended the task."""
        if self._fired:
            return
        self.log.info("Deleting TrainJob %s/%s.", self.namespace, self.name)
        try:
            await self._delete()
        except Exception:
            self.log.exception("TrainJob %s/%s could not be deleted.", self.namespace, self.name)

    @retry
    async def _delete(self) -> None:
        async with self._hook().get_conn() as connection:
            try:
                await client.CustomObjectsApi(connection).delete_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, PLURAL, self.name, propagation_policy="Background"
                )
            except ApiException as error:
                if error.status != 404:
                    raise

    def _hook(self) -> AsyncKubernetesHook:
        return AsyncKubernetesHook(conn_id=self.kubernetes_conn_id)
