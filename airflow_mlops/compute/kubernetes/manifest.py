"""A pod as the JSON that Kubernetes reads: what is usual, under a template of the user's, under what the user said."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

Json = dict[str, Any]

# Memory as Kubernetes writes it: a number of bytes, with a unit or without.
MEMORY = re.compile(r"^(\d+(?:\.\d+)?)([EPTGMK]i|[EPTGMk])?$")
_PREFIXES = "kMGTPE"

# Lists of named things, and the field that names them; all other lists are joined.
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
# Lists that are one value.
_WHOLE = ("command", "args")


def merge(base: Any, over: Any, name: str = "") -> Any:
    """``over`` on top of ``base``: nothing of either vanishes unless the other says something else in its place.

    Objects merge field by field and lists of named things thing by thing; other lists are joined, without doubles.
    """
    if isinstance(base, dict) and isinstance(over, dict):
        merged = {key: deepcopy(value) for key, value in base.items()}
        for key, value in over.items():
            merged[key] = merge(base[key], value, key) if key in base else deepcopy(value)
        return merged
    if isinstance(base, list) and isinstance(over, list) and name not in _WHOLE:
        return _merge_lists(base, over, _KEYS.get(name))
    return deepcopy(over)


def _merge_lists(base: list[Any], over: list[Any], key: str | None) -> list[Any]:
    merged = deepcopy(base)
    places = {thing.get(key): place for place, thing in enumerate(base)} if key else {}
    for thing in over:
        place = places.get(thing.get(key)) if key else None
        if place is not None:
            merged[place] = merge(merged[place], thing)
        elif key or thing not in merged:
            merged.append(deepcopy(thing))
    return merged


def main_container(pod: Json) -> str:
    """The name of the container that runs the step: ``base`` if there is one, or else the first."""
    names = [container.get("name", "base") for container in pod.get("spec", {}).get("containers", [])]
    return "base" if "base" in names or not names else str(names[0])


def losses(wanted: Any, found: Any, path: str = "") -> list[str]:
    """The paths of fields in ``wanted`` that ``found`` lacks."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [path] if wanted else []
        return [
            lost
            for key, value in wanted.items()
            if value is not None
            for lost in (
                losses(value, found[key], f"{path}.{key}".lstrip("."))
                if key in found
                else [f"{path}.{key}".lstrip(".")]
            )
        ]
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) < len(wanted):
            return [path]
        return [lost for place, value in enumerate(wanted) for lost in losses(value, found[place], f"{path}[{place}]")]
    return []


def times(amount: str, factor: float) -> str:
    """An amount of memory, multiplied."""
    found = MEMORY.match(amount)
    if found is None:
        return amount
    number, unit = found.groups()
    return f"{float(number) * factor:.10g}{unit or ''}"


def in_bytes(amount: str) -> float:
    """An amount of memory as a number.

    :raises ValueError: it is not written as Kubernetes writes it
    """
    found = MEMORY.match(amount)
    if found is None:
        raise ValueError(amount)
    number, unit = found.groups()
    if not unit:
        return float(number)
    base = 1024 if unit.endswith("i") else 1000
    return float(number) * base ** (_PREFIXES.index(unit[0].replace("K", "k")) + 1)


def grown(pod: Json, factor: float) -> Json:
    """The pod with ``factor`` times the memory for the container that runs the step."""
    pod = deepcopy(pod)
    name = main_container(pod)
    container = next(item for item in pod["spec"]["containers"] if item["name"] == name)
    for amounts in container.get("resources", {}).values():
        if "memory" in amounts:
            amounts["memory"] = times(str(amounts["memory"]), factor)
    return pod
