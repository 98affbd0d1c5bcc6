"""What the state of a TrainJob and its pods means: its failure, its progress, and when to stop waiting."""

from __future__ import annotations

import json

import pytest

from airflow_mlops.compute.kubernetes.train_jobs import state
from airflow_mlops.core.errors import ComputeError, MemoryLimitError, NoCapacityError, SpecError

NOW = 1_000_000.0


def job(*conditions: tuple[str, str, str], **status) -> dict:
    found = [{"type": kind, "status": "True", "reason": reason, "message": text} for kind, reason, text in conditions]
    return {
        "metadata": {"namespace": "n", "name": "j"},
        "spec": {"runtimeRef": {"name": "torch-distributed"}},
        "status": {"conditions": found, **status},
    }


def node(index: int = 0, age: float = 0, name: str | None = None, on: str | None = "m", label=False, **status) -> dict:
    from datetime import datetime, timezone

    created = datetime.fromtimestamp(NOW - age, timezone.utc).isoformat().replace("+00:00", "Z")
    index_ = {"batch.kubernetes.io/job-completion-index": str(index)}
    labels = {"jobset.sigs.k8s.io/replicatedjob-name": "node", **(index_ if label else {})}
    metadata = {"name": name or f"j-node-0-{index}", "creationTimestamp": created, "labels": labels}
    if not label:
        metadata["annotations"] = index_
    limits = {"name": "node", "image": "i", "resources": {"limits": {"memory": "1Gi"}}}
    return {"metadata": metadata, "spec": {"nodeName": on, "containers": [limits]}, "status": status}


def over(code: int, reason: str = "Error", message: str = "") -> dict:
    ended = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"phase": "Failed", "containerStatuses": [{"name": "node", "state": ended}]}


def test_job_has_ended_only_if_a_condition_is_true():
    ended = job(("Failed", "r", "m"))
    assert state.ended(ended)
    ended["status"]["conditions"][0]["status"] = "False"
    assert not state.ended(ended)
    assert not state.ended({"metadata": {}})
    assert state.ended(job(("Complete", "r", "m")))
    assert not state.ended(job(("Suspended", "r", "m")))


@pytest.mark.parametrize("label", [False, True])
def test_first_node_is_the_newest_pod_with_index_0(label):
    pods = [node(1, label=label), node(0, 9, "old", label=label), node(0, 1, "new", label=label)]
    assert state.first_node(pods)["metadata"]["name"] == "new"
    assert state.first_node(pods[:1]) is None


def test_failure_without_pods_is_the_condition_of_the_job():
    error = state.failure(job(("Failed", "FailedJobs", "jobset failed")), [])
    assert (type(error), error.retryable) == (ComputeError, True)
    assert str(error) == "TrainJob 'n/j' failed: FailedJobs: jobset failed."


def test_node_that_ran_out_of_memory_is_the_cause():
    pods = [node(0, **over(1, message="connection reset")), node(1, **over(137, "OOMKilled"))]
    error = state.failure(job(("Failed", "FailedJobs", "jobset failed")), pods)
    assert type(error) is MemoryLimitError
    assert "j-node-0-1" in str(error)
    assert "The limit is 1Gi" in str(error)
    assert str(error).endswith("(TrainJob 'n/j' failed: FailedJobs: jobset failed)")


def test_node_that_was_evicted_is_the_cause():
    pods = [node(0, **over(1)), node(1, phase="Failed", reason="Evicted", message="The node was low on memory.")]
    error = state.failure(job(("Failed", "r", "m")), pods)
    assert "Evicted: The node was low on memory." in str(error)


def test_restarted_container_counts_by_its_previous_run():
    statuses = over(137, "OOMKilled")["containerStatuses"]
    statuses[0]["lastState"] = statuses[0]["state"]
    statuses[0]["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    pod = node(0, phase="Running", containerStatuses=statuses)
    assert isinstance(state.failure(job(("Failed", "r", "m")), [pod]), MemoryLimitError)


def test_error_of_the_step_keeps_its_class():
    reported = json.dumps({"error": "DatasetNotFoundError", "message": "There is none."})
    error = state.failure(job(("Failed", "r", "m")), [node(1, **over(1)), node(0, **over(1, message=reported))])
    assert type(error).__name__ == "DatasetNotFoundError"
    assert not error.retryable


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable", "text"),
    [
        (404, "404 page not found\n", ComputeError, False, "Kubeflow Trainer is not installed"),
        (404, '{"message": "namespaces \\"n\\" not found", "details": {"kind": "namespaces"}}', SpecError, False, "namespaces"),
        (422, '{"message": "spec is wrong"}', SpecError, False, "TrainJob: spec is wrong"),
        (403, '{"message": "admission webhook \\"v\\" denied the request: no runtime"}', SpecError, False, "no runtime"),
        (403, '{"message": "user cannot create"}', ComputeError, False, "user cannot create"),
        (403, '{"message": "exceeded quota: q"}', NoCapacityError, True, "quota"),
        (500, '{"message": "boom"}', ComputeError, True, "500: boom"),
    ],
)  # fmt: skip
def test_refused_request_becomes_an_error_that_tells_whether_a_retry_helps(status, body, kind, retryable, text):
    error = state.refused(status, body, "n")
    assert (type(error), error.retryable) == (kind, retryable)
    assert text in str(error)


def watch(**options) -> state.Watch:
    return state.Watch(**{"since": NOW, "schedule_timeout": 10, "startup_timeout": 20, **options})


def test_job_without_pods_fails_after_schedule_timeout():
    assert watch().start_error(job(), [], NOW + 10) is None
    error = watch().start_error(job(), [], NOW + 11, ["TrainJobResourcesCreationFailed: no runtime"])
    assert type(error) is ComputeError
    assert "'torch-distributed'" in str(error)
    assert "TrainJobResourcesCreationFailed: no runtime" in str(error)


def test_suspended_job_lacks_capacity():
    error = watch().start_error(job(("Suspended", "Suspended", "TrainJob is suspended")), [], NOW + 11)
    assert type(error) is NoCapacityError


def test_job_whose_pods_have_run_and_are_gone_does_not_fail():
    counts = {"name": "node", "active": 0, "ready": 0, "succeeded": 0, "failed": 1, "suspended": 0}
    assert watch().start_error(job(jobsStatus=[counts]), [], NOW + 999) is None


def test_pod_without_a_node_fails_after_schedule_timeout():
    unscheduled = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]
    pods = [node(0, phase="Running"), node(1, on=None, phase="Pending", conditions=unscheduled)]
    assert watch().start_error(job(), pods, NOW + 10) is None
    error = watch().start_error(job(), pods, NOW + 11)
    assert type(error) is NoCapacityError
    assert "0/1 nodes are available" in str(error)


def test_timeout_starts_with_the_pod_or_with_the_watch_whichever_is_later():
    pods = [node(0, age=-50, on=None, phase="Pending")]
    assert watch().start_error(job(), pods, NOW + 60) is None
    pods = [node(0, age=500, on=None, phase="Pending")]
    assert watch().start_error(job(), pods, NOW + 10) is None


def test_pod_with_a_node_also_has_startup_timeout():
    pods = [node(0, phase="Pending")]
    assert watch().start_error(job(), pods, NOW + 30) is None
    assert "startup_timeout" in str(watch().start_error(job(), pods, NOW + 31))


def test_pod_that_cannot_start_fails_when_its_state_lasts():
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}
    hopeless = [node(0, phase="Pending", containerStatuses=[{"name": "node", "state": waiting}])]
    one = watch()
    assert one.start_error(job(), hopeless, NOW) is None
    assert one.start_error(job(), [node(0, phase="Running")], NOW + 3) is None
    assert one.start_error(job(), hopeless, NOW + 6) is None
    assert isinstance(one.start_error(job(), hopeless, NOW + 11), SpecError)


def test_progress_names_suspension_and_counts_pods_by_phase():
    assert state.progress(job(), []) == "has no pods yet"
    assert state.progress(job(("Suspended", "r", "m")), []) == "is suspended"
    pods = [node(0, phase="Running"), node(1, phase="Pending"), node(2, phase="Running")]
    assert state.progress(job(), pods) == "has pods: 1 pending, 2 running"
