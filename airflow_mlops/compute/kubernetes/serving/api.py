"""Requests to the Kubernetes API about the objects of one endpoint. This module imports the Kubernetes client.

Requests that fail temporarily (429, 5xx, lost connections) are repeated up to ``[workers] api_retries`` times.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from kubernetes.client.exceptions import ApiException

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.namespaces import namespace_for
from airflow_mlops.compute.kubernetes.serving.manifests import INSTANCE, MANAGER
from airflow_mlops.compute.kubernetes.serving.release import Record, from_config_map, to_config_map

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Request = TypeVar("Request", bound=Callable[..., Any])
retry: Callable[[Request], Request] = generic_api_retry

_PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "InferenceService": "inferenceservices",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Service": "services",
}


class EndpointApi:
    """Sends requests about the objects of one endpoint to the Kubernetes API.

    :param name: name of the objects
    :param namespace: namespace of the objects; by default the namespace of the Airflow connection, or else the
        namespace in which Airflow runs
    :param conn_id: id of the Airflow connection to the cluster
    """

    def __init__(self, name: str, namespace: str | None, conn_id: str) -> None:
        self._hook = KubernetesHook(conn_id=conn_id)
        self.name = name
        self.namespace = namespace_for(namespace, self._hook)
        self.conn_id = conn_id

    def served(self) -> dict[str, list[str]]:
        """Return the versions of each API group that the cluster serves."""
        groups = self._request("GET", "/apis")["groups"]
        return {group["name"]: [item["version"] for item in group["versions"]] for group in groups}

    def get(self, manifest: Json) -> Json | None:
        """Read the object that a manifest describes; return ``None`` if the object does not exist."""
        return self._unless_absent("GET", _path(manifest))

    def apply(self, manifest: Json) -> Json:
        """Create or change an object by server-side apply, and return it.

        If another manager owns a field that this package sets, this package takes the field over.
        """
        query = [("fieldManager", MANAGER), ("force", "true")]
        headers = {"Content-Type": "application/apply-patch+yaml"}
        return self._request("PATCH", _path(manifest), query, headers, manifest)

    def delete(self, manifest: Json) -> None:
        """Delete an object, after its pods. If the object does not exist, nothing is done."""
        self._unless_absent("DELETE", _path(manifest), [("propagationPolicy", "Foreground")])

    def pods(self) -> list[Json]:
        """Read the pods of the endpoint that are not being deleted."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        items: list[Json] = self._request("GET", path, [("labelSelector", f"{INSTANCE}={self.name}")])["items"]
        return [pod for pod in items if not pod["metadata"].get("deletionTimestamp")]

    def record(self) -> Record:
        """Read the record of the releases of this endpoint; an empty record if there is none.

        :raises SpecError: the ConfigMap does not contain a valid record
        """
        return from_config_map(self.get(to_config_map(Record(), self.name, self.namespace)))

    def write_record(self, record: Record | None) -> None:
        """Write the record of the releases of this endpoint; ``None`` deletes the record."""
        manifest = to_config_map(record or Record(), self.name, self.namespace)
        if record is None:
            self.delete(manifest)
        else:
            self.apply(manifest)

    def _unless_absent(self, method: str, path: str, query: list[tuple[str, str]] | None = None) -> Json | None:
        try:
            return self._request(method, path, query)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    @retry
    def _request(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        headers: dict[str, str] | None = None,
        body: Json | None = None,
    ) -> Json:
        client: ApiClient = self._hook.api_client
        # The arguments that determine how a response is parsed differ between the releases of the client.
        response = client.call_api(
            path,
            method,
            query_params=query or [],
            header_params={"Accept": "application/json", **(headers or {})},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=60,
        )
        found: Json = json.loads(response.data)
        return found

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def _path(manifest: Json) -> str:
    version, metadata = manifest["apiVersion"], manifest["metadata"]
    root = "/api/v1" if version == "v1" else f"/apis/{version}"
    return f"{root}/namespaces/{metadata['namespace']}/{_PLURALS[manifest['kind']]}/{metadata['name']}"
