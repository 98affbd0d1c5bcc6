"""``run_on=Pod(image=...)``: the step runs in a Kubernetes pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_mlops.compute.base import Compute
from airflow_mlops.compute.kubernetes.manifest import MEMORY, Json, main_container, merge, times
from airflow_mlops.compute.kubernetes.train_jobs.manifest import train_job
from airflow_mlops.core.errors import ComputeError, SpecError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall

_COMMAND = ["python", "-m", "airflow_mlops.stages"]


@dataclass(kw_only=True)
class Pod(Compute):
    """Runs the step in a pod of its own, by way of KubernetesPodOperator.

    The image holds Python and ``airflow-mlops`` of the same version with the extras of the step, and no Airflow
    (``docker/`` builds one). The step finds Airflow connections in the environment, as ``AIRFLOW_CONN_<ID>``: name the
    Secrets that hold them in ``env_from``. The result goes to the artifact store, which both sides must reach.

    Fields that Kubernetes defines (``tolerations``, ``affinity``, ``volumes``, ...) are written as in a pod's YAML, or
    as objects of the Kubernetes client. All of them are templated.

    :param image: the image; may be left out where the template names one
    :param nodes: with more than one, a TorchTrainer trains on that many nodes at once: Kubeflow Trainer runs a TrainJob, of
        which each node is a pod like this one
    :param runtime: the ClusterTrainingRuntime that the TrainJob goes by
    :param gpus: number of GPUs; with several nodes, of each
    :param gpu_resource: what the cluster calls them (``amd.com/gpu``, ``nvidia.com/mig-1g.5gb``)
    :param cpu: processors, as in ``2`` or ``"500m"``; requested, and with GPUs also the limit
    :param memory: as in ``"8Gi"``; requested and the limit. Half of it may be shared memory (``/dev/shm``)
    :param grow_memory: after an end by OOMKilled, the next try asks for this many times the memory
    :param namespace: of the Airflow connection unless given
    :param service_account: for workload identity; its token is mounted only where one is named
    :param env: environment variables that are no secrets
    :param env_from: names of Secrets whose keys become environment variables, or Kubernetes' own ``envFrom`` entries
    :param secrets: environment variable to ``"secret/key"``
    :param pod_template_file: a pod's YAML to start from; what is said here goes on top of it
    :param image_pull_secrets: names of Secrets
    :param active_deadline: seconds after which Kubernetes ends the pod
    :param schedule_timeout: seconds to wait for a node that can take the pod
    :param startup_timeout: seconds from there until its container runs: pulling the image, mounting volumes
    :param termination_grace: seconds a pod that is ended has to leave a checkpoint
    :param on_finish: what becomes of the pod at its end
    :param deferrable: wait in the triggerer, without a worker slot; ``[operators] default_deferrable`` unless given
    :param kubernetes_conn_id: Airflow connection to the cluster
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

    def __post_init__(self) -> None:
        self._running: Any = None
        if not self.image and not self.pod_template_file:
            raise SpecError("Pod(...) needs an image, or a pod_template_file that names one.")
        if self.nodes < 1:
            raise SpecError(f"Pod(nodes={self.nodes}) trains nowhere: it takes one node or more.")
        if self.grow_memory < 1:
            raise SpecError(f"Pod(grow_memory={self.grow_memory}) would shrink the memory: 1 keeps it, 2 doubles it.")
        for name, value in self.secrets.items():
            if not isinstance(value, str) or value.count("/") != 1:
                raise SpecError(
                    f"Pod(secrets={{{name!r}: ...}}) takes the name of a Secret and a key, as 'secret/key'."
                )
        if self.memory and "{{" not in self.memory and not MEMORY.match(self.memory):
            raise SpecError(f"Pod(memory={self.memory!r}) is no amount that Kubernetes knows: write '512Mi' or '8Gi'.")
        if self.nodes > 1:
            # Says what a TrainJob has no place for.
            self.train_job(self.manifest({}), {})

    def serialize(self) -> Json:
        """What the task's rendered fields show. Environments are mappings there, so that Airflow masks by name."""
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
        """The pod: what is usual, under the template, under what was said here.

        :param template: the content of the template, or an empty object
        """
        name = main_container(template)
        pod = merge(merge(self._usual(name), template), self._said(name))
        pod["spec"]["containers"].sort(key=lambda container: container["name"] != name)
        return pod

    def train_job(self, manifest: Json, template: Json) -> Json:
        """The TrainJob that runs a pod on each of the nodes.

        :param manifest: what :meth:`manifest` made of ``template``, to which something may have been added
        :raises SpecError: a TrainJob has no place for what the template says, or what was said here
        """
        asked = {*template.get("spec", {}), *self._said(main_container(template))["spec"]}
        return train_job(manifest, self.nodes, self.runtime, unsaid={*manifest["spec"]} - asked)

    def run(self, call: StepCall, conn_ids: set[str], context: Context, log: Any) -> dict[str, Any]:
        return self._watch(call, context, log, None)

    def resume(self, call: StepCall, event: dict[str, Any], context: Context, log: Any) -> dict[str, Any]:
        return self._watch(call, context, log, event)

    def _watch(self, call: StepCall, context: Context, log: Any, event: dict[str, Any] | None) -> dict[str, Any]:
        from airflow.sdk.exceptions import TaskDeferred

        from airflow_mlops.data.results import read_result
        from airflow_mlops.data.store import ArtifactStore

        store = ArtifactStore(call.store)
        if event is None and (finished := read_result(store, call.key)) is not None:
            log.info("An earlier try finished this step; its result is used and no pod starts.")
            return finished
        self._running = operator = self._operator(call, context, log)
        try:
            operator.watch(context, event)
        except TaskDeferred:
            raise
        except Exception as error:
            # The result counts: what was lost may be the pod, its log or the cluster's API.
            result = read_result(store, call.key)
            if result is None:
                raise operator.failure(error, context) from error
            log.warning("The step finished, and what came after it failed: %s", error)
            return result
        result = read_result(store, call.key)
        if result is None:
            raise ComputeError(
                f"The pod ended without an error but left no result in {call.store}: "
                "check that this artifact store is the same one when seen from the pod."
            )
        return result

    def _operator(self, call: StepCall, context: Context, log: Any) -> Any:
        if self.nodes > 1:
            from airflow_mlops.compute.kubernetes.train_jobs.run import StepTrainJob

            return StepTrainJob.for_step(self, call, context, log)
        from airflow_mlops.compute.kubernetes.operator import StepPodOperator

        return StepPodOperator.for_step(self, call, context)

    def facts(self) -> dict[str, str]:
        return self._running.facts() if self._running is not None else {}

    def on_kill(self) -> None:
        if self._running is not None:
            self._running.on_kill()

    def executor_config(self) -> dict[str, Any]:
        """The same machine for a task of any operator under the KubernetesExecutor: ``executor_config=pod.executor_config()``.

        Image, command and service account stay Airflow's own. It imports the Kubernetes client, wherever it is called.
        """
        from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

        pod = self.manifest({})
        (container,) = pod["spec"]["containers"]
        for field_name in ("image", "command", "imagePullPolicy", "securityContext", "terminationMessagePolicy"):
            container.pop(field_name, None)
        for field_name in ("serviceAccountName", "automountServiceAccountToken", "securityContext", "restartPolicy"):
            pod["spec"].pop(field_name, None)
        return {"pod_override": PodGenerator.deserialize_model_dict(pod)}

    def _usual(self, name: str) -> Json:
        # PyTorch's loaders pass batches through shared memory, of which a container has 64 MB.
        shared: Json = {"medium": "Memory", **({"sizeLimit": times(self.memory, 0.5)} if self.memory else {})}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": self.service_account is not None,
                "terminationGracePeriodSeconds": self.termination_grace,
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": name,
                        "command": _COMMAND,
                        "env": [
                            {"name": "PYTHONUNBUFFERED", "value": "1"},
                            {"name": "MLOPS_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            {"name": "MLOPS_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                        ],
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108
                    }
                ],
                "volumes": [{"name": "shared-memory", "emptyDir": shared}],
            },
        }

    def _said(self, name: str) -> Json:
        env: list[Json] = [{"name": key, "value": str(value)} for key, value in self.env.items()]
        env += [{"name": key, "valueFrom": _secret_key(reference)} for key, reference in self.secrets.items()]
        from_ = [{"secretRef": {"name": item}} if isinstance(item, str) else item for item in self.env_from]
        container = {
            "name": name,
            "image": self.image,
            "imagePullPolicy": self.image_pull_policy,
            "resources": self._resources(),
            "env": env,
            "envFrom": from_,
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
        said: Json = _without_nothing(plain({"metadata": metadata, "spec": spec}))
        said.setdefault("spec", {})["containers"] = [_without_nothing(plain(container))]
        return said

    def _resources(self) -> Json:
        amounts: Json = {"memory": self.memory} if self.memory else {}
        limits, requests = dict(amounts), dict(amounts)
        if self.cpu is not None:
            requests["cpu"] = str(self.cpu)
        if self.gpus:
            # A GPU waits for its processors: they are reserved, which takes requests equal to limits.
            limits = requests = {**requests, self.gpu_resource: str(self.gpus)}
        return {"limits": limits, "requests": requests}


def plain(value: Any) -> Any:
    """The JSON of what may hold objects of the Kubernetes client."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if type(value).__module__.startswith("kubernetes."):
        from kubernetes.client import ApiClient

        return ApiClient().sanitize_for_serialization(value)
    return value


def _secret_key(reference: str) -> Json:
    name, _, key = reference.partition("/")
    return {"secretKeyRef": {"name": name, "key": key}}


def _without_nothing(value: Any) -> Any:
    """Without ``None``, and without what holds nothing else. An empty ``emptyDir`` says something, and stays."""
    if not isinstance(value, dict):
        return value
    cleaned = {key: _without_nothing(item) for key, item in value.items()}
    return {key: item for key, item in cleaned.items() if item not in (None, {}, [], ())}
