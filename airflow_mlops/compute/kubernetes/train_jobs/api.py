"""Requests to the Kubernetes API about one TrainJob. Importing this module imports the Kubernetes client.

Requests that fail temporarily (429, 5xx, lost connections) are repeated up to ``[workers] api_retries`` times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal, TypeVar

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.train_job import GROUP, PLURAL, VERSION
from airflow_mlops.compute.kubernetes.namespaces import namespace_for
from airflow_mlops.compute.kubernetes.train_jobs.state import JOBSET_LABEL

Request = TypeVar("Request", bound=Callable[..., Any])
retry: Callable[[Request], Request] = generic_api_retry


class TrainJobApi:
    """Sends requests about one TrainJob to the Kubernetes API.

    :param name: name of the TrainJob
    :param namespace: namespace of the TrainJob; by default the namespace of the Airflow connection, or else the
        namespace in which Airflow runs
    :param conn_id: id of the Airflow connection to the cluster
    """

    def __init__(self, name: str, namespace: str | None, conn_id: str) -> None:
        self.name = name
        self._namespace = namespace
        self._hook = KubernetesHook(conn_id=conn_id)

    @cached_property
    def namespace(self) -> str:
        return namespace_for(self._namespace, self._hook)

    @retry
    def get(self) -> Json | None:
        """Read the TrainJob; return ``None`` if the TrainJob does not exist."""
        try:
            found: Json = self._jobs.get_namespaced_custom_object(*self._path, self.name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return found

    @retry
    def create(self, job: Json) -> Json | None:
        """Create the TrainJob and return it as the cluster stored it; return ``None`` if it exists already."""
        try:
            created: Json = self._jobs.create_namespaced_custom_object(*self._path, job)
        except ApiException as error:
            if error.status == 409:
                return None
            raise
        return created

    @retry
    def delete(self, propagation: Literal["Background", "Foreground"]) -> None:
        """Request the deletion of the TrainJob.

        :param propagation: ``Foreground`` deletes the TrainJob after its pods, ``Background`` before its pods
        """
        try:
            self._jobs.delete_namespaced_custom_object(*self._path, self.name, propagation_policy=propagation)
        except ApiException as error:
            if error.status != 404:
                raise

    @retry
    def pods(self) -> list[Json]:
        """Read the pods of the TrainJob."""
        found = self._hook.core_v1_client.list_namespaced_pod(
            self.namespace, label_selector=f"{JOBSET_LABEL}={self.name}"
        )
        return [_as_json(pod) for pod in found.items]

    @retry
    def warnings(self) -> list[str]:
        """Read the warning events of the TrainJob, oldest first."""
        events = self._hook.core_v1_client.list_namespaced_event(
            self.namespace, field_selector=f"involvedObject.name={self.name},type=Warning"
        )
        return [f"{event.reason}: {event.message}" for event in events.items]

    def log(self, pod: Json, container: str) -> Iterator[str]:
        """Yield the lines that a container of a pod has logged."""
        response = self._hook.core_v1_client.read_namespaced_pod_log(
            pod["metadata"]["name"], self.namespace, container=container, _preload_content=False
        )
        incomplete = b""
        for chunk in response.stream():
            *lines, incomplete = (incomplete + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if incomplete:
            yield incomplete.decode(errors="replace")

    @property
    def _jobs(self) -> Any:
        return CustomObjectsApi(self._hook.api_client)

    @property
    def _path(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL


def _as_json(value: Any) -> Json:
    return ApiClient().sanitize_for_serialization(value)
