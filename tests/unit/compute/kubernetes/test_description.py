"""``Pod(...)`` as the manifest of a pod: every field arrives, and the defaults are safe."""

from __future__ import annotations

import json

import pytest

from airflow_mlops.compute import Pod
from airflow_mlops.compute.kubernetes.manifest.merging import missing_fields
from airflow_mlops.compute.kubernetes.manifest.pod import main_container
from airflow_mlops.core.errors import SpecError


def container(pod: dict) -> dict:
    return pod["spec"]["containers"][0]


def test_template_keeps_its_sidecars_volumes_and_settings_unless_the_pod_sets_them():
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
        env={"A": "override"},
        tolerations=[{"key": "spot", "operator": "Exists"}],
        volumes=[{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}],
        volume_mounts=[{"name": "cache", "mountPath": "/cache"}],
    ).manifest(template)
    base = container(pod)
    assert base["image"] == "new:2"
    assert {item["name"]: item.get("value") for item in base["env"]}.items() >= {
        "A": "override",
        "B": "template",
    }.items()
    assert {mount["mountPath"] for mount in base["volumeMounts"]} == {"/data", "/cache", "/dev/shm"}
    assert pod["spec"]["containers"][1] == {"name": "proxy", "image": "proxy:1"}
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {"data", "cache", "shared-memory"}
    assert {item["key"] for item in pod["spec"]["tolerations"]} == {"gpu", "spot"}
    assert pod["metadata"]["labels"] == {"team": "growth", "cost": "ml"}
    assert pod["spec"]["securityContext"]["runAsUser"] == 7
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_template_may_change_defaults_and_the_name_of_its_container():
    template = {"spec": {"securityContext": {"runAsNonRoot": False}, "containers": [{"name": "step"}]}}
    pod = Pod(image="i").manifest(template)
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is False
    assert main_container(pod) == "step"
    assert len(pod["spec"]["containers"]) == 1


# Fields


def test_defaults_are_safe():
    spec = Pod(image="i").manifest({})["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container({"spec": spec})["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_memory_is_a_limit_and_cpu_is_one_only_with_gpus():
    assert container(Pod(image="i", cpu=2, memory="8Gi").manifest({}))["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi"},
        "limits": {"memory": "8Gi"},
    }
    resources = container(Pod(image="i", cpu="500m", memory="8Gi", gpus=2).manifest({}))["resources"]
    assert resources["limits"] == resources["requests"] == {"cpu": "500m", "memory": "8Gi", "nvidia.com/gpu": "2"}


def test_gpus_of_another_kind_are_requested_by_their_name():
    resources = container(Pod(image="i", gpus=1, gpu_resource="amd.com/gpu").manifest({}))["resources"]
    assert resources["limits"] == {"amd.com/gpu": "1"}


def test_shared_memory_is_limited_to_half_of_the_memory():
    (volume,) = Pod(image="i", memory="8Gi").manifest({})["spec"]["volumes"]
    assert volume == {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}


def test_secrets_are_references():
    base = container(Pod(image="i", secrets={"TOKEN": "mlops/token"}, env_from=["connections"]).manifest({}))
    assert {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "mlops", "key": "token"}}} in base["env"]
    assert base["envFrom"] == [{"secretRef": {"name": "connections"}}]


def test_token_is_mounted_if_a_service_account_is_named():
    spec = Pod(image="i", service_account="trainer").manifest({})["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("trainer", True)


def test_objects_of_the_kubernetes_client_are_accepted():
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
    assert missing_fields(pod, known) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "image"),
        ({"image": "i", "memory": "8 GB"}, "memory='8 GB'"),
        ({"image": "i", "grow_memory": 0.5}, "grow_memory=0.5"),
        ({"image": "i", "secrets": {"T": "token"}}, "'secret/key'"),
        ({"image": "i", "env": {"T": "a"}, "secrets": {"T": "s/k"}}, "'T' in env= and in secrets="),
    ],
)
def test_invalid_fields_are_errors_when_the_dag_is_parsed(arguments, message):
    with pytest.raises(SpecError, match=message):
        Pod(**arguments)


# In Airflow


def test_rendered_field_shows_the_manifest_with_secret_looking_values_masked():
    from airflow.sdk._shared.secrets_masker import redact

    shown = Pod(image="i", gpus=1, env={"LEVEL": "9", "DB_PASSWORD": "hunter2"}).serialize()
    assert container(shown)["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    text = json.dumps(redact(shown, "run_on"))
    assert "hunter2" not in text
    assert '"LEVEL": "9"' in text


def test_executor_config_keeps_airflows_image_and_command():
    pod = Pod(image="i", gpus=1, memory="8Gi", node_selector={"gpu": "a100"}, env={"A": "1"}).executor_config()
    spec = pod["pod_override"].spec
    assert spec.node_selector == {"gpu": "a100"}
    (base,) = spec.containers
    assert base.name == "base"
    assert base.resources.limits == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    assert base.image is None
    assert base.command is None
    assert spec.service_account_name is None
