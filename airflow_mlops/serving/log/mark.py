"""Recognise the artifact store to which a spool belongs.

If the file system of the store is not mounted, nothing may be written into the empty folder in its place.

A mount point without its file system is an empty folder, and therefore looks like a new store. For this reason, the
store contains a random id for each model with servers, and the spool contains a copy of the id::

    online-marks/MODEL.json
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.layout import mark_key

#: The file of a spool with the id of its store.
FILE = "store"


def require_mark(store: ArtifactStore, model: str, folder: Path) -> None:
    """Check that the store is the one to which the spool has uploaded before. A new spool takes the id of the store.

    Object stores are not checked, because they cannot be unmounted: a missing bucket is an error anyway.

    :param store: the artifact store
    :param model: name of the registered model
    :param folder: folder of the spool
    :raises StoreError: the store cannot be used, or is not the store to which the spool has uploaded before
    """
    if store.is_object_store:
        return
    key, file = mark_key(model), folder / FILE
    found = _read(store, key)
    try:
        known = file.read_text()
    except FileNotFoundError:
        if found is None:
            store.create_exclusive(key, json.dumps({"id": uuid.uuid4().hex}).encode())
            # Another server may have been faster.
            found = _read(store, key)
        _keep(file, str(found))
        return
    if found != known:
        raise StoreError(
            f"The artifact store {store.url} is not the one to which the spool {folder} has uploaded predictions before. Its file "
            f"system may not be mounted. If the store was emptied or replaced on purpose, delete the file {file}."
        )


def _read(store: ArtifactStore, key: str) -> str | None:
    try:
        found: str = store.read_json(key)["id"]
    except FileNotFoundError:
        return None
    return found


def _keep(file: Path, found: str) -> None:
    # Another server with the same spool may write the file at the same time.
    new = file.with_name(f"{FILE}-{uuid.uuid4().hex}")
    new.write_text(found)
    new.rename(file)
