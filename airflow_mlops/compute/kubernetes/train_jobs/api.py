"""What is asked of the Kubernetes API about one TrainJob. Importing this imports the Kubernetes client.

Requests that the API server refuses for the moment, or that get lost, are made again, ``[workers] api_retries`` times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.train_jobs.manifest import GROUP, PLURAL, VERSION
from airflow_mlops.compute.kubernetes.train_jobs.state import JOBSET_LABEL

Request = TypeVar("Request", bound=Callable[..., Any])
_retried: Callable[[Request], Request] = generic_api_retry
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class TrainJobApi:
    """One TrainJob in the cluster.

    :param name: its name
    :param namespace: its namespace; of the Airflow connection unless given, and then Airflow's own
    :param conn_id: the Airflow connection to the cluster
    """

    def __init__(self, name: str, namespace: str | None, conn_id: str) -> None:
        self.name = name
        self._namespace = namespace
        self._hook = KubernetesHook(conn_id=conn_id)

    @cached_property
    def namespace(self) -> str:
        own = _OWN_NAMESPACE.read_text() if _OWN_NAMESPACE.exists() else None
        return self._namespace or self._hook.get_namespace() or own or "default"

    @_retried
    def get(self) -> Json | None:
        """The TrainJob, unless there is none."""
        try:
            found: Json = self._jobs.get_namespaced_custom_object(*self._place, self.name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return found

    @_retried
    def create(self, job: Json) -> Json | None:
        """Make it, and say what the cluster took of it; ``None`` where it is there already."""
        try:
            made: Json = self._jobs.create_namespaced_custom_object(*self._place, job)
        except ApiException as error:
            if error.status == 409:
                return None
            raise
        return made

    @_retried
    def delete(self, propagation: Literal["Background", "Foreground"]) -> None:
        """Have it deleted. In the foreground it is there until all that was made for it is gone."""
        try:
            self._jobs.delete_namespaced_custom_object(*self._place, self.name, propagation_policy=propagation)
        except ApiException as error:
            if error.status != 404:
                raise

    @_retried
    def pods(self) -> list[Json]:
        """Its pods."""
        found = self._hook.core_v1_client.list_namespaced_pod(
            self.namespace, label_selector=f"{JOBSET_LABEL}={self.name}"
        )
        return [_plain(pod) for pod in found.items]

    @_retried
    def warnings(self) -> list[str]:
        """What its controller warns of, oldest first."""
        events = self._hook.core_v1_client.list_namespaced_event(
            self.namespace, field_selector=f"involvedObject.name={self.name},type=Warning"
        )
        return [f"{event.reason}: {event.message}" for event in events.items]

    def log(self, pod: Json, container: str) -> Iterator[str]:
        """The lines that a container of a pod wrote."""
        answer = self._hook.core_v1_client.read_namespaced_pod_log(
            pod["metadata"]["name"], self.namespace, container=container, _preload_content=False
        )
        rest = b""
        for chunk in answer.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")

    @property
    def _jobs(self) -> Any:
        return CustomObjectsApi(self._hook.api_client)

    @property
    def _place(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL


def _plain(thing: Any) -> Json:
    return ApiClient().sanitize_for_serialization(thing)
