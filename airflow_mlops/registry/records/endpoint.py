"""The record of a deployed or removed online endpoint in a ledger entry."""

from __future__ import annotations

from airflow_mlops.core.base import Model
from airflow_mlops.core.references import ModelVersionRef


class Endpoint(Model):
    """An online endpoint of a model in a Kubernetes cluster.

    :param version: the version that was verified when the endpoint was deployed
    :param follows: whether the endpoint follows the champion after the deployment, instead of serving only ``version``
    :param kind: kind of the Kubernetes object that runs the servers, such as ``Deployment``
    :param namespace: namespace of the object
    :param name: name of the object
    :param url: address of the endpoint for clients
    :param image: container image of the servers
    :param before: number of the version that the endpoint served before; ``None`` if the endpoint is new
    """

    version: ModelVersionRef
    follows: bool
    kind: str
    namespace: str
    name: str
    url: str
    image: str
    before: int | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"
