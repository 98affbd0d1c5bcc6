"""Manifests of the objects that serve a model. This module does not import a Kubernetes client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.merging import merge
from airflow_mlops.compute.kubernetes.manifest.pod import literal, main_container
from airflow_mlops.compute.kubernetes.pod import Pod
from airflow_mlops.core.errors import ComputeError
from airflow_mlops.core.fingerprints import fingerprint

if TYPE_CHECKING:
    from airflow_mlops.stages.deploy.spec import DeploySpec

PORT = 8080
INSTANCE, MANAGED_BY, MANAGER = "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "airflow-mlops"
# The pods that were made from one manifest have the same value of this label.
TEMPLATE = "airflow-mlops/template"
_SPOOL = "/var/spool/airflow-mlops"
# Number of words before the arguments of a command: the command starts with python -m airflow_mlops.serving.
_INTERPRETER = 3
# _DRAIN: seconds for which a terminating pod still answers, because Services still send requests to it.
# _GRACE: seconds after which a terminating pod is killed. Until then, it answers requests and uploads its spool.
_DRAIN, _GRACE = 5, 60


def command(spec: DeploySpec, store: str) -> list[str]:
    """Return the command that starts the server in a container.

    :param spec: the settings of the server
    :param store: URL of the artifact store
    :raises SpecError: the settings of the server contradict each other
    """
    from airflow_mlops.serving.__main__ import settings

    words = ["python", "-m", "airflow_mlops.serving", spec.model, "--store", store, "--host", "0.0.0.0"]  # noqa: S104
    words += ["--port", str(PORT), "--mlflow-conn-id", spec.mlflow.conn_id, "--window", spec.window, "--spool", _SPOOL]
    if spec.version is not None:
        words += ["--version", str(spec.version)]
    if spec.predictions is not None:
        words += ["--predictions", spec.predictions]
    if not spec.log_predictions:
        words.append("--no-log")
    for option in ("hash_conn_id", "sample", "shadow", "canary", "canary_share", "canary_key", "feast_repo"):
        if (value := getattr(spec, option)) is not None:
            words.append(f"--{option.replace('_', '-')}={value}")
    words += [f"--hash-column={name}" for name in spec.hash_columns]
    words += [f"--drop-column={name}" for name in spec.drop_columns]
    # Settings that the server would refuse fail the task here, before anything is changed in the cluster.
    settings(words[_INTERPRETER:])
    return [literal(word) for word in words]


def server_pod(pod: Pod, template: Json, words: Sequence[str]) -> Json:
    """Return the manifest of a server's pod. The pod template overrides the probes and other defaults.

    :param pod: description of the pod
    :param template: content of ``Pod(pod_template_file=...)``; empty without a template
    :param words: command of the server
    """
    name = main_container(template)
    container: Json = {
        "name": name,
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": _probe("live", periodSeconds=2, failureThreshold=150),
        "livenessProbe": _probe("live", periodSeconds=10, failureThreshold=3),
        "readinessProbe": _probe("ready", periodSeconds=3, failureThreshold=2),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_DRAIN)]}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "spool", "mountPath": _SPOOL}],
    }
    grace = max(_GRACE, pod.termination_grace)
    spec: Json = {"terminationGracePeriodSeconds": grace, "containers": [container]}
    # The spool survives a restart of the container, but is deleted with the pod, which uploads the spool when it ends.
    spec["volumes"] = [{"name": "spool", "emptyDir": {}}]
    built = pod.manifest(merge({"spec": spec}, template))
    built["spec"]["restartPolicy"] = "Always"
    main = built["spec"]["containers"][0]
    main["command"] = list(words)
    main.pop("args", None)
    return built


def _probe(path: str, **times: int) -> Json:
    return {"httpGet": {"path": f"/v2/health/{path}", "port": PORT}, "timeoutSeconds": 5, **times}


def deployment(name: str, namespace: str, pod: Json, replicas: int, limit: int) -> Json:
    """Return a Deployment that replaces its pods one by one, each after the new pod is ready.

    :param name: name of the Deployment
    :param namespace: its namespace
    :param pod: manifest of a server's pod
    :param replicas: number of pods
    :param limit: seconds within which the pods must be ready
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        **object_metadata(name, namespace),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": limit,
            "selector": {"matchLabels": {INSTANCE: name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": pod_template(name, pod),
        },
    }


def pod_template(name: str, pod: Json) -> Json:
    """Return the template of the pods of an object, with the labels by which the pods are found.

    :param name: name of the object
    :param pod: manifest of a server's pod
    """
    metadata = {key: value for key, value in pod.get("metadata", {}).items() if key in ("labels", "annotations")}
    made = {"metadata": metadata, "spec": deepcopy(pod["spec"])}
    labels = {**metadata.get("labels", {}), INSTANCE: name, MANAGED_BY: MANAGER, TEMPLATE: fingerprint([made])[:16]}
    return {**made, "metadata": {**metadata, "labels": labels}}


def service(name: str, namespace: str) -> Json:
    """Return a Service in front of the pods."""
    ports = [{"name": "http", "port": 80, "targetPort": PORT, "protocol": "TCP"}]
    spec = {"type": "ClusterIP", "selector": {INSTANCE: name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", **object_metadata(name, namespace), "spec": spec}


def disruption_budget(name: str, namespace: str, served: Mapping[str, Sequence[str]]) -> Json:
    """Return a PodDisruptionBudget, so that a drain of nodes ends only one pod at a time.

    :param name: name of the object
    :param namespace: its namespace
    :param served: versions of each API group that the cluster serves
    """
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": {INSTANCE: name}}}
    version = api_version("policy", ("v1", "v1beta1"), served)
    return {"apiVersion": version, "kind": "PodDisruptionBudget", **object_metadata(name, namespace), "spec": spec}


def autoscaler(
    name: str, namespace: str, limits: tuple[int, int], cpu: int, served: Mapping[str, Sequence[str]]
) -> Json:
    """Return a HorizontalPodAutoscaler.

    :param name: name of the object, and of the Deployment that is scaled
    :param namespace: its namespace
    :param limits: smallest and largest number of pods
    :param cpu: CPU use above which pods are added, in percent of the CPU request
    :param served: versions of each API group that the cluster serves
    """
    version = api_version("autoscaling", ("v2", "v1"), served)
    spec: Json = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}}
    spec |= {"minReplicas": limits[0], "maxReplicas": limits[1]}
    if version == "autoscaling/v1":
        spec["targetCPUUtilizationPercentage"] = cpu
    else:
        target = {"type": "Utilization", "averageUtilization": cpu}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    return {"apiVersion": version, "kind": "HorizontalPodAutoscaler", **object_metadata(name, namespace), "spec": spec}


def api_version(group: str, known: Sequence[str], served: Mapping[str, Sequence[str]], hint: str = "") -> str:
    """Return the first of the ``known`` versions of an API group that the cluster serves, such as ``policy/v1``.

    :param group: name of the API group
    :param known: the versions, the preferred version first
    :param served: versions of each API group that the cluster serves
    :param hint: last sentence of the error message
    :raises ComputeError: the cluster serves none of them
    """
    for version in known:
        if version in served.get(group, ()):
            return f"{group}/{version}"
    error = ComputeError(
        f"The cluster serves none of the versions {', '.join(known)} of the API group {group!r}. {hint}".strip()
    )
    error.retryable = False
    raise error


def with_replicas(manifest: Json, live: Json | None, scaled: Json | None) -> Json:
    """Return the Deployment to apply. With an autoscaler, the current number of pods is kept, within its limits.

    :param manifest: manifest of the Deployment
    :param live: the Deployment in the cluster; ``None`` if it does not exist
    :param scaled: manifest of the autoscaler; ``None`` if the number of pods is fixed
    """
    if live is None or scaled is None:
        return manifest
    limits = scaled["spec"]
    found = int(live["spec"].get("replicas", limits["minReplicas"]))
    kept = min(max(found, limits["minReplicas"]), limits["maxReplicas"])
    return {**manifest, "spec": {**manifest["spec"], "replicas": kept}}


def object_metadata(name: str, namespace: str) -> Json:
    """Return the field ``metadata`` of an object of an endpoint."""
    return {"metadata": {"name": name, "namespace": namespace, "labels": {INSTANCE: name, MANAGED_BY: MANAGER}}}
