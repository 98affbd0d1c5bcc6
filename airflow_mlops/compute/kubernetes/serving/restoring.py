"""Restore or remove the objects of an endpoint. Importing this module imports the Kubernetes client."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.serving import manifests, state
from airflow_mlops.compute.kubernetes.serving.api import EndpointApi
from airflow_mlops.compute.kubernetes.serving.check import unanswered
from airflow_mlops.compute.kubernetes.serving.release import Record, Release
from airflow_mlops.core.errors import ComputeError, DeploymentError

# Seconds within which the pods of a deleted object must end, and a restored endpoint must answer.
_DELETION_SECONDS, _RESTORED_SECONDS = 180, 300
_POLL_SECONDS = 1.0


class Restored(NamedTuple):
    """What :func:`put_back` has done.

    :param said: a description as a sentence
    :param release: the restored release; ``None`` if none was restored
    """

    said: str
    release: Release | None = None


def put_back(api: EndpointApi, call: str) -> Restored:
    """Apply the last verified release again, or delete the objects if there was none.

    The function does not wait for the pods of the release, see :func:`wait_until_answering`.

    :param api: requests about the endpoint
    :param call: identifier of the task whose release is replaced. Nothing is done if another task has deployed in the
        meantime
    """
    record = api.record()
    if record.trying is None or record.trying.call != call:
        return Restored("Nothing was restored, because another task has deployed in the meantime.")
    if record.good is None:
        remove(api, record)
        return Restored("The endpoint was removed, because there was no endpoint before.")
    apply_all(api, record.good.manifests)
    delete_others(api, record.trying, record.good.manifests)
    api.write_record(Record(good=record.good))
    followed = ", which follows the champion," if record.good.endpoint.follows else ""
    return Restored(f"The endpoint of {record.good.endpoint.version}{followed} was restored.", record.good)


def wait_until_answering(api: EndpointApi, release: Release) -> None:
    """Wait until all pods of a restored release are ready, and all servers answer that they have a version.

    :param api: requests about the endpoint
    :param release: the restored release
    :raises DeploymentError: the endpoint does not answer within five minutes, or was deleted
    :raises ComputeError: a pod cannot start, for example because its image does not exist any more
    """
    start = time.time()
    watch = state.Watch(start, math.inf)
    while True:
        live = api.get(release.manifests[0])
        if live is None:
            raise DeploymentError(f"{release.manifests[0]['kind']} {api} was deleted.")
        every = api.pods()
        pods = state.of_manifest(every, release.manifests[0])
        ready = [pod for pod in pods if state.pod_ready(pod)]
        said = state.progress(pods)
        if ready and state.is_ready(live, every) and not (said := unanswered(ready)):
            return
        if (error := watch.error(pods, now := time.time())) is not None:
            raise error
        if now - start > _RESTORED_SECONDS:
            raise DeploymentError(f"No answer within {_RESTORED_SECONDS} s ({said}).")
        time.sleep(_POLL_SECONDS)


def remove(api: EndpointApi, record: Record) -> None:
    """Delete all objects of an endpoint and then the record. The object that runs the servers is deleted last."""
    found = {_identity(item): item for part in (record.good, record.trying) if part for item in part.manifests}
    for manifest in reversed(found.values()):
        api.delete(manifest)
    api.write_record(None)


def wait_until_gone(api: EndpointApi, manifest: Json, *, only_deleted: bool = False) -> None:
    """Wait until an object and its pods no longer exist.

    :param api: requests about the endpoint
    :param manifest: manifest of the object
    :param only_deleted: whether to wait only if the object is being deleted
    :raises ComputeError: the object still exists after three minutes
    """
    end = time.monotonic() + _DELETION_SECONDS
    while (found := api.get(manifest)) is not None:
        if only_deleted and not found["metadata"].get("deletionTimestamp"):
            return
        if time.monotonic() > end:
            raise ComputeError(
                f"{manifest['kind']} {api} was not deleted within {_DELETION_SECONDS} s. Check its finalizers."
            )
        time.sleep(_POLL_SECONDS)


def apply_all(api: EndpointApi, made: list[Json]) -> None:
    """Apply the objects of an endpoint in their order.

    A Deployment with a HorizontalPodAutoscaler keeps its current number of pods, within the limits of the autoscaler.
    """
    scaled = next((item for item in made if item["kind"] == "HorizontalPodAutoscaler"), None)
    for manifest in made:
        is_scaled = scaled is not None and manifest["kind"] == "Deployment"
        api.apply(manifests.with_replicas(manifest, api.get(manifest), scaled) if is_scaled else manifest)


def delete_others(api: EndpointApi, old: Release | None, wanted: list[Json]) -> None:
    """Delete the objects of a release that are not among the wanted objects."""
    kept = {_identity(item) for item in wanted}
    for manifest in old.manifests if old is not None else []:
        if _identity(manifest) not in kept:
            api.delete(manifest)


def _identity(manifest: Json) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]
