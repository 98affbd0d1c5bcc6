"""The Airflow trigger that waits until an endpoint is ready. Importing this module imports the Kubernetes client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException

from airflow_mlops.compute.first_check import before_first_check
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.serving import kserve, manifests, state
from airflow_mlops.compute.kubernetes.serving.api import EndpointApi, retry
from airflow_mlops.compute.kubernetes.serving.restoring import put_back


class RolloutTrigger(BaseTrigger):
    """Waits until an endpoint is ready, was deleted, or will not become ready.

    In these cases the ``status`` of the event is ``look``, and the resumed task reads the endpoint. The status is
    ``timeout`` if the ``execution_timeout`` of the task has passed. The status is ``error`` if the endpoint cannot be
    read; the event then has a ``message``.

    :param kind: kind of the object that runs the servers
    :param name: name of the object
    :param namespace: namespace of the object
    :param conn_id: id of the Airflow connection to the cluster
    :param call: identifier of the task
    :param since: time at which the task began to wait, in seconds since 1970
    :param limit: seconds within which the endpoint must be ready
    :param deadline: time at which the ``execution_timeout`` of the task ends, in seconds since 1970
    :param poll_interval: seconds between two requests
    """

    def __init__(
        self,
        kind: str,
        name: str,
        namespace: str,
        conn_id: str,
        call: str,
        since: float,
        limit: float,
        deadline: float | None = None,
        poll_interval: float = 3,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        self.name = name
        self.namespace = namespace
        self.conn_id = conn_id
        self.call = call
        self.since = since
        self.limit = limit
        self.deadline = deadline
        self.poll_interval = poll_interval
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = ("kind", "name", "namespace", "conn_id", "call", "since", "limit", "deadline", "poll_interval")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in arguments}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await before_first_check()
        try:
            event = {"status": await self._wait()}
        except Exception as error:
            self.log.exception("%s %s/%s cannot be read.", self.kind, self.namespace, self.name)
            event = {"status": "error", "message": f"{type(error).__name__}: {error}"}
        self._fired = True
        about = {"name": self.name, "namespace": self.namespace, "conn_id": self.conn_id, "since": self.since}
        yield TriggerEvent({**about, **event})  # type: ignore[no-untyped-call]

    async def _wait(self) -> str:
        watch = state.Watch(self.since, self.limit)
        logged = ""
        while True:
            if self.deadline is not None and time.time() >= self.deadline:
                return "timeout"
            live, every = await self._read()
            if live is None or state.is_ready(live, every):
                return "look"
            pods = state.of_manifest(every, live)
            if watch.error(pods, time.time()):
                return "look"
            if (progress := state.progress(pods)) != logged:
                logged = progress
                self.log.info("%s %s/%s: %s.", self.kind, self.namespace, self.name, progress)
            await asyncio.sleep(self.poll_interval)

    @retry
    async def _read(self) -> tuple[Json | None, list[Json]]:
        """Read the object and all pods of the endpoint. The returned object is ``None`` if it was deleted."""
        async with AsyncKubernetesHook(conn_id=self.conn_id).get_conn() as connection:
            try:
                live: Json = await self._get(connection)
            except ApiException as error:
                if error.status == 404:
                    return None, []
                raise
            selector = f"{manifests.INSTANCE}={self.name}"
            found = await client.CoreV1Api(connection).list_namespaced_pod(self.namespace, label_selector=selector)
            pods = [connection.sanitize_for_serialization(pod) for pod in found.items]
            return live, [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    async def _get(self, connection: Any) -> Json:
        if self.kind == kserve.KIND:
            place = (kserve.GROUP, "v1beta1", self.namespace, "inferenceservices")
            return dict(await client.CustomObjectsApi(connection).get_namespaced_custom_object(*place, self.name))
        found = await client.AppsV1Api(connection).read_namespaced_deployment(self.name, self.namespace)
        live: Json = connection.sanitize_for_serialization(found)
        return live

    async def on_kill(self) -> None:
        """Restore the previous release, or remove the endpoint if there was none, because a user ended the task."""
        if self._fired:
            return
        try:
            self.log.info("%s", await sync_to_async(self._put_back)())
        except Exception:
            self.log.exception("The previous state of %s/%s could not be restored.", self.namespace, self.name)

    def _put_back(self) -> str:
        return put_back(EndpointApi(self.name, self.namespace, self.conn_id), self.call).said
