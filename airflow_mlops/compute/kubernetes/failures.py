"""Derive errors that explain why a pod failed from the state of the pod in the Kubernetes API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from airflow_mlops.compute.exits import explain
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.memory_amounts import in_bytes
from airflow_mlops.core import termination
from airflow_mlops.core.errors import (
    ComputeError,
    ImageError,
    MemoryLimitError,
    MLOpsError,
    NoCapacityError,
    SpecError,
)

# A container with one of these waiting reasons never starts, although Kubernetes keeps trying.
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_COMMAND = ("StartError", "ContainerCannotRun")
# A container may lack its configuration for this time, because a Secret may be created at the same time as its pod.
CONFIG_PATIENCE_SECONDS = 5.0
# A process that used at least this share of its memory limit and then got SIGKILL most likely ran out of memory.
_OOM_SHARE = 0.97


def cannot_be_pulled(pod: Json) -> MLOpsError | None:
    """Return an error if an image of the pod cannot be pulled, otherwise ``None``."""
    for status, reason, message in _waiting(pod):
        if reason in _IMAGE:
            return ImageError(
                f"Image {status.get('image')!r} cannot be pulled ({reason}: {message}). Check its name and tag, and that "
                "the namespace has a Secret for the image registry (image_pull_secrets=)."
            )
    return None


def cannot_be_configured(pod: Json) -> MLOpsError | None:
    """Return an error if a container of the pod cannot be created, otherwise ``None``."""
    for status, reason, message in _waiting(pod):
        if reason in _CONFIG:
            return SpecError(
                f"Container {status.get('name')!r} cannot be started ({reason}: {message}). Correct Pod(...), or create "
                "the object that the message names in the namespace of the pod."
            )
    return None


def never_starts(pod: Json) -> MLOpsError | None:
    """Return an error if the pod will never start, otherwise ``None``."""
    return cannot_be_pulled(pod) or cannot_be_configured(pod)


def _waiting(pod: Json) -> Iterator[tuple[Json, str, str]]:
    for status in _statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        yield status, str(waiting.get("reason")), " ".join(str(waiting.get("message") or "").split())


def failure(pod: Json | None, container: str, warnings: list[str], error: str) -> MLOpsError:
    """Return the error that explains why a pod failed.

    :param pod: the last known state of the pod; ``None`` if the state was never read
    :param container: name of the container that ran the step
    :param warnings: the pod's warning events, oldest first
    :param error: the message of the error that KubernetesPodOperator raised
    """
    gone = "not found" in error.lower()
    if pod is None:
        # The pod of a deferred task is read for the first time after the wait, when it may no longer exist.
        if gone:
            return _deleted("The pod", f"its node was drained ({_line(error, 0)})")
        return ComputeError(f"The state of the pod could not be read from Kubernetes: {_line(error, 0)}")
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if found := never_starts(pod):
        return found
    ended = next((_terminated(item) for item in _statuses(pod) if item.get("name") == container), None)
    if ended and ended.get("exitCode") != 0:
        return _exit(pod, container, ended)
    reason = status.get("reason")
    if reason == "DeadlineExceeded":
        return ComputeError(
            f"Pod {name!r} ran longer than Pod(active_deadline=...) allows, and Kubernetes ended it. Increase the deadline."
        )
    if reason:
        return ComputeError(
            f"Pod {name!r} was ended by the cluster: {reason}: {status.get('message', '')}".rstrip(": ")
        )
    if unscheduled := _unscheduled(pod):
        return NoCapacityError(
            f"Pod {name!r} was not scheduled to a node within Pod(schedule_timeout=...): {unscheduled}"
        )
    if status.get("phase") == "Pending":
        last = f" Last warning of the cluster: {warnings[-1]}" if warnings else ""
        return ComputeError(f"Pod {name!r} on node {_node(pod)!r} did not start within Pod(startup_timeout=...).{last}")
    if pod["metadata"].get("deletionTimestamp") or gone:
        return _deleted(f"Pod {name!r}", f"its node {_node(pod)!r} was drained")
    return ComputeError(f"The connection to pod {name!r} was lost before the pod ended: {_line(error, 0)}")


def _deleted(pod: str, cause: str) -> ComputeError:
    return ComputeError(
        f"{pod} was deleted while it ran, by a user or because {cause}. The next try starts a new pod, and training "
        "continues from its last checkpoint."
    )


def refused(status: int, body: str, namespace: str) -> MLOpsError:
    """Return the error that explains why the Kubernetes API refused a request.

    :param status: the HTTP status
    :param body: the body of the response, usually JSON
    :param namespace: the namespace of the request
    """
    try:
        message = str(json.loads(body).get("message", ""))
    except (ValueError, AttributeError):
        message = body
    if status == 403 and "exceeded quota" in message:
        return NoCapacityError(f"The resource quota of namespace {namespace!r} is exhausted: {message}")
    if status in (401, 403):
        found: MLOpsError = ComputeError(
            f"Kubernetes refuses the request in namespace {namespace!r}: {message}. Grant Airflow the Role from the "
            "documentation page 'Running on Kubernetes'."
        )
        found.retryable = False
        return found
    if status in (400, 404, 422):
        return SpecError(f"Kubernetes does not accept the pod: {message}")
    return ComputeError(f"The Kubernetes API answers with HTTP status {status}: {message}")


def _exit(pod: Json, container: str, ended: Json) -> MLOpsError:
    """Return the error for a container that ended with an exit code other than 0.

    :param container: name of the container
    :param ended: the state ``terminated`` of the container
    """
    name, code, reason = pod["metadata"]["name"], ended.get("exitCode"), ended.get("reason")
    text = str(ended.get("message") or "")
    reported = termination.parse(text)
    peak = reported.get("peak_memory")
    limit = _memory_limit(pod, container)
    if reason == "OOMKilled" or (code == 137 and limit and (peak or 0) > _OOM_SHARE * in_bytes(limit)):
        return MemoryLimitError(
            f"The step exceeded the memory limit of its pod {name!r} and was ended (OOMKilled). The limit is "
            f"{limit or 'the memory of the node'}, and the last known memory use was {_mib(peak)}. Increase "
            "Pod(memory=...), or let retries request more memory with Pod(grow_memory=2)."
        )
    if reason in _COMMAND or code in (126, 127):
        return ImageError(
            f"Image {_image(pod, container)!r} cannot run the step ({text or f'exit code {code}'}). Use an image that has "
            "the command `python` and airflow-mlops with the extras of the step, such as the images in docker/."
        )
    if (error := termination.error_in(reported)) is not None:
        return error
    if not reported and "No module named" in text:
        return ImageError(f"Image {_image(pod, container)!r} lacks a module that the step needs: {_line(text, -1)}")
    if code == 143 or (code == 137 and pod["metadata"].get("deletionTimestamp")):
        return ComputeError(f"Pod {name!r} was ended while it ran, by a user or because its node was drained.")
    last = "" if reported else _line(text, -1)
    shown = f" The last line of its log is {last!r}." if last else ""
    return ComputeError(f"Pod {name!r} {explain(int(code or 0))}{shown}")


def facts(pod: Json, container: str) -> dict[str, str]:
    """Return the names of the pod, the node and the image, and the digest of the image. Unknown values are left out.

    :param container: name of the container that ran the step
    """
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


def _terminated(status: Json) -> Json | None:
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


def _memory_limit(pod: Json, name: str) -> str | None:
    limit = _container(pod, name).get("resources", {}).get("limits", {}).get("memory")
    return None if limit is None else str(limit)


def _mib(amount: Any) -> str:
    return f"{amount / 2**20:,.0f} MiB" if amount else "unknown"


def _node(pod: Json) -> str:
    return str(pod["spec"].get("nodeName"))


def _line(text: str, position: int) -> str:
    """Return a line of ``text``.

    :param position: index of the line among the lines that are not blank
    :return: the line; empty if ``text`` is blank
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[position] if lines else "")[:500]
