"""The code of this package as an archive, which executors receive with the step."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

from airflow_mlops import __version__

_ROOT = Path(__file__).parents[2]
# What only runs inside Airflow.
_LEFT_OUT = ("plugin", "cli", "scaffold")


# Spark reads the file whenever an executor starts, so the file stays until the process ends.
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@lru_cache(maxsize=1)
def write_package() -> Path:
    """Write the code of this package to a ZIP file, and return its path.

    The name of the file contains a hash of the content, because Spark refuses different files of the same name.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(_ROOT.rglob("*.py")):
            inside = path.relative_to(_ROOT)
            if inside.parts[0] not in _LEFT_OUT:
                # With a fixed time, equal code has an equal hash.
                entry = zipfile.ZipInfo(f"{_ROOT.name}/{inside.as_posix()}")
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:12]
    folder = tempfile.TemporaryDirectory(prefix="mlops-spark-")
    _FOLDERS.append(folder)
    file = Path(folder.name) / f"airflow_mlops-{__version__}-{digest}.zip"
    file.write_bytes(content.getvalue())
    return file
