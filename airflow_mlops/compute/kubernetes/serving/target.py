"""``DeployOperator(target=...)``: the description of the Kubernetes objects that serve a model."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.pod import Pod
from airflow_mlops.compute.kubernetes.serving import kserve, manifests
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.secrets import url_credentials

# Kubernetes allows 63 characters. Names of pods and of the record of the endpoint are longer.
_LONGEST = 45
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(kw_only=True)
class Target(ABC):
    """The base class of the descriptions of the Kubernetes objects that serve a model.

    :param pod: the pods of the servers: image, resources, environment, placement. All objects use the ``namespace`` and
        ``kubernetes_conn_id`` of the pod. Its ``deferrable`` determines whether the task waits in the triggerer. The
        endpoint must be ready within ``schedule_timeout`` plus ``startup_timeout``
    :param name: name of the objects; by default derived from the name of the model
    :param url: address of the endpoint for clients, for the result and the link; by default the address in the cluster
    :raises SpecError: a field is invalid, or the pod has a field that a server cannot have
    """

    pod: Pod
    name: str | None = None
    url: str | None = None

    template_fields: ClassVar[Sequence[str]] = ("pod", "name", "url")
    #: Kind of the object that runs the servers.
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        here, pod = type(self).__name__, self.pod
        for name, unset in (("nodes", 1), ("grow_memory", 1), ("active_deadline", None)):
            if getattr(pod, name) != unset:
                raise SpecError(f"{here}(pod=Pod({name}=...)) is invalid, because servers do not end. Remove {name}=.")
        if self.url and next(url_credentials(self.url), None) is not None:
            raise SpecError(
                f"{here}(url=...) contains credentials, which the ledger would store. Remove them from url=."
            )
        if self.name and "{" not in self.name and not (_NAME.fullmatch(self.name) and len(self.name) <= _LONGEST):
            raise SpecError(
                f"{here}(name={self.name!r}) is invalid. Write at most {_LONGEST} lower-case letters, digits and hyphens, "
                "beginning with a letter."
            )

    def serialize(self) -> Json:
        """Return the fields that Airflow shows as the rendered field ``target`` of the task."""
        return {"kind": self.kind, "name": self.name, "url": self.url, "pod": self.pod.serialize()}

    def object_name(self, model: str) -> str:
        """Return the name of the objects that serve a model."""
        return self.name or default_name(model)

    @property
    def limit(self) -> int:
        """Return the seconds within which the endpoint must be ready."""
        return self.pod.schedule_timeout + self.pod.startup_timeout

    @property
    def needs_version(self) -> str | None:
        """Return the name of a field that is set, but needs a fixed version of the model.

        Servers that follow the champion do not support such a field. Return ``None`` if no such field is set.
        """
        return None

    @abstractmethod
    def manifests(self, name: str, namespace: str, pod: Json, served: Mapping[str, Sequence[str]]) -> list[Json]:
        """Return the objects. The first object runs the servers.

        :param name: name of the objects
        :param namespace: namespace of the objects
        :param pod: manifest of a server's pod
        :param served: versions of each API group that the cluster serves
        """


@dataclass(kw_only=True)
class Deployment(Target):
    """Serves a model with a Deployment, a Service and a PodDisruptionBudget.

    With ``max_replicas``, a HorizontalPodAutoscaler scales the pods. Pods of a new version replace the old pods one by
    one, each only after the new pod is ready.

    :param pod: see :class:`Target`, also for ``name`` and ``url``
    :param replicas: number of pods; with ``max_replicas`` the smallest number
    :param max_replicas: largest number of pods. The number of pods follows their CPU use; by default it is fixed
    :param target_cpu: CPU use above which pods are added, in percent of ``Pod(cpu=...)``
    :raises SpecError: a field is invalid, or the pod has a field that a server cannot have
    """

    replicas: int = 2
    max_replicas: int | None = None
    target_cpu: int = 70

    kind: ClassVar[str] = "Deployment"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replicas < 1:
            raise SpecError(f"Deployment(replicas={self.replicas}) is invalid. Set replicas= to 1 or more.")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise SpecError(
                f"Deployment(max_replicas={self.max_replicas}) is invalid, because it is smaller than replicas=."
            )
        if self.max_replicas is not None and self.pod.cpu is None:
            raise SpecError(
                "Deployment(max_replicas=...) scales by the use of the CPUs that a pod requests. Set Pod(cpu=...)."
            )
        if not 1 <= self.target_cpu <= 100:
            raise SpecError(f"Deployment(target_cpu={self.target_cpu}) is invalid. Write a percentage from 1 to 100.")

    def manifests(self, name: str, namespace: str, pod: Json, served: Mapping[str, Sequence[str]]) -> list[Json]:
        found = [
            manifests.deployment(name, namespace, pod, self.replicas, self.limit),
            manifests.service(name, namespace),
            manifests.disruption_budget(name, namespace, served),
        ]
        if self.max_replicas is not None:
            limits = (self.replicas, self.max_replicas)
            found.append(manifests.autoscaler(name, namespace, limits, self.target_cpu, served))
        return found


@dataclass(kw_only=True)
class KServe(Target):
    """Serves a model with an InferenceService of KServe. Its predictor is a container of the runner image.

    :param pod: see :class:`Target`, also for ``name`` and ``url``
    :param replicas: smallest number of pods
    :param max_replicas: largest number of pods; by default ``replicas``
    :param canary_percent: share of the requests that the new version gets, in percent. The previous version gets the
        other requests. KServe supports this field in its serverless mode only. By default, the new version gets all
        requests
    :raises SpecError: a field is invalid, or the pod has a field that a server cannot have
    """

    replicas: int = 1
    max_replicas: int | None = None
    canary_percent: int | None = None

    kind: ClassVar[str] = kserve.KIND

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replicas < 1:
            raise SpecError(f"KServe(replicas={self.replicas}) is invalid. Set replicas= to 1 or more.")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise SpecError(
                f"KServe(max_replicas={self.max_replicas}) is invalid, because it is smaller than replicas=."
            )
        if self.canary_percent is not None and not 0 <= self.canary_percent <= 100:
            raise SpecError(
                f"KServe(canary_percent={self.canary_percent}) is invalid. Write a percentage from 0 to 100."
            )

    @property
    def needs_version(self) -> str | None:
        return "canary_percent" if self.canary_percent is not None else None

    def manifests(self, name: str, namespace: str, pod: Json, served: Mapping[str, Sequence[str]]) -> list[Json]:
        replicas = (self.replicas, self.max_replicas or self.replicas)
        return [kserve.inference_service(name, namespace, pod, replicas, self.canary_percent, served)]


def default_name(model: str) -> str:
    """Return a name for the objects that serve a model. Two models may get the same name."""
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return (name if name[:1].isalpha() else f"model-{name}")[:_LONGEST].strip("-")
