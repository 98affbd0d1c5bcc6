"""When an endpoint is ready, and when it will not become ready."""

from __future__ import annotations

import pytest

from airflow_mlops.compute.kubernetes.serving.state import (
    Watch,
    address,
    complaint,
    ignored,
    is_ready,
    pod_ready,
    template,
)
from airflow_mlops.core.errors import DeploymentError, ImageError, NoCapacityError

DONE = {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        (DONE, True),
        ({**DONE, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}, True),
        # The controller has not seen the new manifest.
        ({**DONE, "observedGeneration": 2}, False),
        # An old pod remains.
        ({**DONE, "replicas": 3, "availableReplicas": 3}, False),
        ({**DONE, "updatedReplicas": 1}, False),
        ({**DONE, "availableReplicas": 1}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_deployment_is_ready_when_all_its_pods_are_new_and_available(status, ready):
    live = {"metadata": {"generation": 3}, "spec": {"replicas": 2}, "status": status}
    assert is_ready(live, []) is ready


def pod(waiting: str | None = None, *, phase: str = "Running", ready: bool = False, **status) -> dict:
    state = {"waiting": {"reason": waiting, "message": "m"}} if waiting else {"running": {}}
    return {
        "metadata": {"name": "late-1", "namespace": "n"},
        "spec": {"nodeName": "node", "containers": [{"name": "base", "image": "i"}]},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "base", "image": "i", "state": state, "ready": ready, **status}],
        },
    }


def inference_service(ready="True", canary=None, **predictor) -> dict:
    return {
        "kind": "InferenceService",
        # KServe sets `observedGeneration` to that of the Deployment or of the Knative Service.
        "metadata": {"generation": 3, "labels": {"airflow-mlops/template": "t"}},
        "spec": {"predictor": {"minReplicas": 1} | ({} if canary is None else {"canaryTrafficPercent": canary})},
        "status": {
            "observedGeneration": 1,
            "url": "http://late.serving.example/",
            "conditions": [
                {"type": "PredictorReady", "status": ready, "message": "" if ready == "True" else "Not this field."},
                {"type": "Ready", "status": ready},
            ],
            "components": {"predictor": predictor},
        },
    }


def kserve_pod(revision="", template="t", ready=True, phase="Running") -> dict:
    made = pod(ready=ready, phase=phase)
    made["metadata"]["labels"] = {"airflow-mlops/template": template, "serving.knative.dev/revision": revision}
    return made


def serverless(*shares: tuple[str, int], created="b", ready="b", **facts) -> dict:
    traffic = [{"revisionName": name, "percent": percent} for name, percent in shares]
    return inference_service(latestCreatedRevision=created, latestReadyRevision=ready, traffic=traffic, **facts)


OLD, NEW = kserve_pod("a", "s"), kserve_pod("b")


@pytest.mark.parametrize(
    ("live", "pods", "ready"),
    [
        # Without Knative.
        (inference_service(), [kserve_pod()], True),
        (inference_service(), [], False),
        # The condition is still that of the previous Deployment, or an old pod still answers.
        (inference_service(), [OLD], False),
        (inference_service(), [kserve_pod(), OLD], False),
        (inference_service(), [kserve_pod(), kserve_pod("a", "s", phase="Failed")], True),
        (inference_service(), [kserve_pod(), kserve_pod(ready=False)], False),
        (inference_service(ready="False"), [kserve_pod()], False),
        (inference_service(ready="Unknown"), [kserve_pod()], False),
        # With Knative.
        (serverless(("b", 100)), [OLD, NEW], True),
        (serverless(("b", 100)), [OLD, kserve_pod("b", ready=False)], False),
        # The status is still that of the previous revision.
        (serverless(("a", 100), created="a", ready="a"), [OLD, NEW], False),
        # The previous revision answers. The new one is not ready.
        (serverless(("a", 100), ready="a"), [OLD, NEW], False),
        # A restored manifest has a new revision, with the same template as the first one.
        (serverless(("b", 100)), [kserve_pod("a")], False),
        (serverless(("a", 90), ("b", 10), canary=10), [OLD, NEW], True),
        (serverless(("a", 90), ("b", 10), canary=50), [OLD, NEW], False),
        (serverless(("a", 90), ("b", 10)), [OLD, NEW], False),
        (serverless(("a", 100), canary=0), [OLD, NEW], True),
        # The first revision gets all requests.
        (serverless(("b", 100), canary=10), [NEW], True),
    ],
)
def test_an_inference_service_is_ready_when_its_status_and_pods_are_those_of_the_manifest(live, pods, ready):
    assert is_ready(live, pods) is ready
    assert template(live) == "t"
    assert address(live) == "http://late.serving.example"


def test_the_reason_that_kserve_gives_is_reported():
    assert complaint(inference_service(ready="False")) == "Not this field."
    assert (
        complaint(inference_service()) == complaint({"kind": "InferenceService"}) == complaint({"status": DONE}) == ""
    )


def test_a_canary_that_kserve_ignores_is_noticed():
    assert ignored(inference_service()) is None
    assert ignored(inference_service(canary=10, latestReadyRevision="b")) is None
    assert "canary_percent" in ignored(inference_service(canary=10))
    assert ignored({"metadata": {}, "spec": {"replicas": 2}, "status": DONE}) is None


def test_an_image_that_cannot_be_pulled_is_an_error_after_a_grace_period():
    watch = Watch(since=0, limit=100)
    bad = pod("ImagePullBackOff", phase="Pending")
    assert watch.error([bad, pod()], 10) is None
    assert isinstance(watch.error([bad, pod()], 16), ImageError)
    # The image was pulled in the meantime, so the patience begins again.
    assert watch.error([pod()], 17) is None
    assert watch.error([bad], 18) is None


def test_a_server_that_crashes_repeatedly_is_an_error_with_its_last_message():
    ended = {"reason": "Error", "exitCode": 1, "message": "first\nERROR The store is gone.\n"}
    crashed = {"lastState": {"terminated": ended}}
    watch = Watch(since=0, limit=100, patience=0)
    assert watch.error([pod("CrashLoopBackOff", restartCount=2, **crashed)], 1) is None
    found = watch.error([pod("CrashLoopBackOff", restartCount=3, **crashed)], 1)
    assert isinstance(found, DeploymentError)
    assert "The store is gone." in str(found)


def test_an_endpoint_that_is_late_is_an_error():
    watch = Watch(since=0, limit=100)
    assert watch.error([pod()], 100) is None
    assert isinstance(watch.error([pod()], 101), DeploymentError)
    assert isinstance(watch.error([], 101), DeploymentError)
    unscheduled = pod(phase="Pending")
    unscheduled["spec"].pop("nodeName")
    unscheduled["status"]["conditions"].append(
        {"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}
    )
    assert isinstance(watch.error([pod(ready=True), unscheduled], 101), NoCapacityError)


def test_readiness_is_the_condition_of_the_pod():
    assert pod_ready(pod(ready=True))
    assert not pod_ready(pod())
    assert not pod_ready({"metadata": {}, "status": {}})
