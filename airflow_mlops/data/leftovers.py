"""Files that crashed tasks leave in the artifact store: temporary files, files without a dataset, unfinished uploads.

Running tasks also have such files, so only old files are leftovers. Results, reports, checkpoints of trainings and
records are never leftovers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from airflow_mlops.core.errors import MLOpsError, StoreError
from airflow_mlops.data.datasets import read_manifests
from airflow_mlops.data.store import ArtifactStore, UnfinishedUpload

Kind = Literal["temporary file", "file of no dataset", "unfinished upload"]

_TEMPORARY = re.compile(r"\.(.+\.)?[0-9a-f]{32}\.tmp")
_PROBE = re.compile(r"probe-[0-9a-f]{32}")


@dataclass(frozen=True)
class Leftover:
    """A leftover in the artifact store.

    :param kind: kind of the leftover
    :param key: key of the file
    :param written: time at which the file was last written, or the upload began, in UTC
    :param bytes: size of the file; ``None`` for an upload
    :param upload: the unfinished upload; ``None`` for a file
    """

    kind: Kind
    key: str
    written: datetime
    bytes: int | None
    upload: UnfinishedUpload | None = None


@dataclass(frozen=True)
class Leftovers:
    """The leftovers of a store.

    :param found: the leftovers, ordered by kind and key
    :param skipped: datasets whose files were not checked, because a manifest cannot be read: the error by dataset name
    """

    found: list[Leftover]
    skipped: dict[str, str] = field(default_factory=dict)


def find_leftovers(store: ArtifactStore, before: datetime) -> Leftovers:
    """Find the leftovers that were last written before a time.

    :param before: a time with a time zone, before the start of every running task
    :raises StoreError: the store cannot be read
    """
    # In a local store, any folder can have temporary files. In an object store, only the check of conditional writes
    # has some.
    folder = "" if store.local_path("") else ".mlops"
    found = _files(store, "temporary file", filter(_is_temporary, store.find(folder)), before)
    # Models, numbers of failing rows, and splits that a killed task passed to the executors of Spark, and predictions that
    # the shards of an evaluation passed to the last shard.
    for passed in ("checkpoints/models", "checkpoints/failing_rows", "checkpoints/split_rows", "checkpoints/scores"):
        found += _files(store, "temporary file", store.find(passed), before)
    skipped: dict[str, str] = {}
    for name in (key.rpartition("/")[2] for key in store.keys("datasets")):
        # Files are listed before manifests are read, so a file that is committed in between is not treated as orphaned.
        keys = [key for key in store.find(f"datasets/{name}/files") if not _is_temporary(key)]
        try:
            listed = {file.path for manifest in read_manifests(store, name) for file in manifest.files}
        except StoreError:
            raise
        except MLOpsError as error:
            skipped[name] = str(error)
            continue
        found += _files(store, "file of no dataset", orphans(store, keys, listed, before), before)
    found += [
        Leftover("unfinished upload", upload.key, upload.started, None, upload)
        for upload in store.unfinished_uploads()
        if upload.started < before
    ]
    return Leftovers(found, skipped)


def remove_leftovers(store: ArtifactStore, found: Iterable[Leftover]) -> None:
    """Delete the files of leftovers, and discard the parts of unfinished uploads.

    :raises StoreError: the store cannot be written
    """
    for item in found:
        if item.upload is not None:
            store.abort_upload(item.upload)
        else:
            store.delete(item.key)


def orphans(store: ArtifactStore, keys: Iterable[str], listed: Collection[str], before: datetime) -> list[str]:
    """Return the files that were written before a time and are not listed in a manifest.

    Files are written before their manifest, so a new file that no manifest lists may belong to a running task.

    :param store: the artifact store
    :param keys: keys of files, which must have been listed before the manifests were read
    :param listed: keys of the files in all manifests
    :param before: a time with a time zone
    """
    return [key for key in keys if key not in listed and older_than(store, key, before)]


def older_than(store: ArtifactStore, key: str, limit: datetime) -> bool:
    """Return whether a file was last written before ``limit``. A file whose time is unknown is not old."""
    written = store.modified(key)
    return written is not None and written < limit


def delete_files(store: ArtifactStore, keys: Sequence[str], *, dry_run: bool) -> int:
    """Delete files, unless ``dry_run`` is set, and return their total size in bytes."""
    size = 0
    for key in keys:
        size += _size(store, key)
        if not dry_run:
            store.delete(key)
    return size


def _files(store: ArtifactStore, kind: Kind, keys: Iterable[str], before: datetime) -> list[Leftover]:
    found = []
    for key in keys:
        written = store.modified(key)
        if written is not None and written < before:
            found.append(Leftover(kind, key, written, _size(store, key)))
    return found


def _is_temporary(key: str) -> bool:
    folder, _, name = key.rpartition("/")
    return _TEMPORARY.fullmatch(name) is not None or (folder == ".mlops" and _PROBE.fullmatch(name) is not None)


def _size(store: ArtifactStore, key: str) -> int:
    return int((store.info(key) or {}).get("size") or 0)
