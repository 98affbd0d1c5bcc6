"""The manifest of a Kubeflow TrainJob, which runs one pod on each of several nodes.

A TrainJob names a training runtime that an administrator has installed. The TrainJob can override the image, command,
environment and resources of the trainer, and some fields of the pods. Other fields can only be set in the training
runtime.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.core.errors import SpecError

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
# The name that the runtimes for PyTorch give to the replicated job of the training and to its container.
NODE = "node"
# Each component that patches a runtime identifies itself by a name. Kueue, for example, adds its own patches.
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


def train_job(pod: Json, nodes: int, runtime: str, defaults: Collection[str] = ()) -> Json:
    """Return the TrainJob that runs ``pod`` on each of ``nodes`` nodes.

    :param pod: manifest of the pod of one node, with the main container first
    :param nodes: number of nodes
    :param runtime: name of the ClusterTrainingRuntime
    :param defaults: names of the fields in the pod's ``spec`` that come from the defaults of this package. If TrainJobs
        do not support such a field, it is ignored
    :raises SpecError: the pod has a field that TrainJobs do not support
    """
    rest = deepcopy(pod)
    metadata, spec = rest.pop("metadata", {}), rest.pop("spec")
    for known in ("apiVersion", "kind"):
        rest.pop(known, None)
    # The name of the TrainJob is derived from the call, like the name of a pod.
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
    unsupported = [
        *rest,
        *(f"metadata.{name}" for name in metadata),
        *(f"spec.{name}" for name in spec if name not in defaults),
        *(f"spec.containers[{position}].{name}" for position, item in enumerate([node, *others]) for name in item),
        *(f"spec.initContainers[{position}].{name}" for position, item in enumerate(initial) for name in item),
    ]
    if unsupported:
        hint = ", or list the keys you need in secrets=" if unsupported[0].endswith(".envFrom") else ""
        raise SpecError(
            f"Pod(nodes={nodes}) creates a TrainJob, which does not support the field {unsupported[0]!r}. Set the field in "
            f"the training runtime {runtime!r}{hint}."
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
    """Return the part of a TrainJob manifest that overrides the pod template.

    :param job: a manifest that :func:`train_job` built
    """
    (patch,) = (item for item in job["spec"]["runtimePatches"] if item["manager"] == _MANAGER)
    template: Json = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"][
        "template"
    ]
    return template


def _take(fields: Json, names: Collection[str]) -> Json:
    return {name: fields.pop(name) for name in names if name in fields}
