"""The state of a TrainJob and its pods: whether the TrainJob has ended, why it failed, and whether it can start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import InitVar, dataclass, field

from airflow_mlops.compute.kubernetes import failures
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.train_job import NODE
from airflow_mlops.compute.kubernetes.patience import Patience
from airflow_mlops.core.errors import ComputeError, MemoryLimitError, MLOpsError, NoCapacityError, SpecError
from airflow_mlops.core.moments import parse

# Kubeflow Trainer creates a JobSet with the name of the TrainJob. JobSet and Job set these labels on the pods.
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
_REPLICATED_JOB_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
_INDEX = "batch.kubernetes.io/job-completion-index"


def full_name(job: Json) -> str:
    """Return the namespace and the name of the TrainJob as ``namespace/name``."""
    return f"{job['metadata'].get('namespace')}/{job['metadata']['name']}"


def condition(job: Json, kind: str) -> Json | None:
    """Return the condition of the TrainJob with type ``kind`` if its status is True, otherwise ``None``."""
    for item in (job.get("status") or {}).get("conditions") or []:
        if item.get("type") == kind and item.get("status") == "True":
            return dict(item)
    return None


def ended(job: Json) -> bool:
    """Return whether the TrainJob is complete or has failed."""
    return condition(job, "Complete") is not None or condition(job, "Failed") is not None


def first_node(pods: Sequence[Json]) -> Json | None:
    """Return the newest pod of node 0, the node that logs the training; ``None`` if node 0 has no pod."""
    found = [pod for pod in pods if _labels(pod).get(_REPLICATED_JOB_LABEL) == NODE and _index(pod) == "0"]
    return max(found, key=_created, default=None)


def failure(job: Json, pods: Sequence[Json]) -> MLOpsError:
    """Return the error that explains why a TrainJob failed.

    The error describes the pod that most likely failed first. If no pod has failed, the error describes the condition
    ``Failed`` of the TrainJob.
    """
    failed = condition(job, "Failed") or {}
    text = f"TrainJob {full_name(job)!r} failed: {failed.get('reason')}: {failed.get('message', '')}".rstrip(": ")
    if (found := _cause(pods)) is not None:
        return type(found)(f"{found} ({text})")
    return ComputeError(text if text.endswith(".") else f"{text}.")


def refused(status: int, body: str, namespace: str) -> MLOpsError:
    """Return the error that explains why the Kubernetes API refused a request for a TrainJob.

    :param status: the HTTP status
    :param body: the body of the response, usually JSON
    :param namespace: the namespace of the request
    """
    try:
        answer = json.loads(body)
        message, about = str(answer.get("message", "")), (answer.get("details") or {}).get("kind")
    except (ValueError, AttributeError):
        message, about = body.strip(), None
    if status == 404 and about is None:
        # The API server does not know the kind TrainJob, so its response is not about an object.
        found: MLOpsError = ComputeError(
            "Kubeflow Trainer is not installed in the cluster. Install version 2.3 or newer, or train on one node with "
            "Pod(nodes=1)."
        )
        found.retryable = False
        return found
    if "admission webhook" in message or status in (400, 404, 422):
        return SpecError(f"Kubernetes does not accept the TrainJob: {message}")
    return failures.refused(status, body, namespace)


@dataclass
class Watch:
    """Decides when to stop waiting for a TrainJob that does not start.

    :param since: time at which the task began to wait, in seconds since 1970
    :param schedule_timeout: seconds within which each pod must be scheduled to a node
    :param startup_timeout: additional seconds for a scheduled pod. Its container must run within ``schedule_timeout``
        plus ``startup_timeout`` seconds of the pod's creation
    :param patience: seconds after which a pod that cannot start is reported as an error
    """

    since: float
    schedule_timeout: int
    startup_timeout: int
    patience: InitVar[float] = failures.CONFIG_PATIENCE_SECONDS
    _patience: Patience = field(init=False)

    def __post_init__(self, patience: float) -> None:
        self._patience = Patience(patience)

    def start_error(
        self, job: Json, pods: Sequence[Json], now: float, warnings: Sequence[str] = ()
    ) -> MLOpsError | None:
        """Return an error if the TrainJob will not start, or ``None`` to continue waiting.

        :param job: the TrainJob
        :param pods: the pods of the TrainJob
        :param now: the current time, in seconds since 1970
        :param warnings: the warning events of the TrainJob, oldest first
        """
        hopeless = next(filter(None, map(failures.never_starts, pods)), None)
        if error := self._patience.exhausted(hopeless, now):
            return error
        if not pods and not _begun(job) and now - self.since > self.schedule_timeout:
            return self._never_began(job, warnings)
        for pod in pods:
            if pod.get("status", {}).get("phase") in (None, "Pending"):
                limit = self.schedule_timeout + (self.startup_timeout if pod["spec"].get("nodeName") else 0)
                if now - max(self.since, _created(pod)) > limit:
                    return failures.failure(pod, NODE, list(warnings), "")
        return None

    def _never_began(self, job: Json, warnings: Sequence[str]) -> MLOpsError:
        name, seconds = full_name(job), self.schedule_timeout
        if suspended := condition(job, "Suspended"):
            return NoCapacityError(
                f"TrainJob {name!r} was still suspended by a queue such as Kueue, or by a user, after schedule_timeout= "
                f"({seconds} s): {suspended.get('message') or suspended.get('reason')}"
            )
        last = f" Last warning of the cluster: {warnings[-1]}" if warnings else ""
        return ComputeError(
            f"TrainJob {name!r} has no pod after schedule_timeout= ({seconds} s). Check that the Kubeflow Trainer controller "
            f"runs in the cluster and that the training runtime {job['spec']['runtimeRef']['name']!r} exists.{last}"
        )


def progress(job: Json, pods: Sequence[Json]) -> str:
    """Return the state of the TrainJob in a few words for the log, such as ``has pods: 2 running``."""
    if condition(job, "Suspended"):
        return "is suspended"
    if not pods:
        return "has no pods yet"
    phases = [str(pod.get("status", {}).get("phase")) for pod in pods]
    return "has pods: " + ", ".join(f"{phases.count(phase)} {phase.lower()}" for phase in sorted(set(phases)))


def _begun(job: Json) -> bool:
    """Return whether the TrainJob has ever had pods."""
    counts = (item.get(name) or 0 for item in (job.get("status") or {}).get("jobsStatus") or [] for name in _COUNTS)
    return any(counts)


_COUNTS = ("active", "ready", "succeeded", "failed")


def _cause(pods: Sequence[Json]) -> MLOpsError | None:
    """Return the error of the pod that most likely failed first; ``None`` if no pod failed.

    When one node fails, the other nodes fail as a consequence. A pod that exceeded its memory limit takes precedence,
    then a pod that the cluster ended or could not start, then the pod of node 0.
    """
    first = first_node(pods)
    ordered = sorted(map(_with_last_state, pods), key=lambda pod: first is None or pod["metadata"] != first["metadata"])
    failed = [pod for pod in ordered if _failed(pod)]
    errors = [failures.failure(pod, NODE, [], "") for pod in failed]
    out_of_memory = [error for error in errors if isinstance(error, MemoryLimitError)]
    ended_by_cluster = [
        error
        for pod, error in zip(failed, errors, strict=True)
        if pod["status"].get("reason") or failures.never_starts(pod)
    ]
    return next(iter([*out_of_memory, *ended_by_cluster, *errors]), None)


def _failed(pod: Json) -> bool:
    status = pod.get("status", {})
    ends = [item["state"]["terminated"] for item in status.get("containerStatuses") or [] if _is_over(item)]
    return (
        status.get("phase") == "Failed"
        or any(end.get("exitCode") for end in ends)
        or failures.never_starts(pod) is not None
    )


def _with_last_state(pod: Json) -> Json:
    """Return a copy of the pod in which a restarted container has the state with which its previous run ended."""
    pod = deepcopy(pod)
    for item in pod.get("status", {}).get("containerStatuses") or []:
        if not _is_over(item) and "terminated" in (item.get("lastState") or {}):
            item["state"] = item["lastState"]
    return pod


def _is_over(status: Json) -> bool:
    return "terminated" in (status.get("state") or {})


def _labels(pod: Json) -> Json:
    return dict(pod["metadata"].get("labels") or {})


def _index(pod: Json) -> str | None:
    # The index is a label since Kubernetes 1.28. Earlier versions set an annotation.
    return {**(pod["metadata"].get("annotations") or {}), **_labels(pod)}.get(_INDEX)


def _created(pod: Json) -> float:
    text = pod["metadata"].get("creationTimestamp")
    return parse(text).timestamp() if text else 0.0
