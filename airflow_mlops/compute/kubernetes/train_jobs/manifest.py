"""A TrainJob of Kubeflow Trainer as the JSON that Kubernetes reads: the pod of one node, for several of them.

A TrainJob names a training runtime, which an administrator made, and says what is different: the trainer's image,
command, variables and resources, and patches of the pods. What it has no place for belongs into the runtime.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.core.errors import SpecError

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
# What Kubeflow Trainer calls the replicated job of the training, and its container, in the runtimes for PyTorch.
NODE = "node"
# Each party that patches a runtime says who it is; Kueue is another one.
_MANAGER = "airflow-mlops/pod"

_METADATA = ("labels", "annotations")
_POD = (
    "affinity",
    "imagePullSecrets",
    "nodeSelector",
    "schedulingGates",
    "securityContext",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "volumes",
)
_TRAINER = {"image": "image", "command": "command", "args": "args", "env": "env", "resources": "resourcesPerNode"}
_NODE_PATCH = ("securityContext", "volumeMounts")
_OTHER_PATCH = ("env", "securityContext", "volumeMounts")


def train_job(pod: Json, nodes: int, runtime: str, unsaid: Collection[str] = ()) -> Json:
    """The TrainJob that runs ``pod`` on each of ``nodes`` nodes.

    :param pod: its main container comes first
    :param runtime: name of the ClusterTrainingRuntime
    :param unsaid: fields of the pod's ``spec`` that nobody asked for, and that the runtime may decide
    :raises SpecError: naming a field that a TrainJob has no place for
    """
    rest = deepcopy(pod)
    metadata, spec = rest.pop("metadata", {}), rest.pop("spec")
    for known in ("apiVersion", "kind"):
        rest.pop(known, None)
    # The name is made from what is computed, as that of a pod is.
    metadata.pop("name", None)
    metadata.pop("generateName", None)
    own = _take(metadata, (*_METADATA, "namespace"))
    deadline = _take(spec, ("activeDeadlineSeconds",))
    node, *others = spec.pop("containers")
    node.pop("name", None)
    trainer = {_TRAINER[name]: value for name, value in _take(node, tuple(_TRAINER)).items()}
    patch = _take(spec, _POD)
    containers = [
        {"name": NODE, **_take(node, _NODE_PATCH)},
        *(_take(item, ("name", *_OTHER_PATCH)) for item in others),
    ]
    initial = spec.pop("initContainers", [])
    patch["containers"] = containers
    if initial:
        patch["initContainers"] = [_take(item, ("name", *_OTHER_PATCH)) for item in initial]
    left = [
        *rest,
        *(f"metadata.{name}" for name in metadata),
        *(f"spec.{name}" for name in spec if name not in unsaid),
        *(f"spec.containers[{place}].{name}" for place, item in enumerate([node, *others]) for name in item),
        *(f"spec.initContainers[{place}].{name}" for place, item in enumerate(initial) for name in item),
    ]
    if left:
        hint = ", or name single keys in secrets=" if left[0].endswith(".envFrom") else ""
        raise SpecError(
            f"A TrainJob, which Pod(nodes={nodes}) makes, has no place for {left[0]!r}: put it into the training "
            f"runtime {runtime!r}{hint}."
        )
    template = {"metadata": {name: own[name] for name in _METADATA if own.get(name)}, "spec": patch}
    replicated = {"name": NODE, "template": {"spec": {"template": template}}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": own,
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": runtime},
            **deadline,
            "trainer": {"numNodes": nodes, **trainer},
            "runtimePatches": [
                {
                    "manager": _MANAGER,
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}},
                }
            ],
        },
    }


def pod_template(job: Json) -> Json:
    """The patch of the pods in a TrainJob that :func:`train_job` made."""
    (patch,) = (item for item in job["spec"]["runtimePatches"] if item["manager"] == _MANAGER)
    template: Json = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"][
        "template"
    ]
    return template


def _take(fields: Json, names: Collection[str]) -> Json:
    return {name: fields.pop(name) for name in names if name in fields}
