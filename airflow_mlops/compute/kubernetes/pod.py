"""``run_on=Pod(image=...)``: the description of the Kubernetes pod in which a step runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from airflow_mlops.compute.base import Compute
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.merging import merge
from airflow_mlops.compute.kubernetes.manifest.pod import as_json, default_pod, main_container, without_empty
from airflow_mlops.compute.kubernetes.manifest.train_job import train_job
from airflow_mlops.compute.memory_amounts import is_amount
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.secrets import has_secret_template


@dataclass(kw_only=True)
class Pod(Compute):
    """Runs each step in a separate Kubernetes pod, with KubernetesPodOperator.

    The image must contain Python and the same version of ``airflow-mlops`` with the extras of the step, but not Airflow
    (``docker/`` builds such an image). The step reads Airflow connections from environment variables named
    ``AIRFLOW_CONN_<ID>``. List the Secrets that contain these variables in ``env_from``. The result is written to the
    artifact store, which the Airflow worker and the pod must both reach.

    Fields that Kubernetes defines (``tolerations``, ``affinity``, ``volumes``, ...) take the same values as in a pod's
    YAML, or objects of the Kubernetes client. All these fields are templated.

    :param image: name of the container image; optional if the pod template names an image
    :param nodes: number of nodes. With more than one node, Kubeflow Trainer runs a TrainJob with one pod per node, and
        a TorchTrainer trains on all nodes together
    :param runtime: name of the ClusterTrainingRuntime for the TrainJob
    :param gpus: number of GPUs of each node
    :param gpu_resource: resource name of a GPU in the cluster, such as ``amd.com/gpu`` or ``nvidia.com/mig-1g.5gb``
    :param cpu: CPU request of the container, such as ``2`` or ``"500m"``; with ``gpus``, also the CPU limit
    :param memory: memory request and memory limit of the container, such as ``"8Gi"``. Shared memory (``/dev/shm``) can
        use half of this amount
    :param grow_memory: factor by which the memory is multiplied in the next try after the pod was OOMKilled
    :param namespace: namespace of the pod; by default the namespace of the Airflow connection
    :param service_account: name of the service account, for workload identity. The pod gets a token only if a service
        account is named
    :param env: environment variables that are not secret
    :param env_from: names of Secrets whose keys become environment variables, or ``envFrom`` entries of Kubernetes
    :param secrets: mapping from the names of environment variables to keys of Secrets. Write a key as ``"secret/key"``
    :param pod_template_file: path of a YAML file with a pod to start from. Fields set in ``Pod(...)`` override the file
    :param image_pull_secrets: names of Secrets with credentials for image registries
    :param active_deadline: seconds after which Kubernetes ends the pod
    :param schedule_timeout: seconds within which the pod must be scheduled to a node
    :param startup_timeout: seconds after scheduling within which the container must run. The time of the image pull
        counts
    :param termination_grace: seconds between SIGTERM and SIGKILL, in which a training can write a last checkpoint
    :param on_finish: what happens to a finished pod: ``delete_pod``, ``delete_succeeded_pod`` or ``keep_pod``
    :param deferrable: whether the task waits in the triggerer, without a worker slot; by default ``[operators]
        default_deferrable``
    :param kubernetes_conn_id: id of the Airflow connection to the cluster
    :raises SpecError: a field is invalid, a field is a template of a secret, or ``nodes`` is greater than 1 and
        TrainJobs do not support one of the fields
    """

    image: str | None = None
    nodes: int = 1
    runtime: str = "torch-distributed"
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    cpu: str | float | None = None
    memory: str | None = None
    grow_memory: float = 1
    namespace: str | None = None
    service_account: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Any] = ()
    affinity: Any = field(default_factory=dict)
    runtime_class: str | None = None
    priority_class: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    env_from: Sequence[Any] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[Any] = ()
    volume_mounts: Sequence[Any] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod_template_file: str | None = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: Sequence[str] = ()
    active_deadline: int | None = None
    schedule_timeout: int = 600
    startup_timeout: int = 600
    termination_grace: int = 20
    on_finish: Literal["delete_pod", "delete_succeeded_pod", "keep_pod"] = "delete_pod"
    deferrable: bool | None = None
    kubernetes_conn_id: str = "kubernetes_default"

    runner: ClassVar[str] = "airflow_mlops.compute.kubernetes.runner:KubernetesRunner"
    template_fields: ClassVar[Sequence[str]] = (
        "image",
        "runtime",
        "gpus",
        "cpu",
        "memory",
        "namespace",
        "service_account",
        "node_selector",
        "tolerations",
        "affinity",
        "runtime_class",
        "priority_class",
        "env",
        "env_from",
        "secrets",
        "volumes",
        "volume_mounts",
        "labels",
        "annotations",
        "pod_template_file",
        "kubernetes_conn_id",
    )

    stores_parameters: ClassVar[bool] = True
    kept_when_deferred: ClassVar[Sequence[str]] = ("namespace", "kubernetes_conn_id")

    def __post_init__(self) -> None:
        if not self.image and not self.pod_template_file:
            raise SpecError("Pod(...) has no image. Set image=, or a pod_template_file= that names an image.")
        if self.nodes < 1:
            raise SpecError(f"Pod(nodes={self.nodes}) is invalid. Set nodes= to 1 or more.")
        if self.grow_memory < 1:
            raise SpecError(
                f"Pod(grow_memory={self.grow_memory}) is invalid. Set grow_memory= to 1, which keeps the memory, or more. "
                "For example, 2 doubles the memory after each try that was OOMKilled."
            )
        for name, value in self.secrets.items():
            if not isinstance(value, str) or value.count("/") != 1:
                raise SpecError(
                    f"Pod(secrets={{{name!r}: ...}}) is invalid. Write the value as 'secret/key', the name of a Secret and "
                    "one of its keys."
                )
        if twice := sorted(self.env.keys() & self.secrets.keys()):
            raise SpecError(
                f"Pod(...) sets the environment variable {twice[0]!r} in env= and in secrets=. Remove it from one of them."
            )
        if self.memory and "{{" not in self.memory and not is_amount(self.memory):
            raise SpecError(
                f"Pod(memory={self.memory!r}) is not an amount of memory. Write a number with a unit, such as '512Mi' or "
                "'8Gi'."
            )
        for name in self.template_fields:
            if has_secret_template(getattr(self, name)):
                raise SpecError(
                    f"Pod({name}=...) is a template of a secret in Airflow. The secret would be in the manifest of "
                    "the pod, which anyone who can read pods could read. Store the secret in a Kubernetes Secret, "
                    "and name the Secret and its key in secrets=."
                )
        if self.nodes > 1:
            # Building the TrainJob raises an error for fields that TrainJobs do not support.
            self.train_job(self.manifest({}), {})

    def serialize(self) -> Json:
        """Return the manifest of the pod or TrainJob, which Airflow shows as the rendered field ``run_on`` of the task.

        Environment variables are shown as a mapping, because Airflow then masks secret values by the names of their
        keys.
        """
        shown = self.manifest({})
        containers = shown["spec"]["containers"]
        if self.nodes > 1:
            shown = self.train_job(shown, {})
            containers = [shown["spec"]["trainer"]]
        for container in containers:
            container["env"] = {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}
        if self.pod_template_file:
            shown["pod_template_file"] = self.pod_template_file
        return shown

    def manifest(self, template: Json) -> Json:
        """Return the manifest of the pod.

        The pod template overrides the defaults of this package, and the fields set in ``Pod(...)`` override the
        template.

        :param template: content of the pod template; empty without a template
        """
        name = main_container(template)
        pod = merge(merge(self._defaults(name), template), self._overrides(name))
        pod["spec"]["containers"].sort(key=lambda container: container["name"] != name)
        # A training that is terminated needs to know how much time is left for a checkpoint.
        grace = str(pod["spec"]["terminationGracePeriodSeconds"])
        pod["spec"]["containers"][0]["env"].append({"name": "MLOPS_TERMINATION_GRACE", "value": grace})
        return pod

    def train_job(self, manifest: Json, template: Json) -> Json:
        """Return the manifest of the TrainJob that runs the pod on each node.

        :param manifest: manifest of the pod from :meth:`manifest`, possibly with additions
        :param template: content of the pod template; empty without a template
        :raises SpecError: the pod has a field that TrainJobs do not support
        """
        explicit = {*template.get("spec", {}), *self._overrides(main_container(template))["spec"]}
        return train_job(manifest, self.nodes, self.runtime, defaults={*manifest["spec"]} - explicit)

    def executor_config(self) -> dict[str, Any]:
        """Return an ``executor_config`` that gives a task under KubernetesExecutor the resources of this pod.

        The task can use any operator. Image, command, service account and security context stay as configured for the
        executor. This method imports the Kubernetes client, even when a DAG file calls it.
        """
        from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

        pod = self.manifest({})
        (container,) = pod["spec"]["containers"]
        for name in ("image", "command", "imagePullPolicy", "securityContext", "terminationMessagePolicy"):
            container.pop(name, None)
        for name in ("serviceAccountName", "automountServiceAccountToken", "securityContext", "restartPolicy"):
            pod["spec"].pop(name, None)
        return {"pod_override": PodGenerator.deserialize_model_dict(pod)}

    def _defaults(self, container: str) -> Json:
        return default_pod(
            container,
            memory=self.memory,
            mount_token=self.service_account is not None,
            termination_grace=self.termination_grace,
        )

    def _overrides(self, container: str) -> Json:
        """Return a pod manifest that contains only the fields set in ``Pod(...)``."""
        env: list[Json] = [{"name": key, "value": str(value)} for key, value in self.env.items()]
        env += [{"name": key, "valueFrom": _secret_key(reference)} for key, reference in self.secrets.items()]
        container_fields = {
            "name": container,
            "image": self.image,
            "imagePullPolicy": self.image_pull_policy,
            "resources": self._resources(),
            "env": env,
            "envFrom": [{"secretRef": {"name": item}} if isinstance(item, str) else item for item in self.env_from],
            "volumeMounts": self.volume_mounts,
        }
        spec = {
            "nodeSelector": self.node_selector,
            "tolerations": self.tolerations,
            "affinity": self.affinity,
            "runtimeClassName": self.runtime_class,
            "priorityClassName": self.priority_class,
            "serviceAccountName": self.service_account,
            "imagePullSecrets": [{"name": secret} for secret in self.image_pull_secrets],
            "activeDeadlineSeconds": self.active_deadline,
            "volumes": self.volumes,
        }
        metadata = {"namespace": self.namespace, "labels": self.labels, "annotations": self.annotations}
        overrides = without_empty(as_json({"metadata": metadata, "spec": spec}))
        overrides.setdefault("spec", {})["containers"] = [without_empty(as_json(container_fields))]
        return overrides

    def _resources(self) -> Json:
        amounts: Json = {"memory": self.memory} if self.memory else {}
        limits, requests = dict(amounts), dict(amounts)
        if self.cpu is not None:
            requests["cpu"] = str(self.cpu)
        if self.gpus:
            # Requests equal to limits reserve the CPUs, so that a GPU never waits for them.
            limits = requests = {**requests, self.gpu_resource: str(self.gpus)}
        return {"limits": limits, "requests": requests}


def _secret_key(reference: str) -> Json:
    name, _, key = reference.partition("/")
    return {"secretKeyRef": {"name": name, "key": key}}
