"""A rollout from its objects to the answers of its pods, in a cluster whose controllers the tests play.

The pods are HTTP servers at the addresses 127.0.0.N of this machine. No controller of Kubernetes or KServe runs.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_mlops.compute import Deployment, KServe, Pod
from airflow_mlops.compute.kubernetes.serving import check, restoring, state
from airflow_mlops.compute.kubernetes.serving.manifests import TEMPLATE
from airflow_mlops.core.errors import DeploymentError, ImageError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.stages.deploy.spec import Check, DeployResult
from tests.unit.compute.kubernetes.serving import test_restoring, test_state
from tests.unit.compute.kubernetes.test_step_manifest import call

CHECK = Check(rows=[{"a": 1.5}], scores=[0.25])


class Server(ThreadingHTTPServer):
    """The server in a pod."""

    def __init__(self, address: str, port: int, version: int) -> None:
        self.version, self.score, self.ready, self.asked = version, 0.25, True, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(size)
                server.asked += 1
                health = self.path == "/v2/health/ready"
                self.send_response(200 if server.ready else 503)
                self.end_headers()
                found = {"ready": server.ready} if health else {"versions": [str(server.version)]}
                if self.path.endswith("/predict"):
                    found = {"version": server.version, "predictions": [{"score": server.score}]}
                self.wfile.write(json.dumps(found).encode())

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__((address, port), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Cluster(test_restoring.Objects):
    """Objects, and controllers that start a pod for each new manifest of the object that runs the servers."""

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[str, Server] = {}
        self.states: dict[str, dict[str, Any]] = {}
        # The pods of the next manifests, as parameters of test_state.pod. By default, they are ready.
        self.starts: list[dict[str, Any]] = []
        self.wrong, self.serverless = False, True

    def served(self) -> dict[str, list[str]]:
        return {**test_restoring.SERVED, "serving.kserve.io": ["v1beta1"]}

    def apply(self, manifest: Any) -> None:
        before = self.get(manifest)
        super().apply(manifest)
        if manifest["kind"] in ("Deployment", "InferenceService"):
            generation = before["metadata"]["generation"] + 1 if before else 1
            manifest = {**manifest, "metadata": {**manifest["metadata"], "generation": generation}}
            self.found[manifest["kind"], self.name] = manifest
            self.carry_out(manifest)

    def carry_out(self, live: Any) -> None:
        template, words = state.template(live), json.dumps(live).split('"--version", "')
        status = self.starts.pop(0) if self.starts else {"ready": True}
        if template not in self.servers:
            address = f"127.0.0.{len(self.servers) + 2}"
            port = next(iter(self.servers.values())).server_port if self.servers else 0
            self.servers[template] = Server(address, port, int(words[1].split('"')[0]))
            self.servers[template].score += self.wrong
        pod = test_state.pod(**status)
        pod["metadata"]["labels"] = {TEMPLATE: template, "serving.knative.dev/revision": template}
        pod["status"]["podIP"] = self.servers[template].server_address[0]
        self.states[template] = pod
        if not status["ready"]:
            return
        found = {"observedGeneration": live["metadata"]["generation"]}
        if live["kind"] == "Deployment":
            count = live["spec"]["replicas"]
            found |= {"replicas": count, "updatedReplicas": count, "availableReplicas": count}
        else:
            names: dict[str, Any] = {}
            if self.serverless:
                share = live["spec"]["predictor"].get("canaryTrafficPercent", 100) if len(self.states) > 1 else 100
                others = [{"revisionName": name, "percent": 100 - share} for name in self.states if name != template]
                traffic = [{"revisionName": template, "percent": share}, *others[:1]]
                names = {"latestCreatedRevision": template, "latestReadyRevision": template, "traffic": traffic}
            else:
                self.states = {template: pod}
            # This is the generation of the Knative Service or of the Deployment, whose controllers change it, too.
            found["observedGeneration"] = 1
            found |= {"components": {"predictor": names}, "conditions": [{"type": "Ready", "status": "True"}]}
        live["status"] = found

    def pods(self) -> list[Any]:
        return [*self.states.values()]

    def __str__(self) -> str:
        return "serving/late"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    from airflow_mlops.compute.kubernetes.serving import rollout

    found = Cluster()
    monkeypatch.setattr(rollout, "EndpointApi", lambda *_: found)
    monkeypatch.setattr(rollout, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(restoring, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(check, "_PAUSE", 0)
    yield found
    for server in found.servers.values():
        server.shutdown()
        server.server_close()


def deploy(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    kind: type = Deployment,
    deferrable: bool = False,
    **options: Any,
):
    """Deploy a version, and return the endpoint."""
    from airflow_mlops.compute.kubernetes.serving.rollout import Rollout

    pod = Pod(image=f"i:{version}", namespace="serving", deferrable=deferrable)
    target = kind(pod=pod, name="late", replicas=1, **options)
    ref = ModelVersionRef(model="late", version=version, run_id="r")
    chosen = DeployResult(model="late", version=ref, follows=False, check_key="k", summary="")
    step = call(step="deploy", spec={"model": "late", "version": version}, key=f"results/{version}-{options}")
    context = {"task": SimpleNamespace(execution_timeout=None), "ti": SimpleNamespace(start_date=None)}
    run = Rollout(target, step, chosen, context, logging.getLogger(__name__))
    found = cluster.carry_out

    def carry_out(live: Any) -> None:
        found(live)
        monkeypatch.setattr(check, "PORT", next(iter(cluster.servers.values())).server_port)

    monkeypatch.setattr(cluster, "carry_out", carry_out)
    return run.run(None, CHECK, None)


def test_a_canary_of_kserve_is_verified_grows_and_replaces_the_version_before(cluster, monkeypatch):
    first = deploy(cluster, monkeypatch, 1, KServe)
    assert (first.kind, first.before) == ("InferenceService", None)
    (old,) = cluster.servers.values()
    asked = old.asked
    for percent in (10, 50, None):
        found = deploy(cluster, monkeypatch, 2, KServe, canary_percent=percent)
        live = cluster.found["InferenceService", "late"]
        assert live["spec"]["predictor"].get("canaryTrafficPercent") == percent
        assert (found.version.version, found.before) == (2, 1 if percent == 10 else 2)
        record = cluster.record()
        assert (record.good.endpoint, record.trying) == (found, None)
    # Only the pod of the new revision was asked, and a larger share starts no further revision.
    assert old.asked == asked
    assert [server.version for server in cluster.servers.values()] == [1, 2]


def test_a_deferrable_task_is_not_deferred_if_the_endpoint_is_ready_already(cluster, monkeypatch):
    from airflow.sdk.exceptions import TaskDeferred

    assert deploy(cluster, monkeypatch, 1, deferrable=True).version.version == 1
    cluster.starts = [{"ready": False}]
    with pytest.raises(TaskDeferred) as deferral:
        deploy(cluster, monkeypatch, 2, deferrable=True)
    assert (deferral.value.method_name, cluster.record().trying.endpoint.version.version) == ("rollout_ended", 2)


def test_a_canary_that_kserve_ignores_is_withdrawn(cluster, monkeypatch):
    deploy(cluster, monkeypatch, 1, KServe)
    cluster.serverless = False
    with pytest.raises(SpecError, match="canary_percent=") as caught:
        deploy(cluster, monkeypatch, 2, KServe, canary_percent=10)
    assert "v1 was restored, and it answers" in str(caught.value)
    assert "canaryTrafficPercent" not in cluster.found["InferenceService", "late"]["spec"]["predictor"]


def test_the_error_of_a_late_inference_service_has_the_reason_of_kserve(cluster, monkeypatch):
    watch, get = state.Watch, cluster.get
    monkeypatch.setattr(state, "Watch", lambda since, limit, patience=0: watch(since, 0.05, patience))

    def refused(manifest: Any) -> Any:
        found = get(manifest)
        refusal = {
            "type": "PredictorReady",
            "status": "False",
            "message": "admission webhook:\n must not set the field(s)",
        }
        return found and (
            found | {"status": {"conditions": [refusal]}} if found["kind"] == "InferenceService" else found
        )

    monkeypatch.setattr(cluster, "get", refused)
    cluster.starts = [{"ready": False}]
    with pytest.raises(DeploymentError, match=r"KServe says: admission webhook: must not set the field\(s\)"):
        deploy(cluster, monkeypatch, 1, KServe)


@pytest.mark.parametrize("kind", [Deployment, KServe])
def test_a_failed_task_ends_after_the_restored_endpoint_answers(cluster, monkeypatch, kind):
    deploy(cluster, monkeypatch, 1, kind)
    (old,) = cluster.servers.values()
    cluster.wrong = True
    # The new pod is ready. The pod of the restored release is ready, but its server has no version for a while.
    polls = iter([False, False, True])
    old.ready = False
    unanswered = restoring.unanswered

    def ask(pods: Any) -> str:
        old.ready = next(polls)
        return unanswered(pods)

    monkeypatch.setattr(restoring, "unanswered", ask)
    with pytest.raises(
        DeploymentError, match=r"scores of its input example .* v1 was restored, and it answers"
    ) as caught:
        deploy(cluster, monkeypatch, 2, kind)
    assert not caught.value.retryable
    assert next(polls, None) is None
    assert cluster.record().good.endpoint.version.version == 1


def test_a_restored_endpoint_that_does_not_answer_is_reported_with_the_first_error(cluster, monkeypatch):
    deploy(cluster, monkeypatch, 1)
    cluster.wrong = True
    monkeypatch.setattr(restoring, "_RESTORED_SECONDS", 0.05)
    # The new pod is ready, and that of the restored release is not.
    cluster.starts = [{"ready": True}, {"ready": False}]
    with pytest.raises(DeploymentError, match=r"scores of its input example .* does not answer .*0 of 1 new pods"):
        deploy(cluster, monkeypatch, 2)
    # The pod is ready, and its server has no version.
    next(iter(cluster.servers.values())).ready = False
    with pytest.raises(DeploymentError, match=r"does not answer .*HTTP status 503"):
        deploy(cluster, monkeypatch, 3)
    # The next deployment begins with the restored release.
    assert (cluster.record().good.endpoint.version.version, cluster.record().trying) == (1, None)


def test_a_restored_endpoint_whose_image_is_gone_is_not_awaited(cluster, monkeypatch):
    deploy(cluster, monkeypatch, 1)
    cluster.wrong = True
    cluster.starts = [{"ready": True}, {"waiting": "ImagePullBackOff", "phase": "Pending", "ready": False}]
    watch = state.Watch
    monkeypatch.setattr(state, "Watch", lambda since, limit, patience=0: watch(since, limit, patience))
    with pytest.raises(DeploymentError, match=f"does not answer .*{ImageError.__name__}"):
        deploy(cluster, monkeypatch, 2)
