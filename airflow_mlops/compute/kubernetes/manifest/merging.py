"""Merge and compare manifests, field by field."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

# Lists of named items, and the field that holds the name.
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
}
# Lists that are replaced as a whole.
_WHOLE = ("command", "args")
# Kubernetes accepts only one field of these objects, apart from the name of an item: variables have a value or a
# source, and volumes and sources have one kind. Items of a list have the name of the list and [].
_ONE_FIELD = ("env[]", "volumes[]", "valueFrom")
# Kubernetes accepts only one handler in each of these objects.
_HANDLED = ("startupProbe", "livenessProbe", "readinessProbe", "preStop", "postStart")
_HANDLERS = frozenset({"exec", "httpGet", "tcpSocket", "grpc", "sleep"})


def merge(base: Any, over: Any, name: str = "") -> Any:
    """Merge two values and return the merged copy. If a field is set in both values, ``over`` takes precedence.

    Objects are merged field by field, and lists of named items item by item. Other lists are concatenated without
    duplicates. Some fields exclude each other in Kubernetes, such as ``value`` and ``valueFrom`` of a variable. If
    ``over`` sets one of them, the others are removed from ``base``.

    :param name: name of the field that holds the two values; empty for whole manifests
    """
    if isinstance(base, dict) and isinstance(over, dict):
        excluded = _excluded(base, over, name)
        merged = {key: deepcopy(value) for key, value in base.items() if key not in excluded}
        for key, value in over.items():
            merged[key] = merge(base[key], value, key) if key in base else deepcopy(value)
        return merged
    if isinstance(base, list) and isinstance(over, list) and name not in _WHOLE:
        return _merge_lists(base, over, name)
    return deepcopy(over)


def _excluded(base: dict[str, Any], over: dict[str, Any], name: str) -> set[str]:
    """Return the fields of ``base`` that Kubernetes does not accept together with the fields of ``over``."""
    if name in _ONE_FIELD and over.keys() - {"name"}:
        return base.keys() - over.keys() - {"name"}
    if name in _HANDLED and over.keys() & _HANDLERS:
        return (base.keys() & _HANDLERS) - over.keys()
    return set()


def _merge_lists(base: list[Any], over: list[Any], name: str) -> list[Any]:
    key = _KEYS.get(name)
    merged = deepcopy(base)
    positions = {item.get(key): position for position, item in enumerate(base)} if key else {}
    for item in over:
        position = positions.get(item.get(key)) if key else None
        if position is not None:
            merged[position] = merge(merged[position], item, f"{name}[]")
        elif key or item not in merged:
            merged.append(deepcopy(item))
    return merged


def missing_fields(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Return the paths of fields that are in ``wanted`` but not in ``found``, such as ``spec.containers[0].image``."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [path] if wanted else []
        missing: list[str] = []
        for key, value in wanted.items():
            if value is not None:
                field = f"{path}.{key}".lstrip(".")
                missing += missing_fields(value, found[key], field) if key in found else [field]
        return missing
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) < len(wanted):
            return [path]
        return [
            field
            for position, value in enumerate(wanted)
            for field in missing_fields(value, found[position], f"{path}[{position}]")
        ]
    return []
