"""The TrainJob of ``Pod(nodes=...)``: every field arrives, or is named in an error."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest

from airflow_mlops.compute import Pod, from_text
from airflow_mlops.compute.kubernetes.manifest.train_job import pod_template
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.calls import call_key


def call(trainer: str = "torch", step: str = "train", key: str = "results/k.json", **provenance) -> StepCall:
    return StepCall(
        step=step,
        spec={"trainer": {"kind": trainer}},
        store="file:///s",
        key=key,
        version="1",
        provenance=Provenance(dag_id="The_DAG", task_id="train", **provenance),
    )


def planned(pod: Pod, step: StepCall | None = None, states: dict | None = None, folder: str = "/"):
    from airflow_mlops.compute.kubernetes.train_jobs.job import StepTrainJob

    ti = SimpleNamespace(dag_id="The_DAG", task_id="train", run_id="run 1", map_index=3, start_date=None)
    task = SimpleNamespace(execution_timeout=None)
    context = {"ti": ti, "task": task, "dag": SimpleNamespace(folder=folder), "task_state_store": states}
    return StepTrainJob.for_step(pod, step or call(), context, logging.getLogger(__name__))


def submitted(*arguments, **further) -> dict:
    """The TrainJob that a task would submit."""
    return planned(*arguments, **further).job


def env(job: dict) -> dict:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in job["spec"]["trainer"]["env"]}


def test_each_node_is_the_same_pod_as_without_nodes():
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
    assert env(job)["MLOPS_CALL_STORE"] == call().store
    assert env(job)["MLOPS_CALL_KEY"] == call_key(call())
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


def test_template_is_merged(tmp_path):
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
def test_field_of_a_template_that_a_train_job_does_not_have_is_named(tmp_path, spec, field):
    path = tmp_path / "pod.yaml"
    path.write_text(json.dumps({"spec": spec}))
    with pytest.raises(SpecError) as error:
        submitted(Pod(image="i", nodes=2, runtime="ours", pod_template_file=str(path)))
    assert repr(field) in str(error.value)
    assert "'ours'" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_from": ["connections"]}, "'spec.containers[0].envFrom'.*secrets="),
        ({"runtime_class": "nvidia"}, "runtimeClassName"),
        ({"priority_class": "high"}, "priorityClassName"),
        ({"image_pull_policy": "Always"}, "imagePullPolicy"),
    ],
)
def test_field_of_a_pod_that_a_train_job_does_not_have_is_an_error_when_the_dag_is_parsed(options, message):
    Pod(image="i", **options)
    with pytest.raises(SpecError, match=message.replace("[0]", r"\[0\]")):
        Pod(image="i", nodes=2, **options)


@pytest.mark.parametrize("nodes", [0, -1])
def test_fewer_than_one_node_is_an_error(nodes):
    with pytest.raises(SpecError, match=f"nodes={nodes}"):
        Pod(image="i", nodes=nodes)


@pytest.mark.parametrize(
    "step", [call("sklearn"), call("function"), call(step="evaluate")], ids=["sklearn", "function", "evaluate"]
)
def test_only_a_torch_trainer_uses_several_nodes(step):
    with pytest.raises(SpecError, match=r"nodes=2.*TorchTrainer"):
        submitted(Pod(image="i", nodes=2), step)


def test_name_depends_on_task_and_call_but_not_on_the_try():
    pod = Pod(image="i", nodes=2)
    name = submitted(pod)["metadata"]["name"]
    assert name == submitted(pod, call(try_number=2))["metadata"]["name"]
    assert name != submitted(pod, call(key="results/other.json"))["metadata"]["name"]
    assert name.startswith("the-dag-train-")
    long = submitted(pod, call().model_copy(update={"provenance": Provenance(dag_id="1" * 200, task_id="t")}))
    # The name of a pod adds ``-node-0-999`` and five random letters.
    assert len(long["metadata"]["name"]) <= 63 - len("-node-0-999-abcde")
    assert long["metadata"]["name"][0].isalpha()


def test_memory_is_multiplied_after_out_of_memory():
    job = submitted(Pod(image="i", nodes=2, memory="1Gi"), states={"mlops_memory_factor": 4})
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"memory": "4Gi"}


def test_value_of_the_wrong_type_is_an_error():
    with pytest.raises(SpecError):
        submitted(Pod(image="i", nodes=2, node_selector={"cores": 4}))


def test_field_that_the_cluster_drops_is_an_error_and_the_job_is_deleted(monkeypatch):
    """The API server silently drops fields that an older Kubeflow Trainer does not know."""
    from airflow_mlops.compute.kubernetes.train_jobs.api import TrainJobApi

    def older(self, job):
        created = json.loads(json.dumps(job))
        del created["spec"]["runtimePatches"]
        return created

    deleted = []
    monkeypatch.setattr(TrainJobApi, "get", lambda self: None)
    monkeypatch.setattr(TrainJobApi, "create", older)
    monkeypatch.setattr(TrainJobApi, "delete", lambda self, how: deleted.append(self.name))
    step = planned(Pod(image="i", nodes=2, namespace="n"))
    with pytest.raises(SpecError, match=r"'spec.runtimePatches'.* 2.3 "):
        step.watch({}, None)
    assert deleted == [step.job["metadata"]["name"]]


def test_rendered_field_shows_the_job_with_secret_looking_values_masked():
    from airflow.sdk._shared.secrets_masker import redact

    shown = Pod(image="i", nodes=2, env={"LEVEL": "9", "DB_PASSWORD": "hunter2"}).serialize()
    assert shown["kind"] == "TrainJob"
    assert shown["spec"]["trainer"]["numNodes"] == 2
    text = json.dumps(redact(shown, "run_on"))
    assert "hunter2" not in text
    assert '"LEVEL": "9"' in text


def test_several_nodes_are_parsed_from_text():
    assert from_text('{"Pod": {"image": "i", "nodes": 2}}').nodes == 2


def test_parsing_and_rendering_import_no_kubernetes_client():
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
