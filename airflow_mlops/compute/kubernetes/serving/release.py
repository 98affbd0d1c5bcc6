"""The record of the releases of an endpoint: the last verified release, and the release that is being rolled out.

A ConfigMap contains the record, and is written before any other object is changed. The verified release can therefore
be restored even if the task, its worker or Airflow is lost. A retry can tell the verified from the unverified release.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.serving.manifests import INSTANCE, MANAGED_BY, MANAGER
from airflow_mlops.core.errors import SpecError
from airflow_mlops.registry.records.endpoint import Endpoint

_KEY = "record"


class Release(BaseModel):
    """The Kubernetes objects that one deployment has applied.

    :param endpoint: the endpoint that consists of the objects
    :param manifests: the objects; the first object runs the servers
    :param call: identifier of the task that applied them
    """

    model_config = ConfigDict(frozen=True)

    endpoint: Endpoint
    manifests: list[dict[str, Any]]
    call: str


class Record(BaseModel):
    """The releases of one endpoint.

    :param good: the last verified release; ``None`` if none was ever verified
    :param trying: the release that is being rolled out; ``None`` if there is none
    """

    model_config = ConfigDict(frozen=True)

    good: Release | None = None
    trying: Release | None = None

    @property
    def model(self) -> str | None:
        """Return the name of the served model."""
        found = self.good or self.trying
        return found.endpoint.version.model if found is not None else None


def record_name(name: str) -> str:
    """Return the name of the ConfigMap with the record."""
    return f"{name}-airflow-mlops"


def to_config_map(record: Record, name: str, namespace: str) -> Json:
    """Return the ConfigMap with a record."""
    labels = {INSTANCE: name, MANAGED_BY: MANAGER}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": record_name(name), "namespace": namespace, "labels": labels},
        "data": {_KEY: record.model_dump_json()},
    }


def from_config_map(found: Json | None) -> Record:
    """Return the record in a ConfigMap; an empty record if there is none.

    :raises SpecError: the ConfigMap was changed and no longer contains a record
    """
    if found is None:
        return Record()
    try:
        return Record.model_validate_json(found["data"][_KEY])
    except (KeyError, TypeError, ValidationError):
        metadata = found["metadata"]
        raise SpecError(
            f"ConfigMap {metadata['namespace']}/{metadata['name']} is not the record of an endpoint. Restore it, or delete it "
            f"together with the objects that have the label {INSTANCE}={metadata['name'].removesuffix('-airflow-mlops')}."
        ) from None
