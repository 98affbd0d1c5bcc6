"""Merging of manifests and amounts of memory."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.compute import Pod
from airflow_mlops.compute.kubernetes.manifest.merging import merge
from airflow_mlops.compute.kubernetes.manifest.pod import multiply_memory
from airflow_mlops.compute.memory_amounts import in_bytes, is_amount, multiply

names = st.sampled_from(["a", "b", "c"])
json_values = st.recursive(
    st.integers() | st.text("xyz", max_size=2),
    lambda inner: (
        st.dictionaries(names, inner, max_size=3)
        | st.lists(
            st.fixed_dictionaries({"name": names}, optional={"value": inner}), unique_by=lambda item: item["name"]
        )
    ),
    max_leaves=8,
)


def leaves(value, path=()):
    """Every value in a tree with its path, in which an item of a list has its name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, (*path, item["name"]))
    else:
        yield path, value


def subtrees(value, path=()):
    yield path, type(value)
    for key, item in (
        value.items() if isinstance(value, dict) else [(i["name"], i) for i in value] if isinstance(value, list) else ()
    ):
        yield from subtrees(item, (*path, key))


@given(st.dictionaries(st.sampled_from(["containers", "volumes", "env"]), json_values, max_size=3), st.data())
def test_merge_keeps_all_of_over_and_every_part_of_base_that_over_does_not_contradict(base, data):
    over = data.draw(st.dictionaries(st.sampled_from(["containers", "volumes", "env"]), json_values, max_size=3))
    before = json.dumps([base, over])
    merged = merge(base, over)
    found = dict(leaves(merged))
    for path, value in leaves(over):
        assert found[path] == value
    # A value of base is replaced only if over has a value of another type at the same path or above it.
    above = dict(subtrees(over))
    below = dict(subtrees(base))
    for path, value in leaves(base):
        prefixes = [path[:n] for n in range(len(path) + 1)]
        if path not in dict(leaves(over)) and all(above.get(p, below[p]) == below[p] for p in prefixes):
            assert found[path] == value
    assert json.dumps([base, over]) == before


SECRET = {"secretKeyRef": {"name": "s", "key": "k"}}


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "valueFrom": SECRET}]}, None),
        ({"env": [{"name": "A", "valueFrom": SECRET}]}, {"env": [{"name": "A", "value": "1"}]}, None),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
            {"env": [{"name": "A", "valueFrom": SECRET}]},
            None,
        ),
        (
            {"volumes": [{"name": "data", "emptyDir": {}}]},
            {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]},
            None,
        ),
        # Settings of the same kind of volume are kept.
        (
            {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]},
            {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}}]},
            {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]},
        ),
        (
            {"livenessProbe": {"httpGet": {"path": "/live", "port": 80}, "periodSeconds": 2}},
            {"livenessProbe": {"exec": {"command": ["true"]}}},
            {"livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 2}},
        ),
        (
            {"livenessProbe": {"httpGet": {"path": "/live", "port": 80}}},
            {"livenessProbe": {"httpGet": {"path": "/other"}, "periodSeconds": 9}},
            {"livenessProbe": {"httpGet": {"path": "/other", "port": 80}, "periodSeconds": 9}},
        ),
        ({"preStop": {"exec": {"command": ["sleep", "5"]}}}, {"preStop": {"sleep": {"seconds": 9}}}, None),
        ({"labels": {"exec": "1"}}, {"labels": {"grpc": "2"}}, {"labels": {"exec": "1", "grpc": "2"}}),
    ],
)  # fmt: skip
def test_of_fields_that_exclude_each_other_only_that_of_over_is_kept(base, over, merged):
    assert merge(base, over) == (merged or over)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", 1), ("2Ki", 2048), ("1.5Gi", 1.5 * 2**30), ("3M", 3e6), ("1k", 1000), ("1Ti", 2**40), ("2E", 2e18), ("8589934592", 2**33),
        # The other forms of https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity.
        ("129e6", 129e6), ("1.5E3", 1500), ("128974848000m", 128974848), (".5Gi", 2**29), ("3.Mi", 3 * 2**20),
    ],
)  # fmt: skip
def test_amounts_of_memory_are_converted_and_multiplied(text, amount):
    assert in_bytes(text) == amount
    assert in_bytes(multiply(text, 2)) == 2 * amount
    assert is_amount(multiply(text, 1.1))


def test_memory_is_multiplied_only_in_the_container_that_runs_the_step():
    template = {
        "spec": {"containers": [{"name": "proxy", "resources": {"limits": {"memory": "1Gi"}}}, {"name": "base"}]}
    }
    pod = multiply_memory(Pod(image="i", memory="3Gi").manifest(template), 2)
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"memory": "6Gi"}, "requests": {"memory": "6Gi"}}
    assert pod["spec"]["containers"][1]["resources"] == {"limits": {"memory": "1Gi"}}
    # Shared memory stays half of the memory.
    (volume,) = pod["spec"]["volumes"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "3Gi"}
