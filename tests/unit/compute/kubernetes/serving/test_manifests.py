"""The objects of an endpoint: what they contain, and what is refused."""

from __future__ import annotations

import json
import shlex

import pytest

from airflow_mlops.compute import Deployment, KServe, Pod
from airflow_mlops.compute.kubernetes.serving import manifests
from airflow_mlops.compute.kubernetes.serving.target import default_name
from airflow_mlops.core.errors import ComputeError, SpecError
from airflow_mlops.serving.__main__ import settings
from airflow_mlops.stages.deploy.spec import DeploySpec

NEW = {"autoscaling": ["v1", "v2"], "policy": ["v1"]}
OLD = {"autoscaling": ["v1", "v2beta1", "v2beta2"], "policy": ["v1beta1"]}


def made(pod: Pod | None = None, served=NEW, spec: dict | None = None, template: dict | None = None, **options):
    """The objects by kind."""
    target = Deployment(pod=pod or Pod(image="i", cpu=1), **options)
    words = manifests.command(DeploySpec.model_validate({"model": "late", **(spec or {})}), "s3://bucket/mlops")
    server = manifests.server_pod(target.pod, template or {}, words)
    return {item["kind"]: item for item in target.manifests("late", "serving", server, served)}


def container(found: dict) -> dict:
    return found["Deployment"]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ""),
        ({"version": 7}, "--version 7"),
        ({"predictions": "late_online", "log_predictions": False}, "--predictions late_online --no-log"),
        ({"window": "hour", "mlflow": {"conn_id": "flow"}}, "--window hour --mlflow-conn-id flow"),
    ],
)
def test_the_server_gets_the_parameters_of_the_deployment(spec, words):
    command = container(made(spec=spec))["command"]
    assert command[:6] == ["python", "-m", "airflow_mlops.serving", "late", "--store", "s3://bucket/mlops"]
    assert ("--version" in command) is ("version" in spec)
    asked = shlex.split(words)
    for position, word in enumerate(asked):
        assert word in command
        if not word.startswith("--"):
            assert command[command.index(word) - 1] == asked[position - 1]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"version": 7, "predictions": "late_online", "window": "hour"},
        {"hash_columns": ["--a b", "c"], "drop_columns": ["d"], "hash_conn_id": "key", "sample": 0.25},
        {"shadow": "challenger", "canary": "9", "canary_share": 0.0, "canary_key": "--customer"},
        {"feast_repo": "/dags/features"},
    ],
)
def test_the_server_reads_the_settings_of_the_task_from_its_command(given):
    words = manifests.command(DeploySpec(model="late", **given), "s3://bucket/mlops")
    found = settings(words[3:])
    assert found.store == "s3://bucket/mlops"
    assert {name: getattr(found, name) for name in given} == given


@pytest.mark.parametrize(
    "given", [{"canary_share": 0.5}, {"hash_columns": ["a"]}, {"shadow": "x", "log_predictions": False}]
)
def test_settings_that_contradict_each_other_are_refused(given):
    with pytest.raises(SpecError):
        manifests.command(DeploySpec(model="late", **given), "s3://bucket/mlops")


def test_kubernetes_expands_nothing_in_the_command():
    words = manifests.command(DeploySpec(model="late"), "file:///data/$(HOME)$")
    assert "file:///data/$$(HOME)$$" in words


def test_no_secret_and_no_connection_is_in_a_manifest():
    pod = Pod(image="i", env_from=["mlops-connections"], secrets={"MLOPS_SERVE_TOKEN": "tokens/late"}, env={"A": "b"})
    main = container(made(pod))
    assert main["envFrom"] == [{"secretRef": {"name": "mlops-connections"}}]
    token = next(item for item in main["env"] if item["name"] == "MLOPS_SERVE_TOKEN")
    assert token == {
        "name": "MLOPS_SERVE_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "late"}},
    }


def test_objects_find_the_pods_by_one_selector():
    found = made(max_replicas=4)
    template = found["Deployment"]["spec"]["template"]
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= template["metadata"]["labels"].items()
    (port,) = found["Service"]["spec"]["ports"]
    assert port["targetPort"] == container(found)["ports"][0]["containerPort"]
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert {item["metadata"]["namespace"] for item in found.values()} == {"serving"}


def test_pods_are_replaced_only_by_ready_ones_and_drain():
    found = made()
    spec = found["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Always"
    assert pod["terminationGracePeriodSeconds"] > 30
    assert {"name": "spool", "emptyDir": {}} in pod["volumes"]
    main = container(found)
    mounts = {item["name"]: item["mountPath"] for item in main["volumeMounts"]}
    assert main["command"][main["command"].index("--spool") + 1] == mounts["spool"]
    assert main["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert main["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def test_the_template_of_the_pod_overrides_probes_and_not_the_command():
    template = {
        "spec": {
            "containers": [{"name": "base", "command": ["sh"], "args": ["-c"], "readinessProbe": {"periodSeconds": 30}}]
        }
    }
    main = container(made(template=template))
    assert main["readinessProbe"]["periodSeconds"] == 30
    assert main["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert main["command"][0] == "python"
    assert "args" not in main


@pytest.mark.parametrize(
    ("served", "budget", "scaler", "field"),
    [
        (NEW, "policy/v1", "autoscaling/v2", "metrics"),
        (OLD, "policy/v1beta1", "autoscaling/v1", "targetCPUUtilizationPercentage"),
    ],
)
def test_the_cluster_says_which_versions_of_apis_it_serves(served, budget, scaler, field):
    found = made(served=served, max_replicas=3)
    assert found["PodDisruptionBudget"]["apiVersion"] == budget
    assert found["HorizontalPodAutoscaler"]["apiVersion"] == scaler
    assert field in found["HorizontalPodAutoscaler"]["spec"]


def test_an_api_that_the_cluster_does_not_serve_is_an_error():
    with pytest.raises(ComputeError, match="policy"):
        made(served={"policy": ["v9"]})


def test_equal_pods_have_equal_labels_and_others_do_not():
    def label(**changes) -> str:
        return made(**changes)["Deployment"]["spec"]["template"]["metadata"]["labels"][manifests.TEMPLATE]

    assert label() == label() == label(replicas=5)
    assert len({label(), label(spec={"version": 2}), label(pod=Pod(image="j", cpu=1))}) == 3


@pytest.mark.parametrize(("live", "expected"), [(None, 2), (1, 2), (3, 3), (9, 4)])
def test_a_deployment_keeps_the_number_of_pods_that_its_autoscaler_chose(live, expected):
    found = made(max_replicas=4)
    present = None if live is None else {"spec": {"replicas": live}}
    applied = manifests.with_replicas(found["Deployment"], present, found["HorizontalPodAutoscaler"])
    assert applied["spec"]["replicas"] == expected
    assert manifests.with_replicas(found["Deployment"], present, None) == found["Deployment"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas"),
        ({"pod": Pod(image="i"), "max_replicas": 3}, "cpu"),
        ({"target_cpu": 0}, "target_cpu"),
        ({"url": "https://user:word@late.example"}, "url"),
        ({"name": "Late_Model"}, "name"),
        ({"name": "a" * 46}, "name"),
        ({"pod": Pod(image="i", active_deadline=60)}, "active_deadline"),
        ({"pod": Pod(image="i", grow_memory=2, memory="1Gi")}, "grow_memory"),
        ({"pod": Pod(image="i", nodes=2)}, "nodes"),
    ],
)
def test_options_that_a_server_does_not_support_are_refused(options, named):
    with pytest.raises(SpecError, match=named):
        Deployment(**{"pod": Pod(image="i", cpu=1), **options})


@pytest.mark.parametrize(
    ("model", "name"),
    [("flight_delays", "flight-delays"), ("2nd", "model-2nd"), ("A.B", "a-b"), ("x" * 80, "x" * 45), ("--", "model")],
)
def test_a_name_is_derived_from_the_name_of_the_model(model, name):
    assert default_name(model) == name
    assert Deployment(pod=Pod(image="i"), name=name).object_name(model) == name


def kserve(pod: Pod | None = None, template: dict | None = None, served=None, **options) -> dict:
    target = KServe(pod=pod or Pod(image="i", memory="1Gi"), **options)
    server = manifests.server_pod(target.pod, template or {}, manifests.command(DeploySpec(model="late"), "s3://b"))
    (made,) = target.manifests("late", "serving", server, served or {"serving.kserve.io": ["v1alpha1", "v1beta1"]})
    return made


def test_the_predictor_of_kserve_is_the_server():
    pod = Pod(image="i", env_from=["c"], labels={"team": "a"}, annotations={"b": "c"}, node_selector={"d": "e"})
    made = kserve(pod, replicas=2, max_replicas=5)
    assert (made["apiVersion"], made["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = made["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 5)
    assert "canaryTrafficPercent" not in predictor
    (main,) = predictor["containers"]
    assert (main["name"], main["image"], main["envFrom"]) == ("kserve-container", "i", [{"secretRef": {"name": "c"}}])
    assert main["ports"] == [{"name": "http1", "containerPort": manifests.PORT, "protocol": "TCP"}]
    assert main["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert predictor["nodeSelector"] == {"d": "e"}
    # KServe copies these to the pods.
    assert {"team": "a", manifests.INSTANCE: "late"}.items() <= made["metadata"]["labels"].items()
    assert made["metadata"]["labels"][manifests.TEMPLATE]
    assert made["metadata"]["annotations"] == {"b": "c"}


def test_knative_gets_only_fields_that_it_accepts():
    predictor = kserve()["spec"]["predictor"]
    (main,) = predictor["containers"]
    assert not {"restartPolicy", "terminationGracePeriodSeconds", "securityContext"} & predictor.keys()
    assert not {"lifecycle", "startupProbe"} & main.keys()
    assert main["securityContext"]["runAsNonRoot"] is True
    assert main["securityContext"]["allowPrivilegeEscalation"] is False


def test_fields_of_the_security_context_that_only_pods_have_stay_there():
    template = {
        "spec": {"securityContext": {"fsGroup": 7, "runAsUser": 5}, "initContainers": [{"name": "a", "image": "i"}]}
    }
    predictor = kserve(template=template)["spec"]["predictor"]
    assert predictor["securityContext"] == {"fsGroup": 7}
    for container in (*predictor["containers"], *predictor["initContainers"]):
        assert {"runAsNonRoot": True, "runAsUser": 5}.items() <= container["securityContext"].items()
        assert "fsGroup" not in container["securityContext"]


def test_the_canary_is_kserves_own():
    made = kserve(canary_percent=10)
    assert made["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert made["metadata"]["labels"] == kserve()["metadata"]["labels"]
    assert KServe(pod=Pod(image="i"), canary_percent=10).needs_version == "canary_percent"
    assert KServe(pod=Pod(image="i")).needs_version is None


@pytest.mark.parametrize(
    "options", [{"replicas": 0}, {"replicas": 3, "max_replicas": 2}, {"canary_percent": 101}, {"canary_percent": -1}]
)
def test_options_that_kserve_does_not_support_are_refused(options):
    with pytest.raises(SpecError):
        KServe(pod=Pod(image="i"), **options)


def test_a_cluster_without_kserve_is_an_error():
    with pytest.raises(ComputeError, match="Install KServe") as caught:
        kserve(served=NEW)
    assert not caught.value.retryable


def test_serialized_targets_are_json():
    shown = Deployment(pod=Pod(image="i", env={"A": "b"}), name="late").serialize()
    assert json.loads(json.dumps(shown)) == shown
