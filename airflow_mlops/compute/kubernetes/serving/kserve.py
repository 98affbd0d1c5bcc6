"""The manifest of a KServe InferenceService with a custom predictor. This module imports no Kubernetes client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.serving.manifests import api_version, object_metadata, pod_template

KIND, GROUP = "InferenceService", "serving.kserve.io"
# KServe recognises the container that answers requests by this name.
_CONTAINER = "kserve-container"
# Knative, which runs the pods in KServe's serverless mode, refuses these fields or sets them itself.
_NOT_OF_POD = ("restartPolicy", "terminationGracePeriodSeconds")
_NOT_OF_CONTAINER = ("lifecycle", "startupProbe")
# The fields of the security context that both pods and containers have.
_OF_BOTH = frozenset(
    {"appArmorProfile", "runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxOptions", "seccompProfile", "windowsOptions"}
)
# Seconds before the first liveness check. Without Knative, the startup probe gives the server time to start.
_START = 30


def inference_service(
    name: str,
    namespace: str,
    pod: Json,
    replicas: tuple[int, int],
    canary: int | None,
    served: Mapping[str, Sequence[str]],
) -> Json:
    """Return an InferenceService.

    :param name: name of the InferenceService
    :param namespace: its namespace
    :param pod: manifest of a server's pod, with the container of the server first
    :param replicas: smallest and largest number of pods
    :param canary: share of the requests, in percent, that the new revision gets; ``None`` for all
    :param served: versions of each API group that the cluster serves
    :raises ComputeError: KServe is not installed in the cluster
    """
    version = api_version(GROUP, ("v1beta1",), served, hint="Install KServe, or use target=Deployment(...).")
    template = pod_template(name, pod)
    spec = deepcopy(template["spec"])
    for field in _NOT_OF_POD:
        spec.pop(field, None)
    # Knative always accepts a security context of a container. It accepts one of a pod only if an administrator has enabled it.
    # Fields that containers do not have, such as fsGroup, stay in the security context of the pod.
    security = spec.pop("securityContext", {})
    shared = {field: value for field, value in security.items() if field in _OF_BOTH}
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        container["securityContext"] = {**shared, **container.get("securityContext", {})}
    if rest := {field: value for field, value in security.items() if field not in _OF_BOTH}:
        spec["securityContext"] = rest
    main = spec["containers"][0]
    main["name"] = _CONTAINER
    for field in _NOT_OF_CONTAINER:
        main.pop(field, None)
    main["livenessProbe"] = {"initialDelaySeconds": _START, **main["livenessProbe"]}
    # Knative derives the protocol from the name of the port.
    main["ports"] = [{**port, "name": "http1"} for port in main["ports"][:1]]
    predictor: Json = {"minReplicas": replicas[0], "maxReplicas": replicas[1], **spec}
    if canary is not None:
        predictor["canaryTrafficPercent"] = canary
    metadata = object_metadata(name, namespace)["metadata"]
    # KServe copies labels and annotations to the pods.
    for field in ("labels", "annotations"):
        if copied := {**metadata.get(field, {}), **template["metadata"].get(field, {})}:
            metadata[field] = copied
    return {"apiVersion": version, "kind": KIND, "metadata": metadata, "spec": {"predictor": predictor}}
