"""The default manifest of a pod, and functions that change manifests."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.memory_amounts import multiply

_SHARED_MEMORY = "shared-memory"
_COMMAND = ["python", "-m", "airflow_mlops.stages"]


def default_pod(container: str, *, memory: str | None, mount_token: bool, termination_grace: int) -> Json:
    """Return the default manifest of a pod that runs a step. The pod template and ``Pod(...)`` override the default.

    :param container: name of the container that runs the step
    :param memory: memory limit of this container, of which shared memory can use half; ``None`` for no limit
    :param mount_token: whether the pod gets the token of its service account
    :param termination_grace: seconds between SIGTERM and SIGKILL
    """
    # PyTorch's data loaders pass batches through shared memory, of which a container has only 64 MB by default.
    shared_memory: Json = {"medium": "Memory", **({"sizeLimit": multiply(memory, 0.5)} if memory else {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": mount_token,
            "terminationGracePeriodSeconds": termination_grace,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": container,
                    "command": _COMMAND,
                    "env": [
                        {"name": "PYTHONUNBUFFERED", "value": "1"},
                        {"name": "MLOPS_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        {"name": "MLOPS_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    ],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": _SHARED_MEMORY, "mountPath": "/dev/shm"}],  # noqa: S108
                }
            ],
            "volumes": [{"name": _SHARED_MEMORY, "emptyDir": shared_memory}],
        },
    }


def main_container(pod: Json) -> str:
    """Return the name of the container that runs the step.

    This is the container ``base`` or, if the pod has no container of this name, the first container.
    """
    names = [container.get("name", "base") for container in pod.get("spec", {}).get("containers", [])]
    return "base" if "base" in names or not names else str(names[0])


def multiply_memory(pod: Json, factor: float) -> Json:
    """Return a copy of the pod in which the container that runs the step has ``factor`` times the memory.

    The size limit of the shared memory grows in the same way.
    """
    pod = deepcopy(pod)
    name = main_container(pod)
    container = next(item for item in pod["spec"]["containers"] if item["name"] == name)
    for amounts in container.get("resources", {}).values():
        if "memory" in amounts:
            amounts["memory"] = multiply(str(amounts["memory"]), factor)
    for volume in pod["spec"].get("volumes") or []:
        shared = volume.get("emptyDir") if volume["name"] == _SHARED_MEMORY else None
        if shared and "sizeLimit" in shared:
            shared["sizeLimit"] = multiply(str(shared["sizeLimit"]), factor)
    return pod


def literal(value: str) -> str:
    """Escape ``$`` in the value of an environment variable, because Kubernetes replaces ``$(NAME)`` and ``$$``."""
    return value.replace("$", "$$")


def as_json(value: Any) -> Any:
    """Convert a value to JSON, including any objects of the Kubernetes client in it."""
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if type(value).__module__.startswith("kubernetes."):
        from kubernetes.client import ApiClient

        return ApiClient().sanitize_for_serialization(value)
    return value


def without_empty(fields: Json) -> Json:
    """Return a copy without fields that are ``None`` or empty.

    Items of lists are not changed, because an empty field has a meaning there, for example ``emptyDir: {}``.
    """
    cleaned = {key: without_empty(item) if isinstance(item, dict) else item for key, item in fields.items()}
    return {key: item for key, item in cleaned.items() if item not in (None, {}, [], ())}
