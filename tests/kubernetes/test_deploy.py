"""Endpoints in a real cluster: rolled out, called at the addresses of their pods, restored after a failure, and removed.

KServe: the tests install the CustomResourceDefinition of InferenceServices only, and act as the controller: they run one pod for
each manifest, and write the status. NO CONTROLLER OF KSERVE AND NO KNATIVE RUN, so the tests do not show what these make of a manifest.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.stages.runner import run_call
from tests.kubernetes.conftest import ROOT, Cluster
from tests.kubernetes.live.test_train_jobs import CRD
from tests.support.training import training_set

MODEL = "late_online"
ROW = {"distance": 700.5, "hour": 9, "weekend": False, "carrier": "B6", "tail": "N0001"}
KINDS = ("deployment", "service", "horizontal_pod_autoscaler", "pod_disruption_budget", "config_map")

# A server whose scores are wrong, as after a change of a library.
WRONG = """
import dataclasses
from airflow_mlops.models.onnx import scorer
right = scorer.OnnxModel.predict_values
def wrong(self, columns, rows):
    found = right(self, columns, rows)
    return dataclasses.replace(found, score=found.score + 0.01)
scorer.OnnxModel.predict_values = wrong
"""

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlops.compute import Deployment, KServe, Pod
from airflow_mlops.operators import DeployOperator, UndeployOperator

with DAG({dag_id!r}, default_args={{"store": {store!r}, "model": {model!r}, "retry_delay": timedelta(0)}}):
    {task}
"""


@pytest.fixture(scope="module")
def champion(cluster: Cluster, server: str) -> SimpleNamespace:
    """A model with the versions 1, the champion, and 2."""
    connection = ConnectionInfo(conn_id="mlflow_default", conn_type="mlflow", host=server)
    dataset = training_set(ArtifactStore(cluster.store)).model_dump(mode="json")

    def run(step: str, name: str, **spec: Any) -> dict[str, Any]:
        key = f"results/deploy/{step}-{name}.json"
        call = StepCall(step=step, spec=spec, store=cluster.store, key=key, version=__version__)
        return run_call(call, lambda _: connection)

    for depth in (2, 4):
        trainer = {
            "kind": "sklearn",
            "estimator": "sklearn.tree.DecisionTreeClassifier",
            "params": {"max_depth": depth},
        }
        candidate = run("train", str(depth), dataset=dataset, model=MODEL, trainer=trainer)["candidate"]
        if depth == 2:
            gates = [{"metric": "roc_auc", "min": 0.5}]
            verdict = run("evaluate", str(depth), dataset=dataset, candidates=[candidate], gates=gates)["verdict"]
            assert run("promote", str(depth), verdict=verdict)["promoted"]
    return SimpleNamespace(mlflow=server)


@pytest.fixture(scope="module")
def secret(cluster: Cluster, server: str) -> str:
    """A Secret with the connection to MLflow."""
    connection = json.dumps({"conn_type": "mlflow", "host": server, "password": "not-to-be-seen"})
    body = {"metadata": {"name": "endpoint-connections"}, "stringData": {"AIRFLOW_CONN_MLFLOW_DEFAULT": connection}}
    cluster.core.create_namespaced_secret(cluster.namespace, body)
    return "endpoint-connections"


class Endpoints:
    """The endpoints in the namespace of the tests."""

    def __init__(self, cluster: Cluster, secret: str) -> None:
        from kubernetes import client

        self.cluster, self.secret = cluster, secret
        api = cluster.core.api_client
        self.apps, self.scaling = client.AppsV1Api(api), client.AutoscalingV1Api(api)
        self.custom = client.CustomObjectsApi(api)

    def pod(self, **options: Any) -> str:
        fields = {"env_from": [self.secret], "cpu": "100m", "memory": "1Gi", "termination_grace": 60, **options}
        return self.cluster.pod(**fields)

    def wrong(self) -> dict[str, str]:
        """The variables of a server whose scores are wrong."""
        folder = self.cluster.folder / "wrong"
        folder.mkdir(mode=0o777, exist_ok=True)
        (folder / "sitecustomize.py").write_text(WRONG)
        return {"PYTHONPATH": f"{folder}:{self.cluster.pod_fields()['env']['PYTHONPATH']}"}

    def ask(self, address: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://{address}:8080/v2/models/{MODEL}/predict",
            json.dumps({"rows": rows}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read())

    def alive(self) -> list[str]:
        """The ids of the pods that are not being deleted."""
        return [pod.metadata.uid for pod in self.cluster.pods() if pod.metadata.deletion_timestamp is None]

    def addresses(self) -> list[str]:
        """The addresses of the pods that are ready."""
        return [
            pod.status.pod_ip
            for pod in self.cluster.pods()
            if pod.metadata.deletion_timestamp is None
            and any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or [])
        ]

    def names(self) -> dict[str, list[str]]:
        """The names of all objects, by kind."""
        namespace = self.cluster.namespace
        budgets = self.custom.list_namespaced_custom_object("policy", "v1beta1", namespace, "poddisruptionbudgets")
        found = {
            "deployment": self.apps.list_namespaced_deployment(namespace).items,
            "service": self.cluster.core.list_namespaced_service(namespace).items,
            "horizontal_pod_autoscaler": self.scaling.list_namespaced_horizontal_pod_autoscaler(namespace).items,
            "config_map": self.cluster.core.list_namespaced_config_map(namespace).items,
        }
        names = {kind: [item.metadata.name for item in items] for kind, items in found.items()}
        names["pod_disruption_budget"] = [item["metadata"]["name"] for item in budgets["items"]]
        # Kubernetes itself puts a ConfigMap with its certificate into each namespace.
        return {kind: [name for name in names[kind] if name != "kube-root-ca.crt"] for kind in names}

    def wait_until_gone(self) -> None:
        """Wait until there are no objects. A Deployment goes after its pods."""
        self.cluster.wait_until_empty()
        end = time.monotonic() + 30
        while (found := self.names()) != {kind: [] for kind in KINDS}:
            assert time.monotonic() < end, found
            time.sleep(0.2)


@pytest.fixture
def endpoints(cluster: Cluster, champion: SimpleNamespace, secret: str) -> Iterator[Endpoints]:
    found = Endpoints(cluster, secret)
    yield found
    cluster.wait_until_empty()


@pytest.fixture
def run(cluster: Cluster, server: str, run_dag, monkeypatch):
    """Run a DAG with one task, and return the state of the task and what it returned."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    connections = {
        "kubernetes_default": cluster.connection,
        "mlflow_default": json.dumps({"conn_type": "mlflow", "host": server}),
    }

    def go(task: str):
        dag_id = f"deploy_{time.monotonic_ns()}"
        source = DAG.format(dag_id=dag_id, store=cluster.store, model=MODEL, task=task)
        return run_dag(source, connections=connections)

    return go


def deploy(endpoints: Endpoints, arguments: str = "", pod: str | None = None, **options: Any) -> str:
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    target = f"Deployment(pod={pod or endpoints.pod()}{given})"
    return f"DeployOperator(task_id='deploy', target={target}, {arguments})"


def test_an_endpoint_answers_and_comes_back_after_an_image_that_does_not_start(
    cluster, champion, endpoints, run, capfd
):
    ledger = Ledger(ArtifactStore(cluster.store), MODEL)
    before = ledger.count()
    done = run(deploy(endpoints, pod=endpoints.pod(deferrable=True), replicas=1, max_replicas=2))
    logged = capfd.readouterr().out
    assert done.states() == {"deploy": "success"}, logged[-6000:]
    assert "Pausing task as DEFERRED" in logged
    result = done.xcom("deploy")
    # A pod of the new endpoint answers as the server on one machine does.
    (address,) = endpoints.addresses()
    answer = endpoints.ask(address, [ROW])
    assert (answer["version"], result["version"]["version"], result["follows"]) == (1, 1, True)
    assert 0 <= answer["predictions"][0]["score"] <= 1
    assert endpoints.names() == {
        kind: ["late-online-airflow-mlops" if kind == "config_map" else "late-online"] for kind in KINDS
    }
    deployment = endpoints.apps.read_namespaced_deployment("late-online", cluster.namespace)
    assert "not-to-be-seen" not in str(deployment)
    entry = ledger.entries()[-1]
    assert (entry.decision, entry.endpoint.name, entry.endpoint.before) == ("deployed", "late-online", None)
    assert (entry.champion.version, entry.moves) == (1, False)
    ((uri, extra),) = done.asset_events()
    assert (uri, extra["version"], extra["url"]) == (f"mlops://{MODEL}/deployed", 1, result["endpoint"]["url"])

    # The same objects again change nothing, and start no pod.
    pods = endpoints.alive()
    done = run(deploy(endpoints, replicas=1, max_replicas=2))
    assert done.states() == {"deploy": "success"}
    assert endpoints.alive() == pods
    assert ledger.entries()[-1].endpoint.before == 1

    # An image that cannot be pulled.
    bad = endpoints.pod(image="localhost/no-such-image:1", deferrable=True)
    done = run(deploy(endpoints, "version=2, retries=0", pod=bad, replicas=1))
    logged = capfd.readouterr().out
    assert done.states() == {"deploy": "failed"}
    assert "ImageError: Image 'localhost/no-such-image:1'" in logged
    assert "was restored" in logged
    present = endpoints.apps.read_namespaced_deployment("late-online", cluster.namespace)
    assert present.spec.template == deployment.spec.template
    assert ledger.count() == before + 2
    for _ in range(100):
        if endpoints.alive() == pods:
            break
        time.sleep(0.2)
    assert endpoints.alive() == pods
    assert endpoints.ask(address, [ROW])["predictions"] == answer["predictions"]

    done = run("UndeployOperator(task_id='undeploy')")
    assert done.states() == {"undeploy": "success"}
    assert endpoints.names() == {kind: [] for kind in KINDS}
    entry = ledger.entries()[-1]
    assert (entry.decision, entry.endpoint.version.version) == ("undeployed", 1)
    # The rows of the request are in the artifact store. The rows of the verification are not.
    uploaded = [
        ArtifactStore(cluster.store).url_of(key) for key in ArtifactStore(cluster.store).keys(f"online/{MODEL}")
    ]
    assert len(uploaded) == 1
    assert run("UndeployOperator(task_id='undeploy')").xcom("undeploy")["removed"] is False


def test_the_example_deploys_the_champion(cluster, champion, endpoints, server, run, run_dag, monkeypatch, capfd):
    """dags/flights_deploy.py, with another model and with the volume in which the tests have the artifact store."""
    monkeypatch.syspath_prepend(str(ROOT / "dags"))
    import flights

    monkeypatch.setitem(flights.default_args, "model", MODEL)
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", cluster.store)
    monkeypatch.setenv("AIRFLOW_VAR_FLIGHTS_IMAGE", cluster.image)
    (secret,) = cluster.core.list_namespaced_secret(
        cluster.namespace, field_selector=f"metadata.name={endpoints.secret}"
    ).items
    cluster.core.create_namespaced_secret(
        cluster.namespace, {"metadata": {"name": "airflow-mlops"}, "data": secret.data}
    )
    fields = {name: value for name, value in cluster.pod_fields().items() if name != "image"}
    source = (ROOT / "dags" / "flights_deploy.py").read_text()
    assert source.count("    deferrable=True,\n") == 1
    monkeypatch.delenv("KUBECONFIG", raising=False)
    done = run_dag(
        source.replace("    deferrable=True,\n", f"    deferrable=True,\n    **{fields!r},\n"),
        connections={
            "kubernetes_default": cluster.connection,
            "mlflow_default": json.dumps({"conn_type": "mlflow", "host": server}),
        },
    )
    logged = capfd.readouterr().out
    assert done.states() == {"places": "success", "deploy": "success", "follow": "skipped"}, logged[-6000:]
    assert "Pausing task as DEFERRED" in logged
    addresses = endpoints.addresses()
    assert len(addresses) == 2
    assert {endpoints.ask(address, [ROW])["version"] for address in addresses} == {1}
    entry = Ledger(ArtifactStore(cluster.store), MODEL).entries()[-1]
    assert (entry.decision, entry.endpoint.follows, entry.provenance.dag_id) == ("deployed", True, "flights_deploy")
    ((uri, extra),) = done.asset_events()
    assert (uri, extra["version"]) == (f"mlops://{MODEL}/deployed", 1)
    assert run("UndeployOperator(task_id='undeploy')").states() == {"undeploy": "success"}
    assert endpoints.names() == {kind: [] for kind in KINDS}


def test_a_pinned_version_with_wrong_scores_is_removed(cluster, champion, endpoints, run, capfd):
    pod = endpoints.pod(env=endpoints.wrong())
    done = run(deploy(endpoints, "version=2, retries=3", pod=pod, replicas=1, name="wrong"))
    logged = capfd.readouterr().out
    assert done.states() == {"deploy": "failed"}
    assert "DeploymentError: Pod" in logged
    assert "answers with late_online v2, but the scores of its input example are" in logged
    assert "there was no endpoint before" in logged
    endpoints.wait_until_gone()


ISVC = ("serving.kserve.io", "v1beta1", "inferenceservices")


@pytest.fixture(scope="module")
def definition(cluster: Cluster) -> Iterator[None]:
    """The CustomResourceDefinition of InferenceServices. That of KServe also describes every field."""
    from kubernetes import client, config

    api = client.ApiextensionsV1Api(config.new_client_from_config(cluster.kubeconfig))
    group, version, plural = ISVC
    name = f"{plural}.{group}"
    if name in [item.metadata.name for item in api.list_custom_resource_definition().items]:
        yield
        return
    crd = deepcopy(CRD)
    crd["metadata"]["name"] = name
    names = {"plural": plural, "singular": "inferenceservice", "kind": "InferenceService"}
    crd["spec"] |= {"group": group, "names": names}
    crd["spec"]["versions"][0]["name"] = version
    api.create_custom_resource_definition(crd)
    groups = client.ApisApi(api.api_client)
    end = time.monotonic() + 30
    while group not in [item.name for item in groups.get_api_versions().groups]:
        assert time.monotonic() < end
        time.sleep(0.2)
    try:
        yield
    finally:
        api.delete_custom_resource_definition(name)


class Controller:
    """Plays the controller of KServe: one pod for each new manifest, and the status."""

    def __init__(self, endpoints: Endpoints, name: str) -> None:
        group, version, plural = ISVC
        self.cluster, self.custom, self.name = endpoints.cluster, endpoints.custom, name
        self.place = (group, version, endpoints.cluster.namespace, plural, name)
        # The last revision that got all requests.
        self.rolled_out = ""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def found(self) -> dict[str, Any] | None:
        from kubernetes.client.exceptions import ApiException

        try:
            return self.custom.get_namespaced_custom_object(*self.place)
        except ApiException:
            return None

    def run(self) -> None:
        seen = 0
        while not self.ended.wait(0.3):
            live = self.found()
            if live is not None and live["metadata"]["generation"] != seen:
                seen = live["metadata"]["generation"]
                self.carry_out(live, f"{self.name}-{seen:05d}")

    def carry_out(self, live: dict[str, Any], revision: str) -> None:
        from kubernetes.client.exceptions import ApiException

        core, namespace = self.cluster.core, self.cluster.namespace
        fields = ("minReplicas", "maxReplicas", "canaryTrafficPercent")
        spec = {name: value for name, value in live["spec"]["predictor"].items() if name not in fields}
        owner = {
            "apiVersion": live["apiVersion"],
            "kind": live["kind"],
            "name": self.name,
            "uid": live["metadata"]["uid"],
        }
        labels = {**live["metadata"]["labels"], "serving.knative.dev/revision": revision}
        metadata = {"name": revision, "labels": labels, "ownerReferences": [owner]}
        core.create_namespaced_pod(namespace, {"metadata": metadata, "spec": spec})
        # This is the generation of the Knative Service.
        status: dict[str, Any] = {"observedGeneration": 1, "url": f"http://{self.name}.example.org"}
        status["components"] = {"predictor": {"latestCreatedRevision": revision}}
        while not self.ended.wait(0.3):
            with suppress(ApiException):
                conditions = core.read_namespaced_pod(revision, namespace).status.conditions or []
                if any(item.type == "Ready" and item.status == "True" for item in conditions):
                    break
        status["components"]["predictor"] |= {
            "latestReadyRevision": revision,
            "traffic": self.traffic(revision, live["spec"]["predictor"].get("canaryTrafficPercent", 100)),
        }
        status["conditions"] = [{"type": "Ready", "status": "True"}]
        # It may have been deleted in the meantime.
        with suppress(ApiException):
            self.custom.patch_namespaced_custom_object_status(*self.place, {"status": status})

    def traffic(self, revision: str, share: int) -> list[dict[str, Any]]:
        previous, self.rolled_out = (
            self.rolled_out,
            revision if share == 100 or not self.rolled_out else self.rolled_out,
        )
        if share == 100 or not previous:
            return [{"revisionName": revision, "latestRevision": True, "percent": 100}]
        newest = {"revisionName": revision, "latestRevision": True, "percent": share}
        return [newest, {"revisionName": previous, "latestRevision": False, "percent": 100 - share}]

    def __enter__(self) -> Controller:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join(10)


def test_an_inference_service_answers_and_a_wrong_canary_is_withdrawn(
    cluster, champion, endpoints, run, definition, capfd
):
    with Controller(endpoints, "late-online") as controller:
        pod = endpoints.pod(deferrable=True)
        done = run(f"DeployOperator(task_id='deploy', target=KServe(pod={pod}))")
        logged = capfd.readouterr().out
        assert done.states() == {"deploy": "success"}, logged[-6000:]
        assert "Pausing task as DEFERRED" in logged
        endpoint = done.xcom("deploy")["endpoint"]
        assert (endpoint["kind"], endpoint["url"]) == (
            "InferenceService",
            f"http://late-online.example.org/v2/models/{MODEL}",
        )
        (address,) = endpoints.addresses()
        assert endpoints.ask(address, [ROW])["version"] == 1
        good = controller.found()["spec"]

        wrong = endpoints.pod(env=endpoints.wrong())
        target = f"KServe(pod={wrong}, canary_percent=10)"
        done = run(f"DeployOperator(task_id='deploy', target={target}, version=2)")
        logged = capfd.readouterr().out
        assert done.states() == {"deploy": "failed"}
        assert "the scores of its input example are" in logged
        assert "The endpoint of late_online v1, which follows the champion, was restored." in logged
        assert controller.found()["spec"] == good

        # Without a version, both sides of a canary would follow the champion.
        done = run(f"DeployOperator(task_id='deploy', target=KServe(pod={pod}, canary_percent=10))")
        assert done.states() == {"deploy": "failed"}
        assert "SpecError: KServe(canary_percent=...)" in capfd.readouterr().out
        assert run("UndeployOperator(task_id='undeploy')").states() == {"undeploy": "success"}
    endpoints.wait_until_gone()
    assert controller.found() is None
