"""Find the notebook or the project of a trainer."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow_mlops.core.errors import SpecError


def find(path: str, what: str) -> Path:
    """Return the absolute path of a file or folder.

    A relative path is searched like a module: in the current folder and in the folders of ``sys.path``, which include
    the folder of the DAG files.

    :param what: kind of the file, for error messages
    :raises SpecError: the file does not exist
    """
    for folder in ("", *sys.path):
        found = Path(folder, path)
        if found.exists():
            return found.resolve()
    raise SpecError(
        f"The {what} {path!r} does not exist where the step runs. Give an absolute path, or a path relative to the folder of the "
        "DAG files; for run_on=Pod, to a folder in PYTHONPATH of the image."
    )
