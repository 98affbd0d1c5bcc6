"""Identify the content of files without parsing them.

The identity of a file is the SHA-256 of its bytes. Size and modification time can stay the same when the content
changes, and ETags of object stores depend on how the file was uploaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.stages.ingest.sources.listing import FoundFile
from airflow_mlops.stages.ingest.sources.urls import file_url

_BLOCK = 1 << 20
# Entries of fsspec's file information that reading the file changes.
_READING = frozenset({"time", "accessTime", "last_access_time"})
# HTTP headers that change with the content. A server sends none of them for content that it creates for each request.
_VALIDATORS = ("ETag", "Last-Modified", "Content-MD5", "Digest")


def hashes(files: Iterable[FoundFile]) -> list[str]:
    """Return the SHA-256 of the bytes of each file.

    A compressed file is not decompressed. For a member of an archive, the archive is hashed.
    """
    known: dict[tuple[int, str], str] = {}
    found = []
    for file in files:
        fs, path = _stored(file)
        place = (id(fs), path)
        if place not in known:
            known[place] = _sha256(fs, path)
        found.append(known[place])
    return found


def states(files: Iterable[FoundFile]) -> list[str]:
    """Return what the file system knows about each file, such as its inode, modification time or ETag.

    Every write changes this information, even a write of the same content.

    :raises NotCacheableError: a web server sends nothing that changes with the content
    """
    return list(dict.fromkeys(_state(file) for file in files))


def _state(file: FoundFile) -> str:
    fs, path = _stored(file)
    # The information may otherwise come from an earlier listing of the folder.
    fs.invalidate_cache()
    info = fs.info(path)
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    if {"http", "https"}.intersection(protocols) and not any(info.get(name) for name in _VALIDATORS):
        raise NotCacheableError(
            f"the server of {file_url(file.file)} sends neither an ETag nor the time of the last change, so the file may "
            "have changed while it was read"
        )
    return repr(sorted((name, repr(value)) for name, value in info.items() if name not in _READING))


def _stored(file: FoundFile) -> tuple[Any, str]:
    """Return the file system and the path of the file whose bytes are stored: an archive instead of its member."""
    archive: Any = getattr(file.file.fs, "of", None)
    return (archive.fs, archive.path) if hasattr(archive, "path") else (file.file.fs, file.file.path)


def _sha256(fs: Any, path: str) -> str:
    digest = hashlib.sha256()
    with fs.open(path, mode="rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
