"""TrainJobs in a real cluster WITHOUT THE CONTROLLER OF KUBEFLOW TRAINER.

The tests install a CustomResourceDefinition for TrainJobs, so tasks really submit, watch and delete them. The tests act as
the controller: they create the pods of a TrainJob if a case needs them, and write its status. They do not test the training
runtime, nor that several nodes find each other.
"""

from __future__ import annotations

import ast
import json
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.calls import KEY_VARIABLE, STORE_VARIABLE
from tests.kubernetes.conftest import Cluster, meanwhile
from tests.kubernetes.faults import FaultyApi

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])

RESULT = {
    "summary": "Trained on 2 nodes.",
    "candidate": {"model": "m", "version": 1, "run_id": "r"},
    "run_id": "r",
    "run_url": None,
    "metrics": {"roc_auc": 0.7},
    "dataset": {"name": "d", "id": "0" * 64, "rows": 10},
    "trainer": "TabularNetwork",
}

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlops.compute import Pod
from airflow_mlops.operators import TrainOperator
from airflow_mlops.trainers import SklearnTrainer, TorchTrainer

class Train(TrainOperator):
    def finish(self, result, context):
        self.log.info("place: %s", self.place())

with DAG({dag_id!r}, default_args={{"store": {store!r}, "retry_delay": timedelta(0)}}):
    Train(task_id="train", dataset={dataset!r}, model="m", trainer={trainer}, run_on={pod}, {arguments})
"""

# A short definition with the fields that are used. Kubeflow Trainer's own definition describes every field.
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{PLURAL}.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": PLURAL, "singular": "trainjob", "kind": "TrainJob"},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}


def definitions(cluster: Cluster) -> Any:
    from kubernetes import client, config

    return client.ApiextensionsV1Api(config.new_client_from_config(cluster.kubeconfig))


def installed(cluster: Cluster) -> bool:
    names = [item.metadata.name for item in definitions(cluster).list_custom_resource_definition().items]
    return CRD["metadata"]["name"] in names


@pytest.fixture(scope="module")
def trainer(cluster: Cluster) -> Iterator[Trainer]:
    """The CustomResourceDefinition for TrainJobs, and a controller that the test plays."""
    played = Trainer(cluster)
    if installed(cluster):
        yield played
        return
    definitions(cluster).create_custom_resource_definition(CRD)
    end = time.monotonic() + 30
    while not played.is_served():
        assert time.monotonic() < end
        time.sleep(0.2)
    try:
        yield played
    finally:
        definitions(cluster).delete_custom_resource_definition(CRD["metadata"]["name"])


class Trainer:
    """Plays the controller."""

    def __init__(self, cluster: Cluster) -> None:
        from kubernetes import client, config

        self.cluster = cluster
        self.api = client.CustomObjectsApi(config.new_client_from_config(cluster.kubeconfig))
        self._place = (GROUP, VERSION, cluster.namespace, PLURAL)

    def is_served(self) -> bool:
        from kubernetes.client.exceptions import ApiException

        try:
            self.api.list_namespaced_custom_object(*self._place)
        except ApiException:
            return False
        return True

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.api.list_namespaced_custom_object(*self._place)["items"])

    def job(self, but: str = "", seconds: float = 90) -> dict[str, Any]:
        """Wait for the one TrainJob that has another uid than ``but``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := [job for job in self.jobs() if job["metadata"]["uid"] != but]:
                (job,) = found
                return job
            time.sleep(0.2)
        raise AssertionError("there is no TrainJob")

    def wait_until_empty(self, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while self.jobs():
            assert time.monotonic() < end, self.jobs()
            time.sleep(0.2)

    def store_result(self, job: dict[str, Any]) -> None:
        """Store the result, as node 0 does at its end."""
        env = {item["name"]: item.get("value") for item in job["spec"]["trainer"]["env"]}
        store = ArtifactStore(env[STORE_VARIABLE])
        store.write_json(store.read_json(env[KEY_VARIABLE])["key"], RESULT)

    def set_condition(self, job: dict[str, Any], kind: str, reason: str, message: str) -> None:
        """Add a condition to the status."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        name = job["metadata"]["name"]
        self.api.patch_namespaced_custom_object_status(*self._place, name, {"status": {"conditions": [condition]}})

    def complete(self, job: dict[str, Any]) -> None:
        self.set_condition(job, "Complete", "AllJobsCompleted", "jobset completed successfully")

    def fail(self, job: dict[str, Any]) -> None:
        self.set_condition(job, "Failed", "FailedJobs", "jobset failed due to one or more job failures")

    def delete(self, job: dict[str, Any]) -> None:
        """Delete a TrainJob. The operator may have deleted the TrainJob already."""
        from kubernetes.client.exceptions import ApiException

        try:
            self.api.delete_namespaced_custom_object(*self._place, job["metadata"]["name"])
        except ApiException as error:
            if error.status != 404:
                raise

    def run_node(self, job: dict[str, Any], index: int = 0, command: list[str] | None = None, **limits: str) -> str:
        """Create the pod of a node from the TrainJob, as JobSet and Job would."""
        job = deepcopy(job)
        spec = job["spec"]["trainer"]
        (patch,) = job["spec"]["runtimePatches"]
        template = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        (container,) = template["spec"].pop("containers")
        name = job["metadata"]["name"]
        labels = {"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": "node"}
        container |= {"image": spec["image"], "command": command or spec["command"], "env": spec["env"]}
        container["resources"] = {"limits": limits} if limits else spec.get("resourcesPerNode", {})
        pod = {
            "metadata": {
                "name": f"{name}-node-0-{index}-{uuid.uuid4().hex[:5]}",
                "labels": template["metadata"]["labels"] | labels,
                "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
                "ownerReferences": [
                    {
                        "apiVersion": job["apiVersion"],
                        "kind": job["kind"],
                        "name": name,
                        "uid": job["metadata"]["uid"],
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": {**template["spec"], "containers": [container], "restartPolicy": "Never"},
        }
        self.cluster.core.create_namespaced_pod(self.cluster.namespace, pod)
        return pod["metadata"]["name"]

    def wait_for_end(self, *names: str) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            phases = {pod.metadata.name: pod.status.phase for pod in self.cluster.pods()}
            if all(phases[name] in ("Succeeded", "Failed") for name in names):
                return
            time.sleep(0.3)
        raise AssertionError(phases)


@contextmanager
def playing(trainer: Trainer, act: Callable[[], None]) -> Iterator[None]:
    """Play the controller while the block runs. If it fails, all TrainJobs fail, so that no task waits forever."""

    def or_end() -> None:
        try:
            act()
        except BaseException:
            for job in trainer.jobs():
                trainer.fail(job)
            raise

    with meanwhile(or_end):
        yield


def nodes(cluster: Cluster, **options: Any) -> str:
    """The Python text of a ``Pod(...)`` of two nodes."""
    fields = ast.literal_eval(cluster.pod(schedule_timeout=90).removeprefix("Pod(**").removesuffix(")"))
    del fields["image_pull_policy"]
    return f"Pod(**{ {**fields, 'nodes': 2, **options}!r})"


def dag(cluster: Cluster, pod: str, arguments: str = "", trainer: str = "TorchTrainer(epochs=1)") -> tuple[str, str]:
    dag_id = f"nodes_{uuid.uuid4().hex[:8]}"
    source = DAG.format(
        dag_id=dag_id, store=cluster.store, dataset=RESULT["dataset"], pod=pod, arguments=arguments, trainer=trainer
    )
    return dag_id, source


@pytest.fixture
def train(cluster, run_dag, monkeypatch) -> Callable[..., Any]:
    """Run a DAG of one training to its end."""
    # Only the Airflow connection may name the cluster.
    monkeypatch.delenv("KUBECONFIG")

    def run(pod: str, arguments: str = "retries=0", connection: str = cluster.connection, **further: Any) -> Any:
        _, source = dag(cluster, pod, arguments, **further)
        return run_dag(source, connections={"kubernetes_default": connection})

    return run


@pytest.fixture(autouse=True)
def nothing_left(request, cluster) -> Iterator[None]:
    yield
    if "trainer" in request.fixturenames:
        trainer = request.getfixturevalue("trainer")
        for job in trainer.jobs():
            trainer.delete(job)
        trainer.wait_until_empty()
        cluster.wait_until_empty()


def failed(run, log: str, *texts: str) -> None:
    assert run.states() == {"train": "failed"}, log[-6000:]
    for text in texts:
        assert text in log, log[-6000:]


def tries(run) -> int:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = select(TaskInstance.try_number).where(TaskInstance.dag_id == run.dag_id)
        return int(session.scalars(found).one())


# This test comes first: the others install the CustomResourceDefinition.
def test_cluster_without_kubeflow_trainer_is_a_final_error(cluster, train, capfd):
    if installed(cluster):
        pytest.skip("the cluster has Kubeflow Trainer")
    run = train(nodes(cluster), "retries=3")
    logged = capfd.readouterr().out
    failed(run, logged, "ComputeError: Kubeflow Trainer is not installed")
    assert tries(run) == 1


@MODES
def test_training_on_two_nodes_is_submitted_and_its_result_returned(cluster, trainer, train, deferrable, capfd):
    def act() -> None:
        job = trainer.job()
        names = [trainer.run_node(job, index, ["echo", f"INFO this is node {index}"]) for index in (0, 1)]
        trainer.wait_for_end(*names)
        trainer.store_result(job)
        trainer.complete(job)

    with playing(trainer, act):
        run = train(nodes(cluster, deferrable=deferrable))
    logged = capfd.readouterr().out
    assert run.states() == {"train": "success"}, logged[-6000:]
    assert run.xcom("train") == RESULT
    assert "[node 0] this is node 0" in logged
    assert "this is node 1" not in logged
    assert "place: {'pod': '" in logged
    assert ("Pausing task as DEFERRED" in logged) is deferrable
    trainer.wait_until_empty()
    cluster.wait_until_empty()


@MODES
def test_failure_names_the_condition_of_the_job_and_the_retry_submits_a_new_one(
    cluster, trainer, train, deferrable, capfd
):
    def act() -> None:
        first = trainer.job()
        trainer.fail(first)
        second = trainer.job(but=first["metadata"]["uid"])
        assert second["metadata"]["name"] == first["metadata"]["name"]
        trainer.store_result(second)
        trainer.complete(second)

    with playing(trainer, act):
        run = train(nodes(cluster, deferrable=deferrable), "retries=1")
    logged = capfd.readouterr().out
    assert run.states() == {"train": "success"}, logged[-6000:]
    assert "FailedJobs: jobset failed due to one or more job failures" in logged
    trainer.wait_until_empty()


def test_failed_job_that_was_kept_is_replaced_by_the_retry(cluster, trainer, train, capfd):
    def act() -> None:
        first = trainer.job()
        trainer.fail(first)
        second = trainer.job(but=first["metadata"]["uid"])
        trainer.fail(second)

    with playing(trainer, act):
        run = train(nodes(cluster, on_finish="keep_pod"), "retries=1")
    failed(run, capfd.readouterr().out, "of an earlier try", "is deleted")
    (kept,) = trainer.jobs()
    assert kept["status"]["conditions"][0]["type"] == "Failed"


def test_error_of_the_step_is_the_error_of_the_task(cluster, trainer, train, capfd):
    """The pod runs the command of the TrainJob; the training set does not exist."""

    def act() -> None:
        job = trainer.job()
        trainer.wait_for_end(trainer.run_node(job))
        trainer.fail(job)

    with playing(trainer, act):
        run = train(nodes(cluster), "retries=3")
    logged = capfd.readouterr().out
    failed(run, logged, "DatasetNotFoundError: ", "failed: FailedJobs")
    assert tries(run) == 1
    assert "[node 0] " in logged


def test_node_without_enough_memory_is_named_although_node_0_failed_too(cluster, trainer, train, capfd):
    def act() -> None:
        job = trainer.job()
        lost = trainer.run_node(job, 0, ["sh", "-c", "echo connection lost; exit 1"])
        hungry = trainer.run_node(job, 1, ["python", "-c", "bytearray(300 << 20)"], memory="64Mi")
        trainer.wait_for_end(lost, hungry)
        trainer.fail(job)

    with playing(trainer, act):
        run = train(nodes(cluster, grow_memory=2, memory="64Mi"), "retries=0")
    failed(run, capfd.readouterr().out, "MemoryLimitError", "The limit is 64Mi", "2 times Pod(memory=...)")


@MODES
def test_job_that_a_user_deletes_is_submitted_again_by_the_retry(cluster, trainer, train, deferrable, capfd):
    def act() -> None:
        first = trainer.job()
        time.sleep(3)
        trainer.delete(first)
        second = trainer.job(but=first["metadata"]["uid"])
        trainer.store_result(second)
        trainer.complete(second)

    with playing(trainer, act):
        run = train(nodes(cluster, deferrable=deferrable), "retries=1")
    logged = capfd.readouterr().out
    assert run.states() == {"train": "success"}, logged[-6000:]
    assert tries(run) == 2
    assert "was deleted while it ran" in logged


@MODES
def test_job_that_no_controller_starts_fails_after_schedule_timeout(cluster, trainer, train, deferrable, capfd):
    run = train(nodes(cluster, deferrable=deferrable, schedule_timeout=4))
    failed(run, capfd.readouterr().out, "has no pod after schedule_timeout= (4 s)", "'torch-distributed'")
    trainer.wait_until_empty()


@MODES
def test_pod_that_fits_no_machine_is_named(cluster, trainer, train, deferrable, capfd):
    with playing(trainer, lambda: trainer.run_node(trainer.job(), 0, ["true"], **{"mlops.test/absent": "1"})):
        run = train(nodes(cluster, deferrable=deferrable, schedule_timeout=8))
    failed(run, capfd.readouterr().out, "NoCapacityError", "schedule_timeout", "Insufficient mlops.test/absent")


@MODES
def test_missing_secret_is_named_before_the_schedule_timeout(cluster, trainer, train, deferrable, capfd):
    def act() -> None:
        trainer.run_node(trainer.job())

    with playing(trainer, act):
        start = time.monotonic()
        pod = nodes(cluster, deferrable=deferrable, secrets={"A": "no-such-secret/a"}, schedule_timeout=900)
        run = train(pod, "retries=2")
    failed(run, capfd.readouterr().out, "SpecError: Container 'node'", "no-such-secret")
    # The error comes long before the schedule timeout.
    assert time.monotonic() - start < 300


@MODES
def test_job_is_deleted_after_execution_timeout(cluster, trainer, train, deferrable, capfd):
    run = train(nodes(cluster, deferrable=deferrable), "retries=0, execution_timeout=timedelta(seconds=15)")
    assert run.states() == {"train": "failed"}
    trainer.wait_until_empty()


def test_step_that_cannot_use_several_nodes_submits_nothing(cluster, trainer, train, capfd):
    run = train(nodes(cluster), "retries=3", trainer='SklearnTrainer("sklearn.svm.SVR")')
    failed(run, capfd.readouterr().out, "SpecError: Pod(nodes=2)", "TorchTrainer")
    assert tries(run) == 1
    assert trainer.jobs() == []


def test_job_that_kubernetes_refuses_is_a_final_error(cluster, trainer, train, capfd):
    run = train(nodes(cluster, labels={"a": "not a label!"}), "retries=3")
    logged = capfd.readouterr().out
    failed(run, logged, "SpecError: ", "not a label!")
    assert tries(run) == 1


def test_missing_rights_are_a_final_error(cluster, trainer, train, capfd):
    if "airflow" not in cluster.contexts:
        pytest.skip("the cluster has no user 'airflow'")
    run = train(nodes(cluster, namespace="default"), "retries=3")
    failed(run, capfd.readouterr().out, "ComputeError: Kubernetes refuses", "'default'", "Running on Kubernetes")


@MODES
def test_api_server_that_refuses_and_drops_requests_has_no_effect(cluster, trainer, train, deferrable, tmp_path):
    def act() -> None:
        job = trainer.job()
        trainer.wait_for_end(trainer.run_node(job, 0, ["sleep", "3"]))
        trainer.store_result(job)
        trainer.complete(job)

    context = "airflow" if "airflow" in cluster.contexts else cluster.contexts[0]
    with FaultyApi(cluster.kubeconfig, context, tmp_path) as api, playing(trainer, act):
        extra = {"kube_config_path": str(api.kubeconfig), "cluster_context": context, "namespace": cluster.namespace}
        connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
        run = train(nodes(cluster, deferrable=deferrable), connection=connection)
    assert run.states() == {"train": "success"}
    assert set(api.faults) == {"429", "500", "drop", "lose"}, api.seen
    trainer.wait_until_empty()


# With a real scheduler, triggerer and workers, which the tests kill.


@pytest.fixture
def start(cluster, airflow) -> Callable[..., tuple[str, str]]:
    def go(pod: str, arguments: str = "") -> tuple[str, str]:
        dag_id, source = dag(cluster, pod, arguments)
        (airflow.dags / f"{dag_id}.py").write_text(textwrap.dedent(source))
        return dag_id, airflow.trigger(dag_id)

    return go


def test_retry_finds_the_job_of_a_worker_that_died(cluster, trainer, airflow, start):
    dag_id, run_id = start(nodes(cluster, deferrable=False), "retries=1")
    job = trainer.job()
    assert airflow.kill_tasks() >= 2
    logs = airflow.home / "logs" / f"dag_id={dag_id}"
    found_it = "an earlier try submitted"
    airflow.until(
        lambda: any(found_it in file.read_text() for file in logs.rglob("attempt=2.log")),
        "the retry finds the TrainJob",
    )
    assert [found["metadata"]["uid"] for found in trainer.jobs()] == [job["metadata"]["uid"]]
    trainer.store_result(job)
    trainer.complete(job)
    airflow.wait_for_success(dag_id, run_id)
    assert airflow.task_instances(dag_id, run_id)[0]["try_number"] == 2


def test_next_triggerer_waits_for_the_job_of_one_that_died(cluster, trainer, airflow, start):
    dag_id, run_id = start(nodes(cluster, deferrable=True), "retries=0")
    job = trainer.job()
    airflow.until_deferred(dag_id, run_id, "train")
    airflow.kill("triggerer")
    airflow.start("triggerer")
    trainer.store_result(job)
    trainer.complete(job)
    airflow.wait_for_success(dag_id, run_id, timeout=180)


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
def test_job_is_deleted_when_the_task_is_marked_failed(cluster, trainer, airflow, start, deferrable):
    dag_id, run_id = start(nodes(cluster, deferrable=deferrable))
    trainer.run_node(trainer.job(), 0, ["sleep", "600"])
    if deferrable:
        airflow.until_deferred(dag_id, run_id, "train")
    airflow.fail(dag_id, run_id, "train")
    trainer.wait_until_empty()
    cluster.wait_until_empty(180)
    assert airflow.task_instances(dag_id, run_id)[0]["state"] == "failed"
