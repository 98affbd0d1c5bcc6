"""What is restored after a failed deployment, and what is removed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from airflow_mlops.compute import Deployment, Pod
from airflow_mlops.compute.kubernetes.serving import manifests
from airflow_mlops.compute.kubernetes.serving.release import Record, Release, from_config_map, to_config_map
from airflow_mlops.compute.kubernetes.serving.restoring import apply_all, put_back, remove
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.records.endpoint import Endpoint
from airflow_mlops.stages.deploy.spec import DeploySpec

SERVED = {"autoscaling": ["v2"], "policy": ["v1"]}


class Objects:
    """The requests of EndpointApi, on a dict of objects."""

    name, namespace = "late", "serving"

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Any] = {}
        self.refuses: str | None = None

    def get(self, manifest):
        return self.found.get((manifest["kind"], manifest["metadata"]["name"]))

    def apply(self, manifest):
        if manifest["kind"] == self.refuses:
            raise ConnectionError(manifest["kind"])
        self.found[manifest["kind"], manifest["metadata"]["name"]] = manifest

    def delete(self, manifest):
        self.found.pop((manifest["kind"], manifest["metadata"]["name"]), None)

    def record(self):
        return from_config_map(self.get(to_config_map(Record(), self.name, self.namespace)))

    def write_record(self, record):
        manifest = to_config_map(record or Record(), self.name, self.namespace)
        (self.apply if record is not None else self.delete)(manifest)

    def begin(self, release: Release) -> None:
        self.write_record(Record(good=self.record().good, trying=release))
        apply_all(self, release.manifests)


def release(version: int, call: str, **options) -> Release:
    target = Deployment(pod=Pod(image=f"i:{version}", cpu=1), **options)
    spec = DeploySpec(model="late", version=version)
    pod = manifests.server_pod(target.pod, {}, manifests.command(spec, "s3://b"))
    ref = ModelVersionRef(model="late", version=version, run_id="r")
    endpoint = Endpoint(
        version=ref, follows=False, kind="Deployment", namespace="serving", name="late", url="http://late", image="i"
    )
    return Release(endpoint=endpoint, manifests=target.manifests("late", "serving", pod, SERVED), call=call)


def verified(api: Objects, found: Release) -> None:
    api.begin(found)
    api.write_record(Record(good=found))


@pytest.mark.parametrize("before", [{}, {"max_replicas": 4}])
@pytest.mark.parametrize("after", [{}, {"max_replicas": 5}, {"replicas": 3}])
def test_the_verified_release_is_restored_with_exactly_its_objects(before, after):
    api = Objects()
    verified(api, there_was := release(1, "a", **before))
    there = deepcopy(api.found)
    api.begin(release(2, "b", **after))
    assert api.found != there
    assert put_back(api, "b").release == there_was
    if "max_replicas" in before:
        # An autoscaler chooses the number of pods.
        assert 2 <= api.found["Deployment", "late"]["spec"].pop("replicas") <= 4
        there["Deployment", "late"]["spec"].pop("replicas", None)
    assert api.found == there


def test_a_failed_first_deployment_leaves_no_objects():
    api = Objects()
    api.begin(release(1, "a", max_replicas=3))
    assert put_back(api, "a").release is None
    assert api.found == {}


def test_a_retry_does_not_treat_the_unverified_release_as_the_previous_one():
    api = Objects()
    verified(api, release(1, "a"))
    there = dict(api.found)
    # The first try was lost.
    api.begin(release(2, "b", max_replicas=3))
    api.begin(release(2, "b", max_replicas=3))
    put_back(api, "b")
    assert api.found == there


def test_nothing_is_restored_over_the_deployment_of_another_task():
    api = Objects()
    verified(api, release(1, "a"))
    api.begin(release(2, "b"))
    api.begin(release(3, "c"))
    there = dict(api.found)
    assert put_back(api, "b").release is None
    assert api.found == there


def test_the_record_remains_until_all_objects_are_restored():
    api = Objects()
    verified(api, release(1, "a"))
    there = dict(api.found)
    api.begin(release(2, "b"))
    api.refuses = "Service"
    with pytest.raises(ConnectionError):
        put_back(api, "b")
    assert api.record().trying is not None
    api.refuses = None
    put_back(api, "b")
    assert api.found == there


def test_all_objects_are_removed_including_those_of_a_lost_task():
    api = Objects()
    verified(api, release(1, "a", max_replicas=2))
    api.begin(release(2, "b"))
    api.found["Deployment", "other"] = {}
    remove(api, api.record())
    assert api.found == {("Deployment", "other"): {}}


def test_a_damaged_record_is_an_error():
    damaged = to_config_map(Record(), "late", "serving")
    damaged["data"]["record"] = "{"
    with pytest.raises(SpecError, match="late-airflow-mlops"):
        from_config_map(damaged)
    assert from_config_map(None) == Record()
    good = release(1, "a")
    assert from_config_map(to_config_map(Record(good=good), "late", "serving")) == Record(good=good)
