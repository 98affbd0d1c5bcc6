"""Copies of many small files of the artifact store in one object, so that reading all of them takes few requests.

A copy contains two things for each file: the values that a reader needs, and a stamp (text made from the filesystem's
metadata of the file). If the stamp in a listing differs from the stamp in the copy, the file itself is read. A file
that this version of the package cannot read is not copied, because another version may read it.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store import ArtifactStore

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

# Metadata that changes when a file is replaced, on the filesystems that fsspec knows.
_CHANGING = (
    "ETag",
    "etag",
    "generation",
    "mtime",
    "ino",
    "created",
    "LastModified",
    "last_modified",
    "updated",
    "size",
)


def stamp(info: Mapping[str, Any]) -> str:
    """Return a text that changes when a file is replaced.

    :param info: the filesystem's metadata of the file
    """
    return " ".join(str(info[name]) for name in _CHANGING if info.get(name) is not None)


@dataclass(frozen=True)
class Copy:
    """The stamp of each file and the value made from its content, by key of the file.

    :param values: the value is ``None`` if the file cannot be read
    :param read: number of values that were read from their files because the stored copy did not have them
    :param known: the values from an earlier copy that could be used
    """

    values: dict[str, tuple[str, Any]]
    read: int
    known: Mapping[str, tuple[str, Any]]


def read(
    store: ArtifactStore,
    listed: Mapping[str, Mapping[str, Any]],
    make: Callable[[str, bytes], Any],
    known: Mapping[str, tuple[str, Any]],
) -> Copy:
    """Return the value of each listed file. Files that are known with the same stamp are not read.

    :param listed: keys of the files, each with the filesystem's metadata
    :param make: function that takes the key and the content of a file, and returns its value in JSON
    :param known: values from an earlier copy
    :raises StoreError: the store cannot be read
    """
    stamps = {key: stamp(info) for key, info in listed.items()}
    changed = [key for key in listed if key not in known or known[key][0] != stamps[key]]
    contents = store.read_many(changed)
    values = {}
    for key in listed:
        if key in contents:
            # The content may be newer than the stamp. Then the next listing shows another stamp.
            values[key] = (stamps[key], make(key, contents[key]))
        elif key in known and known[key][0] == stamps[key]:
            values[key] = known[key]
    return Copy(values, sum(values[key][1] is not None for key in contents), known)


def read_models(
    kind: type[M],
    store: ArtifactStore,
    listed: Mapping[str, Mapping[str, Any]],
    make: Callable[[str, bytes], Any],
    known: Mapping[str, tuple[str, Any]],
) -> tuple[Copy, list[M]]:
    """Read the files like :func:`read`, and return their values also as models. Files that cannot be read have no model.

    If a value is not valid, another version of this package wrote the copy. The copy is then not used at all.

    :param kind: class of the models
    :raises StoreError: the store cannot be read
    """
    found = read(store, listed, make, known)
    try:
        return found, _models(kind, found)
    except ValidationError:
        found = read(store, listed, make, {})
        return found, _models(kind, found)


def _models(kind: type[M], found: Copy) -> list[M]:
    return [kind.model_validate(value) for _, value in found.values.values() if value is not None]


def load(store: ArtifactStore, key: str, version: int) -> dict[str, tuple[str, Any]]:
    """Read a stored copy. The result is empty if there is no copy, or if it is damaged or has another version."""
    try:
        content = json.loads(gzip.decompress(store.read_bytes(key)))
        if content["version"] != version:
            return {}
        # Copies of earlier releases have files without a value.
        return {str(name): (str(item[0]), item[1]) for name, item in content["files"].items() if item[1] is not None}
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        log.warning("The copy %s cannot be used (%s), so each original file is read.", key, error)
        return {}


def save(store: ArtifactStore, key: str, version: int, values: Mapping[str, tuple[str, Any]]) -> None:
    """Store a copy. It is never required, so a failure is only logged."""
    files = {name: item for name, item in values.items() if item[1] is not None}
    content = json.dumps({"version": version, "files": files}, ensure_ascii=False, allow_nan=False)
    try:
        store.write_bytes(key, gzip.compress(content.encode(), compresslevel=5, mtime=0))
    except StoreError as error:
        log.warning("The copy %s was not written, so the next page reads each original file: %s", key, error)
