"""What a ``Pod(...)`` becomes: nothing that a user wrote vanishes, and what is usual is safe."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.compute import Pod, Process, Worker, from_text
from airflow_mlops.compute.kubernetes.manifest import grown, in_bytes, losses, main_container, merge, times
from airflow_mlops.core.errors import SpecError


def container(pod: dict) -> dict:
    return pod["spec"]["containers"][0]


# Merging

names = st.sampled_from(["a", "b", "c"])
json_values = st.recursive(
    st.integers() | st.text("xyz", max_size=2),
    lambda inner: (
        st.dictionaries(names, inner, max_size=3)
        | st.lists(
            st.fixed_dictionaries({"name": names}, optional={"value": inner}), unique_by=lambda item: item["name"]
        )
    ),
    max_leaves=8,
)


def leaves(value, path=()):
    """Every value in a tree, with its path; things in lists by their names."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, (*path, item["name"]))
    else:
        yield path, value


def subtrees(value, path=()):
    yield path, type(value)
    for key, item in (
        value.items() if isinstance(value, dict) else [(i["name"], i) for i in value] if isinstance(value, list) else ()
    ):
        yield from subtrees(item, (*path, key))


@given(st.dictionaries(st.sampled_from(["containers", "volumes", "env"]), json_values, max_size=3), st.data())
def test_a_merge_keeps_all_of_what_is_on_top_and_whatever_below_it_does_not_contradict(base, data):
    over = data.draw(st.dictionaries(st.sampled_from(["containers", "volumes", "env"]), json_values, max_size=3))
    before = json.dumps([base, over])
    merged = merge(base, over)
    found = dict(leaves(merged))
    for path, value in leaves(over):
        assert found[path] == value
    # What lies below survives unless something on top of it is of another kind.
    above = dict(subtrees(over))
    below = dict(subtrees(base))
    for path, value in leaves(base):
        prefixes = [path[:n] for n in range(len(path) + 1)]
        if path not in dict(leaves(over)) and all(above.get(p, below[p]) == below[p] for p in prefixes):
            assert found[path] == value
    assert json.dumps([base, over]) == before


def test_a_template_keeps_its_sidecars_volumes_and_settings_under_what_is_said():
    template = {
        "metadata": {"labels": {"team": "growth"}, "annotations": {"a": "1"}},
        "spec": {
            "securityContext": {"runAsUser": 7},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [
                {"name": "proxy", "image": "proxy:1"},
                {
                    "name": "base",
                    "image": "old:1",
                    "env": [{"name": "A", "value": "template"}, {"name": "B", "value": "template"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                },
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }
    pod = Pod(
        image="new:2",
        labels={"cost": "ml"},
        env={"A": "said"},
        tolerations=[{"key": "spot", "operator": "Exists"}],
        volumes=[{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}],
        volume_mounts=[{"name": "cache", "mountPath": "/cache"}],
    ).manifest(template)
    base = container(pod)
    assert base["image"] == "new:2"
    assert {item["name"]: item.get("value") for item in base["env"]}.items() >= {"A": "said", "B": "template"}.items()
    assert {mount["mountPath"] for mount in base["volumeMounts"]} == {"/data", "/cache", "/dev/shm"}
    assert pod["spec"]["containers"][1] == {"name": "proxy", "image": "proxy:1"}
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {"data", "cache", "shared-memory"}
    assert {item["key"] for item in pod["spec"]["tolerations"]} == {"gpu", "spot"}
    assert pod["metadata"]["labels"] == {"team": "growth", "cost": "ml"}
    assert pod["spec"]["securityContext"]["runAsUser"] == 7
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_a_template_may_undo_what_is_usual_and_name_its_container_otherwise():
    template = {"spec": {"securityContext": {"runAsNonRoot": False}, "containers": [{"name": "step"}]}}
    pod = Pod(image="i").manifest(template)
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is False
    assert main_container(pod) == "step"
    assert len(pod["spec"]["containers"]) == 1


# What is said


def test_what_is_usual_is_safe():
    spec = Pod(image="i").manifest({})["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container({"spec": spec})["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_memory_is_a_limit_and_cpu_is_not_unless_there_are_gpus():
    assert container(Pod(image="i", cpu=2, memory="8Gi").manifest({}))["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi"},
        "limits": {"memory": "8Gi"},
    }
    resources = container(Pod(image="i", cpu="500m", memory="8Gi", gpus=2).manifest({}))["resources"]
    assert resources["limits"] == resources["requests"] == {"cpu": "500m", "memory": "8Gi", "nvidia.com/gpu": "2"}


def test_gpus_of_another_kind_are_asked_for_by_their_name():
    resources = container(Pod(image="i", gpus=1, gpu_resource="amd.com/gpu").manifest({}))["resources"]
    assert resources["limits"] == {"amd.com/gpu": "1"}


def test_shared_memory_is_half_of_the_memory():
    (volume,) = Pod(image="i", memory="8Gi").manifest({})["spec"]["volumes"]
    assert volume == {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}


def test_secrets_are_references():
    base = container(Pod(image="i", secrets={"TOKEN": "mlops/token"}, env_from=["connections"]).manifest({}))
    assert {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "mlops", "key": "token"}}} in base["env"]
    assert base["envFrom"] == [{"secretRef": {"name": "connections"}}]


def test_a_service_account_that_is_named_gets_its_token():
    spec = Pod(image="i", service_account="trainer").manifest({})["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("trainer", True)


def test_objects_of_the_kubernetes_client_are_taken_as_they_are():
    from kubernetes.client import models as k8s

    pod = Pod(
        image="i",
        tolerations=[k8s.V1Toleration(key="gpu", operator="Exists", toleration_seconds=5)],
        volumes=[k8s.V1Volume(name="v", host_path=k8s.V1HostPathVolumeSource(path="/v"))],
        env_from=[k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name="settings"))],
    ).manifest({})
    assert pod["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}]
    assert {"name": "v", "hostPath": {"path": "/v"}} in pod["spec"]["volumes"]
    assert container(pod)["envFrom"] == [{"configMapRef": {"name": "settings"}}]


def test_every_field_reaches_the_kubernetes_client():
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import ApiClient

    pod = Pod(
        image="i", gpus=1, cpu=1, memory="1Gi", namespace="n", service_account="s", node_selector={"disk": "ssd"},
        tolerations=[{"operator": "Exists"}], affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["x"]}]}]}}},
        runtime_class="nvidia", priority_class="high", env={"A": "1"}, env_from=["s"], secrets={"T": "s/k"},
        volumes=[{"name": "v", "emptyDir": {}}], volume_mounts=[{"name": "v", "mountPath": "/v"}], labels={"l": "1"},
        annotations={"a": "1"}, image_pull_policy="Always", image_pull_secrets=["r"], active_deadline=9,
    ).manifest({})  # fmt: skip
    known = ApiClient().sanitize_for_serialization(PodGenerator.deserialize_model_dict(pod))
    assert losses(pod, known) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs an image"),
        ({"image": "i", "memory": "8 GB"}, "no amount that Kubernetes knows"),
        ({"image": "i", "grow_memory": 0.5}, "would shrink"),
        ({"image": "i", "secrets": {"T": "token"}}, "'secret/key'"),
    ],
)
def test_mistakes_are_found_when_the_dag_is_parsed(arguments, message):
    with pytest.raises(SpecError, match=message):
        Pod(**arguments)


# What Airflow shows


def test_rendered_fields_show_what_will_run_and_mask_what_is_named_as_a_secret():
    from airflow.sdk._shared.secrets_masker import redact

    shown = Pod(image="i", gpus=1, env={"LEVEL": "9", "DB_PASSWORD": "hunter2"}).serialize()
    assert container(shown)["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    text = json.dumps(redact(shown, "run_on"))
    assert "hunter2" not in text
    assert '"LEVEL": "9"' in text


def test_the_same_machine_for_the_kubernetes_executor_keeps_airflows_image_and_command():
    pod = Pod(image="i", gpus=1, memory="8Gi", node_selector={"gpu": "a100"}, env={"A": "1"}).executor_config()
    spec = pod["pod_override"].spec
    assert spec.node_selector == {"gpu": "a100"}
    (base,) = spec.containers
    assert base.name == "base"
    assert base.resources.limits == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    assert base.image is None
    assert base.command is None
    assert spec.service_account_name is None


def test_parsing_a_dag_of_pods_imports_no_kubernetes(tmp_path):
    code = """
import sys
from airflow.sdk import DAG
from airflow_mlops.compute import Pod
from airflow_mlops.operators import TrainOperator
with DAG("d", default_args={"run_on": Pod(image="i", gpus=1)}) as dag:
    TrainOperator.partial(task_id="t", dataset={}, model="m").expand(trainer=[{"estimator": "sklearn.svm.SVR"}])
    TrainOperator(task_id="u", dataset={}, model="m", trainer={"estimator": "sklearn.svm.SVR"})
assert dag.get_task("u").run_on.gpus == 1
print([name for name in sys.modules if name.startswith(("kubernetes", "airflow.providers.cncf.kubernetes.operators"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


# Places as text


def test_a_place_is_written_as_text():
    assert isinstance(from_text("Worker"), Worker)
    process = from_text('{"Process": {"python": "/opt/ml/bin/python"}}')
    assert isinstance(process, Process)
    pod = from_text('{"Pod": {"image": "i", "memory": "4Gi"}}')
    assert isinstance(pod, Pod)
    assert (pod.image, pod.memory) == ("i", "4Gi")


@pytest.mark.parametrize("text", ["Cloud", "{", '{"Pod": {"picture": "i"}}', '{"Pod": {}}', "[]"])
def test_text_that_names_no_place_is_refused(text):
    with pytest.raises(SpecError):
        from_text(text)


def test_the_setting_moves_operators_that_do_not_say(monkeypatch):
    from airflow_mlops.operators import IngestOperator

    monkeypatch.setenv("AIRFLOW__MLOPS__RUN_ON", '{"Pod": {"image": "i"}}')
    assert isinstance(IngestOperator(task_id="a", name="n", files="f").run_on, Pod)
    assert isinstance(IngestOperator(task_id="a", name="n", files="f", run_on=Worker()).run_on, Worker)


# Amounts


@pytest.mark.parametrize(
    ("text", "amount"), [("1", 1), ("2Ki", 2048), ("1.5Gi", 1.5 * 2**30), ("3M", 3e6), ("1k", 1000), ("1Ti", 2**40)]
)
def test_amounts_of_memory(text, amount):
    assert in_bytes(text) == amount
    assert in_bytes(times(text, 2)) == 2 * amount


def test_memory_grows_in_the_container_that_runs_the_step_only():
    template = {
        "spec": {"containers": [{"name": "proxy", "resources": {"limits": {"memory": "1Gi"}}}, {"name": "base"}]}
    }
    pod = grown(Pod(image="i", memory="3Gi").manifest(template), 2)
    assert container(pod)["resources"] == {"limits": {"memory": "6Gi"}, "requests": {"memory": "6Gi"}}
    assert pod["spec"]["containers"][1]["resources"] == {"limits": {"memory": "1Gi"}}
