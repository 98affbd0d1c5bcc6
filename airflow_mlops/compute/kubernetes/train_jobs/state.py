"""What a TrainJob and its pods say: whether it ended, why it failed, and when to stop waiting for it to start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime

from airflow_mlops.compute.kubernetes import failures
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.train_jobs.manifest import NODE
from airflow_mlops.core.errors import ComputeError, MemoryLimitError, MLOpsError, NoCapacityError, SpecError

# Kubeflow Trainer makes a JobSet of the TrainJob's name, and JobSet puts these on its pods.
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
_REPLICATED_JOB_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
_INDEX = "batch.kubernetes.io/job-completion-index"
# What a pod names may be created at the same time as the pod.
_PATIENCE = 5.0


def full_name(job: Json) -> str:
    """Namespace and name."""
    return f"{job['metadata'].get('namespace')}/{job['metadata']['name']}"


def condition(job: Json, kind: str) -> Json | None:
    """The condition of that type, if it holds."""
    for item in (job.get("status") or {}).get("conditions") or []:
        if item.get("type") == kind and item.get("status") == "True":
            return dict(item)
    return None


def ended(job: Json) -> bool:
    """Whether it is complete or has failed."""
    return condition(job, "Complete") is not None or condition(job, "Failed") is not None


def first_node(pods: Sequence[Json]) -> Json | None:
    """The newest pod of node 0, whose log tells of the training."""
    found = [pod for pod in pods if _labels(pod).get(_REPLICATED_JOB_LABEL) == NODE and _index(pod) == "0"]
    return max(found, key=_created, default=None)


def failure(job: Json, pods: Sequence[Json]) -> MLOpsError:
    """The error that a TrainJob that failed stands for."""
    why = condition(job, "Failed") or {}
    said = f"TrainJob {full_name(job)} failed: {why.get('reason')}: {why.get('message', '')}".rstrip(": ")
    if (found := _why(pods)) is not None:
        return type(found)(f"{found} ({said})")
    return ComputeError(said if said.endswith(".") else f"{said}.")


def refused(status: int, body: str, namespace: str) -> MLOpsError:
    """What a refusal by the Kubernetes API stands for.

    :param status: the HTTP status
    :param body: its JSON
    """
    try:
        answer = json.loads(body)
        message, about = str(answer.get("message", "")), (answer.get("details") or {}).get("kind")
    except (ValueError, AttributeError):
        message, about = body.strip(), None
    if status == 404 and about is None:
        # The path itself is unknown to the API server, and the answer is no object.
        found: MLOpsError = ComputeError(
            "Kubeflow Trainer is not installed in the cluster, which knows no TrainJob: install it (2.3 or newer), or "
            "train on one node with Pod(nodes=1)."
        )
        found.retryable = False
        return found
    if "admission webhook" in message or status in (400, 404, 422):
        return SpecError(f"Kubernetes does not accept the TrainJob: {message}")
    return failures.refused(status, body, namespace)


@dataclass
class Watch:
    """Follows a TrainJob until it has ended, or will not start.

    :param since: when the waiting began, in seconds since 1970
    :param schedule_timeout: seconds until every pod that there is must have a node
    :param startup_timeout: seconds from there until its container must run
    :param patience: seconds that a pod may be in a state that no pod gets out of
    """

    since: float
    schedule_timeout: int
    startup_timeout: int
    patience: float = _PATIENCE
    _hopeless_since: float | None = field(default=None, init=False)

    def gives_up(self, job: Json, pods: Sequence[Json], now: float, warnings: Sequence[str] = ()) -> MLOpsError | None:
        """Why there is nothing to wait for any more, if so.

        :param warnings: events of the TrainJob, oldest first
        """
        hopeless = next(filter(None, map(failures.never_starts, pods)), None)
        if hopeless is None:
            self._hopeless_since = None
        else:
            self._hopeless_since = now if self._hopeless_since is None else self._hopeless_since
            if now - self._hopeless_since >= self.patience:
                return hopeless
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
                f"TrainJob {name} was suspended for all of schedule_timeout ({seconds} s), by a queue such as Kueue or by "
                f"a user: {suspended.get('message') or suspended.get('reason')}"
            )
        said = f" The cluster says: {warnings[-1]}" if warnings else ""
        return ComputeError(
            f"TrainJob {name} has no pod after schedule_timeout ({seconds} s): perhaps no Kubeflow Trainer controller "
            f"runs in the cluster, or it cannot use the training runtime "
            f"{job['spec']['runtimeRef']['name']!r}.{said}"
        )


def progress(job: Json, pods: Sequence[Json]) -> str:
    """In a few words how far it is, for the log."""
    if condition(job, "Suspended"):
        return "is suspended"
    if not pods:
        return "has no pods yet"
    phases = [str(pod.get("status", {}).get("phase")) for pod in pods]
    return "has pods: " + ", ".join(f"{phases.count(phase)} {phase.lower()}" for phase in sorted(set(phases)))


def _begun(job: Json) -> bool:
    """Whether pods ran, even if there are none at the moment."""
    counts = (item.get(name) or 0 for item in (job.get("status") or {}).get("jobsStatus") or [] for name in _COUNTS)
    return any(counts)


_COUNTS = ("active", "ready", "succeeded", "failed")


def _why(pods: Sequence[Json]) -> MLOpsError | None:
    """What the pods tell of a failure. When one node dies the others fail too, and only the first knows why."""
    first = first_node(pods)
    ordered = sorted(map(_with_last_state, pods), key=lambda pod: first is None or pod["metadata"] != first["metadata"])
    bad = [pod for pod in ordered if _failed(pod)]
    found = [failures.failure(pod, NODE, [], "") for pod in bad]
    killed = [error for error in found if isinstance(error, MemoryLimitError)]
    ended_by_cluster = [
        error
        for pod, error in zip(bad, found, strict=True)
        if pod["status"].get("reason") or failures.never_starts(pod)
    ]
    return next(iter([*killed, *ended_by_cluster, *found]), None)


def _failed(pod: Json) -> bool:
    status = pod.get("status", {})
    ends = [item["state"]["terminated"] for item in status.get("containerStatuses") or [] if _is_over(item)]
    return (
        status.get("phase") == "Failed"
        or any(end.get("exitCode") for end in ends)
        or failures.never_starts(pod) is not None
    )


def _with_last_state(pod: Json) -> Json:
    """The pod, with how a container ended that Kubernetes has started again, or is about to."""
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
    # A label since Kubernetes 1.28, and an annotation before.
    return {**(pod["metadata"].get("annotations") or {}), **_labels(pod)}.get(_INDEX)


def _created(pod: Json) -> float:
    text = pod["metadata"].get("creationTimestamp")
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0
