"""A namespace of a real cluster in which Airflow has exactly the rights of the documented Role.

KUBECONFIG names the cluster. Its nodes must mount this machine's ``/tmp`` and reach this machine's address, as a cluster on
the same machine does. ``MLOPS_TEST_IMAGE`` names a runner image that the nodes have, and ``MLOPS_TEST_IMAGE_BUILD`` may name
a file that exists as long as the image is being built. ``MLOPS_TEST_CLUSTER_IN_USE`` may name a file that tests/conftest.py removes
when the last test on the cluster has ended. With ``MLOPS_TEST_SOURCE=1`` pods run the checkout instead of the package in the
image.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import DagRunOutcome, RunDag, airflow_db, mlflow_server, run_dag, run_mlflow
from tests.support.memory import on_disk

__all__ = ["airflow_db", "mlflow_server", "run_dag"]

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "docs" / "kubernetes" / "role.yaml"
IMAGE = os.environ.get("MLOPS_TEST_IMAGE", "localhost/airflow-mlops-runner:test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass
class Cluster:
    """The cluster with an administrator's client, and a namespace for the tests.

    :param host: the address of this machine for pods
    :param folder: a folder of this machine that pods mount at the same path
    """

    core: Any
    namespace: str
    host: str
    folder: Path
    kubeconfig: str
    contexts: list[str]
    image: str = IMAGE
    volumes: list[Path] = field(default_factory=list)

    @property
    def store(self) -> str:
        return f"file://{self.folder}/artifacts"

    @property
    def connection(self) -> str:
        """Airflow's connection to the cluster, as the user ``airflow`` if the kubeconfig has one."""
        extra = {"kube_config_path": self.kubeconfig, "namespace": self.namespace}
        if "airflow" in self.contexts:
            extra["cluster_context"] = "airflow"
        return json.dumps({"conn_type": "kubernetes", "extra": extra})

    def pod(self, **options: Any) -> str:
        """The source code of a ``Pod(...)`` that runs the probe step and mounts the shared folder."""
        return f"Pod(**{self.pod_fields(**options)!r})"

    def pod_fields(self, **options: Any) -> dict[str, Any]:
        volumes = [{"name": "shared", "hostPath": {"path": str(self.folder)}}]
        mounts = [{"name": "shared", "mountPath": str(self.folder)}]
        paths = [str(self.folder / "probe")]
        if os.environ.get("MLOPS_TEST_SOURCE"):
            volumes.append({"name": "source", "hostPath": {"path": str(ROOT)}})
            mounts.append({"name": "source", "mountPath": "/source", "readOnly": True})
            paths.append("/source")
        defaults = {
            "image": self.image,
            "image_pull_policy": "IfNotPresent",
            "namespace": self.namespace,
            "volumes": [*volumes, *options.pop("volumes", [])],
            "volume_mounts": [*mounts, *options.pop("volume_mounts", [])],
            "env": {"PYTHONPATH": ":".join(paths), **options.pop("env", {})},
        }
        return {**defaults, **options}

    def pods(self) -> list[Any]:
        return self.core.list_namespaced_pod(self.namespace).items

    def wait_for_pod(self, phase: str = "Running", seconds: float = 60) -> Any:
        """Wait until a pod is in ``phase``, and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [pod for pod in self.pods() if pod.status.phase == phase]
            if found:
                return found[0]
            time.sleep(0.2)
        raise AssertionError(f"no pod is {phase}: {[(pod.metadata.name, pod.status.phase) for pod in self.pods()]}")

    def wait_until_empty(self, seconds: float = 180) -> float:
        """Wait until there are no pods, and return the seconds it took."""
        start = time.monotonic()
        while self.pods():
            assert time.monotonic() - start < seconds, [pod.metadata.name for pod in self.pods()]
            time.sleep(0.2)
        return time.monotonic() - start


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig:
        pytest.skip("NO CLUSTER: KUBECONFIG is not set, so nothing that runs on Kubernetes was tested")
    from kubernetes import client, config

    build = Path(os.environ.get("MLOPS_TEST_IMAGE_BUILD", "/none"))
    while build.exists():
        time.sleep(1)
    if build.with_suffix(".failed").exists():
        pytest.fail("The runner image could not be built.")
    contexts, _ = config.list_kube_config_contexts(kubeconfig)
    api = config.new_client_from_config(kubeconfig)
    core = client.CoreV1Api(api)
    (node, *_) = core.list_node().items
    host = next(address.address for address in node.status.addresses if address.type == "InternalIP")
    name = f"mlops-test-{uuid.uuid4().hex[:6]}"
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    for document in yaml.safe_load_all(ROLE.read_text()):
        _grant(api, name, document)
    folder = on_disk("kubernetes-tests")
    (folder / "probe").mkdir()
    for file in ("empty.py", "probe_step.py", "sitecustomize.py"):
        shutil.copy(Path(__file__).parent / "probe" / file, folder / "probe" / file)
    (folder / "artifacts").mkdir()
    # Pods do not run as root, but this process may.
    old = os.umask(0)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    try:
        yield Cluster(core, name, host, folder, kubeconfig, [context["name"] for context in contexts])
    finally:
        os.umask(old)
        core.delete_namespace(name, grace_period_seconds=0)
        shutil.rmtree(folder, ignore_errors=True)


def _grant(api: Any, namespace: str, document: dict[str, Any]) -> None:
    """Create the Role, and bind it to the user ``airflow`` instead of the service accounts in the documentation."""
    from kubernetes import client

    rights = client.RbacAuthorizationV1Api(api)
    document["metadata"]["namespace"] = namespace
    if document["kind"] == "Role":
        rights.create_namespaced_role(namespace, document)
    elif document["kind"] == "RoleBinding":
        document["subjects"] = [{"kind": "User", "name": "airflow", "apiGroup": "rbac.authorization.k8s.io"}]
        rights.create_namespaced_role_binding(namespace, document)


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` in a thread while the block runs; if it fails, the test fails."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not errors, errors
    assert not thread.is_alive()


def evict(cluster: Cluster) -> None:
    """Evict the running pod, as draining its node does."""
    pod = cluster.wait_for_pod()
    eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod.metadata.name}}
    cluster.core.create_namespaced_pod_eviction(pod.metadata.name, cluster.namespace, eviction)


@pytest.fixture(scope="package")
def server(cluster: Cluster) -> Iterator[str]:
    """The address of an MLflow server that pods reach."""
    with run_mlflow(cluster.folder / "mlflow", cluster.host, MLFLOW_SERVER_ALLOWED_HOSTS="*") as address:
        yield address


@contextmanager
def advertised(cluster: Cluster, resource: str, count: int) -> Iterator[None]:
    """Let the node advertise GPUs if it has too few. Pods are scheduled as with real ones."""
    (node, *_) = cluster.core.list_node().items
    path = f"/status/capacity/{resource.replace('/', '~1')}"
    if int(node.status.capacity.get(resource, 0)) >= count:
        yield
        return
    cluster.core.patch_node_status(node.metadata.name, [{"op": "add", "path": path, "value": str(count)}])
    try:
        yield
    finally:
        cluster.core.patch_node_status(node.metadata.name, [{"op": "remove", "path": path}])


DAG = """
import sys
from datetime import timedelta
sys.path.insert(0, {probe!r})
from airflow.sdk import DAG
from airflow_mlops.compute import Pod, Process, Worker
from airflow_mlops.operators.base import StepOperator
from probe_step import ProbeSpec

class ProbeOperator(StepOperator):
    step = "probe"
    spec = ProbeSpec
    template_fields = (*StepOperator.template_fields, "options")
    def __init__(self, *, options, **kwargs):
        super().__init__(**kwargs)
        self.options = options
    def build_spec(self, context):
        return dict(self.options)

with DAG({dag_id!r}, default_args={{"store": {store!r}, "retry_delay": timedelta(0), {default_args}}}):
    {tasks}
"""

ProbeDag = Callable[..., str]
RunProbe = Callable[..., DagRunOutcome]


@pytest.fixture
def probe_dag(cluster: Cluster) -> ProbeDag:
    """The source code of a DAG with one probe: ``probe_dag(pod, options, arguments)``."""

    def text(pod: str, options: dict[str, Any], arguments: str = "", default_args: str = "", tasks: str = "") -> str:
        task = f"ProbeOperator(task_id='probe', options={options!r}, run_on={pod}, {arguments})"
        return DAG.format(
            probe=str(cluster.folder / "probe"),
            store=cluster.store,
            dag_id=f"probe_{uuid.uuid4().hex[:8]}",
            default_args=default_args,
            tasks=tasks or task,
        )

    return text


@pytest.fixture
def run_probe(cluster: Cluster, probe_dag: ProbeDag, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch) -> RunProbe:
    """Run a DAG with one probe to its end."""
    # Only the Airflow connection may name the cluster.
    monkeypatch.delenv("KUBECONFIG")

    def run(pod: str, options: dict[str, Any], arguments: str = "", **further: Any) -> DagRunOutcome:
        return run_dag(
            probe_dag(pod, options, arguments, **further), connections={"kubernetes_default": cluster.connection}
        )

    return run


@pytest.fixture
def counter(cluster: Cluster) -> Path:
    """A file to which every run of the probe adds a line."""
    return cluster.folder / f"runs-{uuid.uuid4().hex[:8]}"
