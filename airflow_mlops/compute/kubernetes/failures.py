"""Why a pod did not do its work, in one sentence: read from the pod as Kubernetes describes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from airflow_mlops.compute.kubernetes.manifest import Json, in_bytes
from airflow_mlops.core.errors import (
    ComputeError,
    ImageError,
    MemoryLimitError,
    MLOpsError,
    NoCapacityError,
    SpecError,
    by_name,
)

# A container in one of these states never starts; Kubernetes would go on trying.
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_COMMAND = ("StartError", "ContainerCannotRun")


def cannot_be_pulled(pod: Json) -> MLOpsError | None:
    """What keeps an image of the pod from being pulled, if anything does."""
    for status, reason, message in _waiting(pod):
        if reason in _IMAGE:
            return ImageError(
                f"Image {status.get('image')!r} cannot be pulled ({reason}: {message}): check its name and tag, and that "
                "the namespace has a secret for its registry (image_pull_secrets)."
            )
    return None


def cannot_be_configured(pod: Json) -> MLOpsError | None:
    """What keeps a container of the pod from being made, if anything does."""
    for status, reason, message in _waiting(pod):
        if reason in _CONFIG:
            return SpecError(
                f"Container {status.get('name')!r} cannot be started ({reason}: {message}): correct Pod(...), or create "
                "what it names in the namespace."
            )
    return None


def never_starts(pod: Json) -> MLOpsError | None:
    """What keeps the pod from ever starting, if anything does."""
    return cannot_be_pulled(pod) or cannot_be_configured(pod)


def _waiting(pod: Json) -> Iterator[tuple[Json, str, str]]:
    for status in _statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        yield status, str(waiting.get("reason")), " ".join(str(waiting.get("message") or "").split())


def failure(pod: Json | None, container: str, events: list[str], error: str) -> MLOpsError:
    """The error that a pod's last state stands for.

    :param pod: the pod as it was last seen; ``None`` where nothing was
    :param container: the name of the container that ran the step
    :param events: the pod's warnings, oldest first
    :param error: what KubernetesPodOperator said
    """
    if pod is None:
        return ComputeError(f"The pod was not seen again: {_first_line(error)}")
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if found := never_starts(pod):
        return found
    ended = next((_ended(item) for item in _statuses(pod) if item.get("name") == container), None)
    if ended and ended.get("exitCode") != 0:
        return _exit(pod, container, ended)
    reason = status.get("reason")
    if reason == "DeadlineExceeded":
        return ComputeError(f"Pod {name} ran longer than active_deadline allows, and was ended.")
    if reason:
        return ComputeError(f"Pod {name} was ended by the cluster: {reason}: {status.get('message', '')}".rstrip(": "))
    if unscheduled := _unscheduled(pod):
        return NoCapacityError(f"No node took pod {name} within schedule_timeout: {unscheduled}")
    if status.get("phase") == "Pending":
        last = f" The cluster says: {events[-1]}" if events else ""
        return ComputeError(f"Pod {name} was on node {_node(pod)} and did not start within startup_timeout.{last}")
    if pod["metadata"].get("deletionTimestamp") or "not found" in error.lower():
        return ComputeError(
            f"Pod {name} was deleted while it ran, by a user or because its node {_node(pod)} was drained: "
            "another try goes on from the last checkpoint, where the step keeps any."
        )
    return ComputeError(f"Pod {name} could not be watched to its end: {_first_line(error)}")


def refused(status: int, body: str, namespace: str) -> MLOpsError:
    """What a refusal by the Kubernetes API stands for.

    :param status: the HTTP status
    :param body: its JSON
    """
    try:
        message = str(json.loads(body).get("message", ""))
    except (ValueError, AttributeError):
        message = body
    if status == 403 and "exceeded quota" in message:
        return NoCapacityError(f"The quota of namespace {namespace!r} is used up: {message}")
    if status in (401, 403):
        found: MLOpsError = ComputeError(
            f"Kubernetes refuses what the task asked for in namespace {namespace!r}: {message}. Grant Airflow the Role "
            "in the page 'Running on Kubernetes'."
        )
        found.retryable = False
        return found
    if status in (400, 404, 422):
        return SpecError(f"Kubernetes does not accept the pod: {message}")
    return ComputeError(f"The Kubernetes API answers {status}: {message}")


def _exit(pod: Json, container: str, ended: Json) -> MLOpsError:
    name, code, reason = pod["metadata"]["name"], ended.get("exitCode"), ended.get("reason")
    said = _said(ended)
    if reason == "OOMKilled" or (code == 137 and said.get("peak_memory", 0) > 0.97 * _limit(pod, container, 2**62)):
        return MemoryLimitError(
            f"The step needed more memory than its pod {name} may have and was ended (OOMKilled): the limit is "
            f"{_limit_text(pod, container)}, it held {_mib(said.get('peak_memory'))} when last seen. Give it more with "
            "Pod(memory=...), or let retries ask for more with Pod(grow_memory=2)."
        )
    if reason in _COMMAND or code in (126, 127):
        return ImageError(
            f"Image {_image(pod, container)!r} cannot run the step ({ended.get('message') or f'exit code {code}'}): it needs "
            "Python as `python` and airflow-mlops with the step's extras; see docker/."
        )
    if "error" in said:
        kind = by_name(said["error"])
        return (
            kind(said["message"])
            if kind is not MLOpsError
            else ComputeError(f"The step failed with {said['error']}: {said['message']}")
        )
    text = str(ended.get("message") or "")
    if "No module named" in text:
        return ImageError(f"Image {_image(pod, container)!r} lacks what the step needs: {_first_line(text, last=True)}")
    if code == 143 or (code == 137 and pod["metadata"].get("deletionTimestamp")):
        return ComputeError(f"Pod {name} was ended while it ran, by a user or because its node was drained.")
    return ComputeError(
        f"Pod {name} ended with exit code {code}{f' ({reason})' if reason else ''}: {_first_line(text, last=True)}".rstrip(
            ": "
        )
    )


def _said(ended: Json) -> Json:
    """What the step wrote into its termination message."""
    try:
        found = json.loads(ended.get("message") or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def facts(pod: Json, container: str) -> dict[str, str]:
    """What became of the pod, for the record: the names of pod, node and image, and the image's digest."""
    status: Json = next((item for item in _statuses(pod) if item.get("name") == container), {})
    found = {
        "pod": f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}",
        "node": pod["spec"].get("nodeName"),
        "image": _image(pod, container),
        "image_digest": status.get("imageID"),
    }
    return {name: str(value) for name, value in found.items() if value}


def _statuses(pod: Json) -> list[Json]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _ended(status: Json) -> Json | None:
    return (status.get("state") or {}).get("terminated")


def _unscheduled(pod: Json) -> str | None:
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason"))
    return None


def _container(pod: Json, name: str) -> Json:
    return next((item for item in pod["spec"]["containers"] if item["name"] == name), {})


def _image(pod: Json, name: str) -> str:
    return str(_container(pod, name).get("image"))


def _limit_text(pod: Json, name: str) -> str:
    return str(_container(pod, name).get("resources", {}).get("limits", {}).get("memory", "that of its node"))


def _limit(pod: Json, name: str, otherwise: float) -> float:
    text = _container(pod, name).get("resources", {}).get("limits", {}).get("memory")
    return in_bytes(text) if text else otherwise


def _mib(amount: Any) -> str:
    return f"{amount / 2**20:,.0f} MiB" if amount else "an unknown amount"


def _node(pod: Json) -> str:
    return str(pod["spec"].get("nodeName"))


def _first_line(text: str, last: bool = False) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1 if last else 0] if lines else "")[:500]
