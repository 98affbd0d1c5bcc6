"""Hashes of the code of a Feast repository."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow_mlops.core import own_code
from airflow_mlops.core.fingerprints import file_sha256
from airflow_mlops.core.isolation import FolderModules


def hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of the modules that define a repository, and of all modules that they import.

    :param folder: folder of the repository
    :raises NotCacheableError: the code of a module is not known, see :func:`airflow_mlops.core.own_code.hashes`
    """
    ignored = folder / ".feastignore"
    relative = [file.relative_to(folder) for file in sorted(folder.rglob("*.py"))]
    modules = [file.with_suffix("").parts for file in relative if not any(part[0] == "." for part in file.parts)]
    # Feast imports the modules by these names as well.
    with FolderModules(folder, {parts[0] for parts in modules}).active():
        sys.path.insert(0, str(folder))
        found = own_code.hashes(f"{'.'.join(parts).removesuffix('.__init__')}:" for parts in modules)
    own = {file.as_posix(): file_sha256(folder / file) for file in relative}
    return {**found, **own, ".feastignore": ignored.read_text() if ignored.exists() else ""}
