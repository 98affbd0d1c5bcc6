"""Stored descriptions of everything that determines the features of a join, because importing Feast takes seconds.

The first look-up in the cache of results stores a description of the features in the artifact store. Later look-ups use
this description if the repository's configuration, all definitions in Feast's registry and the names of the source
files are the same. The content of the source files is hashed each time. Only registries in a local file are supported.
The key of the description is::

    cache/features/KEY.json
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from airflow_mlops.core import own_code
from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.fingerprints import file_sha256, fingerprint
from airflow_mlops.core.isolation import without_running
from airflow_mlops.data.feast.repository import lock_file
from airflow_mlops.data.store import ArtifactStore

_REGISTRY = "feast.protos.feast.core.Registry_pb2"


class Source(Model):
    """The files from which the features of one feature view are joined.

    :param root: the file, or the folder with the files
    :param names: paths of all files in the folder, relative to it; empty if ``root`` is a file
    :param files: paths of the files that a join reads, in its order
    """

    root: str
    names: list[str]
    files: list[str]

    @classmethod
    def of(cls, root: str, files: Sequence[str]) -> Source:
        """Create the description of the files of a source.

        :param root: the file, or the folder with the files
        :param files: paths of the files that a join reads
        """
        return cls(root=root, names=names_in(root), files=list(files))


class Remembered(Model):
    """The description of the features of a join.

    :param content: the description, from :func:`airflow_mlops.data.feast.content.describe`
    :param sources: the files of each feature view in ``content["views"]``
    """

    content: dict[str, Any]
    sources: list[Source]


def content(
    store: ArtifactStore,
    repo: str,
    requested: Sequence[Any],
    describe: Callable[[], tuple[dict[str, Any], list[Source] | None]],
) -> dict[str, Any]:
    """Return the description of everything that determines the features of a join. Feast is not needed if it is stored.

    :param store: the artifact store
    :param repo: folder of the Feast repository
    :param requested: the requested feature service and features
    :param describe: function that describes the features with Feast. It returns the description and the files of each
        feature view. The files are ``None`` if the description must not be stored
    """
    key = _key(repo, requested)
    if key is not None and (found := _recall(store, key)) is not None:
        return found
    described, sources = describe()
    # The registry may have been changed before Feast read it.
    if key is not None and sources is not None and key == _key(repo, requested):
        store.write_json(key, Remembered(content=described, sources=sources).model_dump(mode="json"))
    return described


def _recall(store: ArtifactStore, key: str) -> dict[str, Any] | None:
    try:
        found = Remembered.model_validate(store.read_json(key))
        if any(names_in(source.root) != source.names for source in found.sources):
            return None
        for view, source in zip(found.content["views"], found.sources, strict=True):
            view["files"] = [file_sha256(Path(file)) for file in source.files]
    except (OSError, KeyError, TypeError, ValueError, StoreError):
        return None
    return found.content


def names_in(root: str) -> list[str]:
    """Return the relative paths of all files in a folder; none if ``root`` is a file.

    :raises OSError: ``root`` does not exist, or the folder contains links to folders, which may contain anything
    """
    if os.path.isfile(root):
        return []
    names = []
    for folder, folders, files in os.walk(root, onerror=_raise):
        if any(os.path.islink(os.path.join(folder, name)) for name in folders):
            raise OSError(f"{folder} contains a link to a folder")
        names += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def _key(repo: str, requested: Sequence[Any]) -> str | None:
    """Return the key of the stored description; ``None`` if Feast is needed to read the registry."""
    folder = Path(repo).expanduser().absolute()
    config = Path(os.environ.get("FEAST_FS_YAML_FILE_PATH", folder / "feature_store.yaml"))
    try:
        # Feast expands the variables in the same way.
        text = os.path.expandvars(config.read_text())
        registry = registry_file(folder, text)
        if registry is None:
            return None
        with lock_file(registry, shared=True):
            data = registry.read_bytes()
        definitions = _definitions(data)
    except Exception:  # noqa: BLE001 - Feast reads the repository, and reports what is wrong
        return None
    return f"cache/features/{fingerprint([own_code.environment(), str(folder), text, definitions, *requested])}.json"


def registry_file(folder: Path, config: str) -> Path | None:
    """Return the file of the registry; ``None`` if the registry is not a file on this machine.

    :param folder: folder of the Feast repository
    :param config: text of ``feature_store.yaml``, in which variables are replaced
    """
    import yaml

    registry = yaml.safe_load(config).get("registry")
    if isinstance(registry, dict):
        if registry.get("registry_type", "file") != "file" or "registry_store_type" in registry:
            return None
        registry = registry.get("path")
    return folder / registry if isinstance(registry, str) and "://" not in registry else None


def _definitions(registry: bytes) -> Any:
    """Return the definitions in Feast's registry as JSON, without the times of applying and materializing them."""
    from google.protobuf import json_format

    found = registry_message().FromString(registry)
    content: dict[str, Any] = json_format.MessageToDict(found, preserving_proto_field_name=True)
    # The two fields that are left out change each time the registry is written.
    return _lasting({name: item for name, item in content.items() if name not in ("last_updated", "version_id")})


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        # A mapping may contain a column called "meta", whose value is a text.
        return {name: _lasting(item) for name, item in value.items() if name != "meta" or not isinstance(item, dict)}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def registry_message() -> Any:
    """Return the class of Feast's registry. The package ``feast`` itself is not imported."""
    with without_running("feast"):
        return importlib.import_module(_REGISTRY).Registry
