"""What several nodes become: a TrainJob that holds all that a user wrote, and errors that say what went wrong."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from airflow_mlops.compute import Pod, from_text
from airflow_mlops.compute.kubernetes.train_jobs import state
from airflow_mlops.compute.kubernetes.train_jobs.manifest import pod_template
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.errors import ComputeError, MemoryLimitError, NoCapacityError, SpecError

NOW = 1_000_000.0


def call(trainer: str = "torch", step: str = "train", key: str = "results/k.json", **provenance) -> StepCall:
    return StepCall(
        step=step,
        spec={"trainer": {"kind": trainer}},
        store="file:///s",
        key=key,
        version="1",
        provenance=Provenance(dag_id="The_DAG", task_id="train", **provenance),
    )


def planned(pod: Pod, of: StepCall | None = None, states: dict | None = None, folder: str = "/"):
    from airflow_mlops.compute.kubernetes.train_jobs.run import StepTrainJob

    ti = SimpleNamespace(dag_id="The_DAG", task_id="train", run_id="run 1", map_index=3, start_date=None)
    task = SimpleNamespace(execution_timeout=None)
    context = {"ti": ti, "task": task, "dag": SimpleNamespace(folder=folder), "task_state_store": states}
    return StepTrainJob.for_step(pod, of or call(), context, logging.getLogger(__name__))


def submitted(*arguments, **further) -> dict:
    """The TrainJob that a task would submit."""
    return planned(*arguments, **further).job


def env(job: dict) -> dict:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in job["spec"]["trainer"]["env"]}


# What it holds


def test_each_node_is_the_pod_that_one_node_would_be():
    from kubernetes.client import models as k8s

    affinity = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]
        }
    }
    job = submitted(
        Pod(
            image="i:1", nodes=3, runtime="ours", gpus=2, cpu=4, memory="8Gi", namespace="n", service_account="s",
            node_selector={"disk": "ssd"}, tolerations=[k8s.V1Toleration(key="gpu", operator="Exists")],
            affinity=affinity, env={"A": "1"}, secrets={"T": "s/k"}, image_pull_secrets=["r"], active_deadline=9,
            volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}], termination_grace=60,
            volume_mounts=[{"name": "v", "mountPath": "/v"}], labels={"l": "1"}, annotations={"a": "1"},
        )
    )  # fmt: skip
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"]["namespace"] == "n"
    assert job["spec"]["runtimeRef"]["name"] == "ours"
    assert job["spec"]["activeDeadlineSeconds"] == 9
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["image"]) == (3, "i:1")
    assert trainer["command"] == ["python", "-m", "airflow_mlops.stages"]
    amounts = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "2"}
    assert trainer["resourcesPerNode"] == {"limits": amounts, "requests": amounts}
    assert env(job)["A"] == "1"
    assert env(job)["T"] == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert env(job)["MLOPS_POD"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert StepCall.model_validate_json(env(job)["MLOPS_CALL"]) == call()
    for metadata in (job["metadata"], pod_template(job)["metadata"]):
        assert metadata["annotations"] == {"a": "1"}
        assert (
            metadata["labels"].items() >= {"l": "1", "dag_id": "The_DAG", "task_id": "train", "map_index": "3"}.items()
        )
        assert metadata["labels"]["run_id"].startswith("run")
        assert len(metadata["labels"]["airflow-mlops/call"]) == 16
    spec = pod_template(job)["spec"]
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["affinity"] == affinity
    assert spec["serviceAccountName"] == "s"
    assert spec["imagePullSecrets"] == [{"name": "r"}]
    assert spec["terminationGracePeriodSeconds"] == 60
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert {"name": "v", "persistentVolumeClaim": {"claimName": "c"}} in spec["volumes"]
    (node,) = spec["containers"]
    assert node["name"] == "node"
    assert {mount["mountPath"] for mount in node["volumeMounts"]} == {"/dev/shm", "/v"}
    assert node["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_template_is_under_it(tmp_path):
    (tmp_path / "pod.yaml").write_text(
        json.dumps(
            {
                "metadata": {"name": "mine", "labels": {"team": "growth"}},
                "spec": {
                    "tolerations": [{"key": "spot"}],
                    "containers": [
                        {"name": "step", "image": "i", "args": ["-v"], "env": [{"name": "B", "value": "2"}]}
                    ],
                },
            }
        )
    )
    job = submitted(Pod(nodes=2, pod_template_file="pod.yaml", memory="1Gi"), folder=str(tmp_path))
    assert job["spec"]["trainer"]["image"] == "i"
    assert job["spec"]["trainer"]["args"] == ["-v"]
    assert env(job)["B"] == "2"
    assert job["metadata"]["labels"]["team"] == "growth"
    assert job["metadata"]["name"] != "mine"
    assert pod_template(job)["spec"]["tolerations"] == [{"key": "spot"}]
    assert [item["name"] for item in pod_template(job)["spec"]["containers"]] == ["node"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"containers": [{"name": "base"}, {"name": "proxy", "image": "p"}]}, "spec.containers[1].image"),
        ({"containers": [{"name": "base", "livenessProbe": {"periodSeconds": 1}}]}, "spec.containers[0].livenessProbe"),
        ({"hostNetwork": True}, "spec.hostNetwork"),
        ({"restartPolicy": "OnFailure"}, "spec.restartPolicy"),
        ({"automountServiceAccountToken": False}, "spec.automountServiceAccountToken"),
        ({"initContainers": [{"name": "init", "image": "i"}]}, "spec.initContainers[0].image"),
    ],
)
def test_what_a_template_says_and_a_train_job_has_no_place_for_is_named(tmp_path, spec, field):
    path = tmp_path / "pod.yaml"
    path.write_text(json.dumps({"spec": spec}))
    with pytest.raises(SpecError) as error:
        submitted(Pod(image="i", nodes=2, runtime="ours", pod_template_file=str(path)))
    assert f"has no place for {field!r}: put it into the training runtime 'ours'" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_from": ["connections"]}, "'spec.containers[0].envFrom': .* or name single keys in secrets="),
        ({"runtime_class": "nvidia"}, "runtimeClassName"),
        ({"priority_class": "high"}, "priorityClassName"),
        ({"image_pull_policy": "Always"}, "imagePullPolicy"),
    ],
)
def test_what_is_said_and_a_train_job_has_no_place_for_is_found_when_the_dag_is_parsed(options, message):
    Pod(image="i", **options)
    with pytest.raises(SpecError, match=message.replace("[0]", r"\[0\]")):
        Pod(image="i", nodes=2, **options)


@pytest.mark.parametrize("nodes", [0, -1])
def test_fewer_than_one_node_is_a_mistake(nodes):
    with pytest.raises(SpecError, match="one node or more"):
        Pod(image="i", nodes=nodes)


@pytest.mark.parametrize("of", [call("sklearn"), call("function"), call(step="evaluate")], ids=str)
def test_only_a_torch_trainer_uses_several_nodes(of):
    with pytest.raises(SpecError, match="trains a TorchTrainer on several nodes"):
        submitted(Pod(image="i", nodes=2), of)


def test_its_name_is_that_of_the_call():
    pod = Pod(image="i", nodes=2)
    name = submitted(pod)["metadata"]["name"]
    assert name == submitted(pod, call(try_number=2))["metadata"]["name"]
    assert name != submitted(pod, call(key="results/other.json"))["metadata"]["name"]
    assert name.startswith("the-dag-train-")
    long = submitted(pod, call().model_copy(update={"provenance": Provenance(dag_id="1" * 200, task_id="t")}))
    # As the host name of a node, ``-node-0-999`` and five random letters follow.
    assert len(long["metadata"]["name"]) <= 63 - len("-node-0-999-abcde")
    assert long["metadata"]["name"][0].isalpha()


def test_more_memory_is_asked_for_after_it_was_wanting():
    job = submitted(Pod(image="i", nodes=2, memory="1Gi"), states={"mlops_memory_factor": 4})
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"memory": "4Gi"}


def test_a_value_of_another_type_is_an_error():
    with pytest.raises(SpecError):
        submitted(Pod(image="i", nodes=2, node_selector={"cores": 4}))


def test_a_field_that_the_cluster_leaves_out_is_an_error_and_nothing_stays(monkeypatch):
    """As the API server does, without a word, with what an older Kubeflow Trainer does not know."""
    from airflow_mlops.compute.kubernetes.train_jobs.api import TrainJobApi

    def older(self, job):
        made = json.loads(json.dumps(job))
        del made["spec"]["runtimePatches"]
        return made

    deleted = []
    monkeypatch.setattr(TrainJobApi, "get", lambda self: None)
    monkeypatch.setattr(TrainJobApi, "create", older)
    monkeypatch.setattr(TrainJobApi, "delete", lambda self, how: deleted.append(self.name))
    step = planned(Pod(image="i", nodes=2, namespace="n"))
    with pytest.raises(SpecError, match=r"knows no field 'spec.runtimePatches' of a TrainJob: it takes 2.3 or newer"):
        step.watch({}, None)
    assert deleted == [step.job["metadata"]["name"]]


def test_rendered_fields_show_it_and_mask_what_is_named_as_a_secret():
    from airflow.sdk._shared.secrets_masker import redact

    shown = Pod(image="i", nodes=2, env={"LEVEL": "9", "DB_PASSWORD": "hunter2"}).serialize()
    assert shown["kind"] == "TrainJob"
    assert shown["spec"]["trainer"]["numNodes"] == 2
    text = json.dumps(redact(shown, "run_on"))
    assert "hunter2" not in text
    assert '"LEVEL": "9"' in text


def test_a_place_of_several_nodes_is_written_as_text():
    assert from_text('{"Pod": {"image": "i", "nodes": 2}}').nodes == 2


def test_parsing_and_showing_it_imports_no_kubernetes():
    code = """
import sys
from airflow.sdk import DAG
from airflow_mlops.compute import Pod
from airflow_mlops.operators import TrainOperator
with DAG("d") as dag:
    TrainOperator(task_id="t", dataset={}, model="m", trainer={"kind": "torch"}, run_on=Pod(image="i", nodes=2))
assert dag.get_task("t").run_on.serialize()["kind"] == "TrainJob"
print([name for name in sys.modules if name.startswith(("kubernetes", "kubeflow"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


# What it says


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


def test_a_condition_that_does_not_hold_is_none():
    said = job(("Failed", "r", "m"))
    assert state.ended(said)
    said["status"]["conditions"][0]["status"] = "False"
    assert not state.ended(said)
    assert not state.ended({"metadata": {}})
    assert state.ended(job(("Complete", "r", "m")))
    assert not state.ended(job(("Suspended", "r", "m")))


@pytest.mark.parametrize("label", [False, True])
def test_node_0_is_found_by_its_index_and_the_newest_of_its_pods_counts(label):
    pods = [node(1, label=label), node(0, 9, "old", label=label), node(0, 1, "new", label=label)]
    assert state.first_node(pods)["metadata"]["name"] == "new"
    assert state.first_node(pods[:1]) is None


def test_a_failure_without_pods_is_the_jobs_own_word():
    error = state.failure(job(("Failed", "FailedJobs", "jobset failed")), [])
    assert (type(error), error.retryable) == (ComputeError, True)
    assert str(error) == "TrainJob n/j failed: FailedJobs: jobset failed."


def test_the_node_that_ran_out_of_memory_explains_the_others():
    pods = [node(0, **over(1, message="connection reset")), node(1, **over(137, "OOMKilled"))]
    error = state.failure(job(("Failed", "FailedJobs", "jobset failed")), pods)
    assert type(error) is MemoryLimitError
    assert "j-node-0-1" in str(error)
    assert "the limit is 1Gi" in str(error)
    assert str(error).endswith("(TrainJob n/j failed: FailedJobs: jobset failed)")


def test_a_node_that_was_evicted_explains_the_others():
    pods = [node(0, **over(1)), node(1, phase="Failed", reason="Evicted", message="The node was low on memory.")]
    assert "was ended by the cluster: Evicted" in str(state.failure(job(("Failed", "r", "m")), pods))


def test_a_container_that_is_started_again_tells_how_it_ended_before():
    statuses = over(137, "OOMKilled")["containerStatuses"]
    statuses[0]["lastState"] = statuses[0]["state"]
    statuses[0]["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    pod = node(0, phase="Running", containerStatuses=statuses)
    assert isinstance(state.failure(job(("Failed", "r", "m")), [pod]), MemoryLimitError)


def test_the_error_of_the_step_keeps_its_type():
    said = json.dumps({"error": "DatasetNotFoundError", "message": "There is none."})
    error = state.failure(job(("Failed", "r", "m")), [node(1, **over(1)), node(0, **over(1, message=said))])
    assert type(error).__name__ == "DatasetNotFoundError"
    assert not error.retryable


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable", "sentence"),
    [
        (404, "404 page not found\n", ComputeError, False, "Kubeflow Trainer is not installed"),
        (404, '{"message": "namespaces \\"n\\" not found", "details": {"kind": "namespaces"}}', SpecError, False, "namespaces"),
        (422, '{"message": "spec is wrong"}', SpecError, False, "does not accept the TrainJob: spec is wrong"),
        (403, '{"message": "admission webhook \\"v\\" denied the request: no runtime"}', SpecError, False, "no runtime"),
        (403, '{"message": "user cannot create"}', ComputeError, False, "Grant Airflow the Role"),
        (403, '{"message": "exceeded quota: q"}', NoCapacityError, True, "quota"),
        (500, '{"message": "boom"}', ComputeError, True, "answers 500: boom"),
    ],
)  # fmt: skip
def test_refusals(status, body, kind, retryable, sentence):
    error = state.refused(status, body, "n")
    assert (type(error), error.retryable) == (kind, retryable)
    assert sentence in str(error)


def watch(**options) -> state.Watch:
    return state.Watch(**{"since": NOW, "schedule_timeout": 10, "startup_timeout": 20, **options})


def test_a_job_that_nobody_touches_is_given_up_after_schedule_timeout():
    assert watch().gives_up(job(), [], NOW + 10) is None
    error = watch().gives_up(job(), [], NOW + 11, ["TrainJobResourcesCreationFailed: no runtime"])
    assert type(error) is ComputeError
    assert "perhaps no Kubeflow Trainer controller runs" in str(error)
    assert "'torch-distributed'. The cluster says: TrainJobResourcesCreationFailed: no runtime" in str(error)


def test_a_job_that_is_suspended_waits_for_capacity():
    error = watch().gives_up(job(("Suspended", "Suspended", "TrainJob is suspended")), [], NOW + 11)
    assert type(error) is NoCapacityError


def test_a_job_whose_pods_are_gone_after_they_ran_is_not_given_up():
    counts = {"name": "node", "active": 0, "ready": 0, "succeeded": 0, "failed": 1, "suspended": 0}
    assert watch().gives_up(job(jobsStatus=[counts]), [], NOW + 999) is None


def test_a_pod_without_a_node_is_given_up_after_schedule_timeout():
    unscheduled = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]
    pods = [node(0, phase="Running"), node(1, on=None, phase="Pending", conditions=unscheduled)]
    assert watch().gives_up(job(), pods, NOW + 10) is None
    error = watch().gives_up(job(), pods, NOW + 11)
    assert type(error) is NoCapacityError
    assert "0/1 nodes are available" in str(error)


def test_a_pod_that_is_young_or_whose_job_was_found_late_is_not_given_up():
    pods = [node(0, age=-50, on=None, phase="Pending")]
    assert watch().gives_up(job(), pods, NOW + 60) is None
    pods = [node(0, age=500, on=None, phase="Pending")]
    assert watch().gives_up(job(), pods, NOW + 10) is None


def test_a_pod_on_its_node_has_startup_timeout_as_well():
    pods = [node(0, phase="Pending")]
    assert watch().gives_up(job(), pods, NOW + 30) is None
    assert "did not start within startup_timeout" in str(watch().gives_up(job(), pods, NOW + 31))


def test_a_pod_that_never_starts_is_given_up_once_it_stays_so():
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}
    hopeless = [node(0, phase="Pending", containerStatuses=[{"name": "node", "state": waiting}])]
    one = watch()
    assert one.gives_up(job(), hopeless, NOW) is None
    assert one.gives_up(job(), [node(0, phase="Running")], NOW + 3) is None
    assert one.gives_up(job(), hopeless, NOW + 6) is None
    assert isinstance(one.gives_up(job(), hopeless, NOW + 11), SpecError)


def test_progress():
    assert state.progress(job(), []) == "has no pods yet"
    assert state.progress(job(("Suspended", "r", "m")), []) == "is suspended"
    pods = [node(0, phase="Running"), node(1, phase="Pending"), node(2, phase="Running")]
    assert state.progress(job(), pods) == "has pods: 1 pending, 2 running"


# The trigger


def test_the_trigger_is_made_again_from_what_is_stored():
    from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

    trigger = TrainJobTrigger("j", "n", "kubernetes_default", NOW, 10, 20, deadline=NOW + 5)
    path, arguments = trigger.serialize()
    assert path == "airflow_mlops.compute.kubernetes.train_jobs.trigger.TrainJobTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    assert {"name": "j", "namespace": "n", "since": NOW, "deadline": NOW + 5}.items() <= arguments.items()
    assert (arguments["schedule_timeout"], arguments["startup_timeout"]) == (10, 20)
    assert TrainJobTrigger(**arguments).serialize() == (path, arguments)


class Cluster:
    """Answers the trigger's requests with what it is given, in order."""

    def __init__(self, monkeypatch, *answers):
        from kubernetes_asyncio import client

        from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

        self.answers = list(answers)
        self.asked = []
        monkeypatch.setattr(TrainJobTrigger, "_hook", lambda _: SimpleNamespace(get_conn=self.connection))
        self.connected = SimpleNamespace(sanitize_for_serialization=lambda pod: pod)
        jobs = SimpleNamespace(get_namespaced_custom_object=self.answer, delete_namespaced_custom_object=self.answer)
        monkeypatch.setattr(client, "CustomObjectsApi", lambda _: jobs)
        monkeypatch.setattr(client, "CoreV1Api", lambda _: SimpleNamespace(list_namespaced_pod=self.pods))

        async def at_once(*_):
            pass

        monkeypatch.setattr("asyncio.sleep", at_once)

    @asynccontextmanager
    async def connection(self):
        yield self.connected

    async def pods(self, *_, **__):
        return SimpleNamespace(items=[])

    async def answer(self, *arguments, **further):
        self.asked.append((arguments, further))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def fired(**options) -> dict:
    import asyncio

    from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

    arguments = {"since": time.time(), "schedule_timeout": 10, "startup_timeout": 20, **options}
    trigger = TrainJobTrigger("j", "n", "kubernetes_default", **arguments)

    async def first():
        return await anext(trigger.run())

    return asyncio.run(first()).payload


def api_error(status: int) -> Exception:
    from kubernetes_asyncio.client.exceptions import ApiException

    return ApiException(status=status)


def test_the_trigger_asks_again_where_the_cluster_does_not_answer(monkeypatch):
    from aiohttp import ServerDisconnectedError

    answers = [
        api_error(429),
        ServerDisconnectedError(),
        job(),
        api_error(500),
        api_error(503),
        job(("Complete", "r", "m")),
    ]
    cluster = Cluster(monkeypatch, *answers)
    event = fired()
    assert (event["status"], event["name"], event["namespace"]) == ("look", "j", "n")
    assert cluster.answers == []


def test_the_trigger_says_what_keeps_it_from_asking(monkeypatch):
    Cluster(monkeypatch, api_error(403))
    event = fired()
    assert event["status"] == "error"
    assert "403" in event["message"]


@pytest.mark.parametrize(
    ("answer", "options", "status"),
    [
        (api_error(404), {}, "look"),
        (job(("Failed", "r", "m")), {}, "look"),
        (job(), {"since": 0}, "look"),
        (job(), {"deadline": 0}, "timeout"),
    ],
    ids=["gone", "failed", "never began", "too long"],
)
def test_the_trigger_fires_when_there_is_something_to_see(monkeypatch, answer, options, status):
    Cluster(monkeypatch, answer)
    assert fired(**options)["status"] == status


def test_the_trigger_deletes_the_job_of_a_task_that_a_user_ends_and_of_no_other(monkeypatch):
    import asyncio

    from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

    cluster = Cluster(monkeypatch, api_error(500), {})
    trigger = TrainJobTrigger("j", "n", "kubernetes_default", NOW, 10, 20)
    asyncio.run(trigger.cleanup())
    assert cluster.asked == []
    asyncio.run(trigger.on_kill())
    assert cluster.asked[-1] == (
        ("trainer.kubeflow.org", "v1alpha1", "n", "trainjobs", "j"),
        {"propagation_policy": "Background"},
    )
    assert cluster.answers == []
