"""The code of this package as an archive, which executors of Spark and workers of Ray receive with the step."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import lru_cache
from pathlib import Path

from airflow_mlops import __version__
from airflow_mlops.core.temporary import lasting_folder

_ROOT = Path(__file__).parents[1]
# Modules that run only inside Airflow.
_LEFT_OUT = ("plugin", "cli", "scaffold")


@lru_cache(maxsize=1)
def package() -> bytes:
    """Return a ZIP archive with the code of this package and the files that it reads, such as templates."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(_ROOT.rglob("*")):
            inside = path.relative_to(_ROOT)
            if path.is_file() and path.suffix != ".pyc" and inside.parts[0] not in _LEFT_OUT:
                # With a fixed time, equal code has an equal hash.
                entry = zipfile.ZipInfo(f"{_ROOT.name}/{inside.as_posix()}")
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


@lru_cache(maxsize=1)
def write_package() -> Path:
    """Write the archive to a file, and return its path.

    The name of the file contains a hash of the content, because Spark refuses different files of the same name.
    """
    content = package()
    digest = hashlib.sha256(content).hexdigest()[:12]
    # Spark reads the file whenever an executor starts, so the file stays until the process ends.
    file = lasting_folder("spark") / f"airflow_mlops-{__version__}-{digest}.zip"
    file.write_bytes(content)
    return file
