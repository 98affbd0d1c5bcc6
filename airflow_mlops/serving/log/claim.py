"""Claim the folder of a spool for one model and one artifact store.

The files of a spool name neither of them, so a server would upload the predictions of another model as its own.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import BinaryIO

from airflow_mlops.core.errors import SpecError
from airflow_mlops.serving.log import mark

_FILE = "owner"
# Files that a server leaves in its spool until they are uploaded.
_LEFTOVERS = ("*.arrows", "*.server")


def claim(folder: Path, model: str, store: str) -> BinaryIO:
    """Claim a spool for the servers of a model, which may share it, and create its folder if necessary.

    Another model can claim the spool when no server uses it and everything in it is uploaded.

    :param folder: folder of the spool
    :param model: name of the registered model
    :param store: URL of the artifact store
    :return: the file that claims the spool as long as it is open
    :raises SpecError: the spool belongs to servers of another model or artifact store
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = {"model": model, "store": store.rstrip("/")}
    file = (folder / _FILE).open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Another process uses the spool, or claims it at this moment.
        pass
    else:
        if (found := _read(file)) is None or not any(next(folder.rglob(pattern), None) for pattern in _LEFTOVERS):
            if found != owner:
                (folder / mark.FILE).unlink(missing_ok=True)
            file.truncate(0)
            file.write(json.dumps(owner).encode())
            file.flush()
    # The shared lock replaces the exclusive lock. In between, another process may claim the spool.
    fcntl.flock(file, fcntl.LOCK_SH)
    found = _read(file)
    if found != owner:
        file.close()
        other = found or {}
        raise SpecError(
            f"The spool {folder} belongs to a server of the model {other.get('model')!r} with the artifact store "
            f"{other.get('store')!r}, which still runs or has left predictions there. Set --spool to another folder, or "
            "start that server again to upload the predictions."
        )
    return file


def is_removed(path: Path, file: BinaryIO) -> bool:
    """Return whether another program has deleted or moved an open file, for example to clean temporary folders."""
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True


def _read(file: BinaryIO) -> dict[str, str] | None:
    """Return the owner; ``None`` if there is none, as in a new spool."""
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
